"""What a run is compared with at its end: popularity, and the same model on item IDs."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.data.impression_batches import IMPRESSIONS
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.files import finite
from mlrec.models.recommenders.popularity import Popularity
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.runs import fitted
from mlrec.runs.result import Spread

POPULARITY = "popularity"
_COLUMNS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "cold/hr@10")
# Test metrics: of a run, or mean and standard deviation over seeds.
Row = Mapping[str, float | Spread | None]


def check(config: ConfigDict) -> None:
  """Nothing, if all that `config.baselines` names can be run.

  Raises:
    ConfigError: the model has no item tower that could be of IDs instead.
  """
  name = config.model.name
  if config.baselines and name in models.names() and getattr(models.get(name), "batches_of", "") == IMPRESSIONS:
    raise ConfigError(
      f"config.baselines = {tuple(config.baselines)}: config.model.name = {name!r} is judged by clicks, and baselines "
      "by places of targets; leave them out, or compare in python -m mlrec.rerank"
    )
  if "id" in config.baselines and name in models.names(RECOMMENDER) and "item" not in models.options(name):
    raise ConfigError(
      f"config.baselines = {tuple(config.baselines)}: 'id' is the same model with item IDs in its item tower, and "
      f"config.model.name = {name!r} has no item tower; leave 'id' out"
    )


def label(config: ConfigDict) -> str:
  """What tells the run apart: its encoders or item towers, or, of a model without one, the model."""
  item = config.model.get("item", {"name": "id"} if "item" in models.options(config.model.name) else {})
  towers = item.get("towers", {"": item}).values()
  return " + ".join(tower.get("encoder") or tower.get("name") or "" for tower in towers) or config.model.name


def id_twin(config: ConfigDict) -> ConfigDict:
  """The same experiment on item IDs."""
  twin = config.copy_and_resolve_references()
  twin.model.item = ConfigDict({"name": "id"})
  twin.baselines = ()
  return twin


def popularity_row(split: Split) -> Row:
  """Test metrics of ranking all items by their training interactions, the user's history excluded."""
  model = Popularity(split.num_items)
  model.fit(split.train)
  return finite(fitted.evaluate(model, split, TEST))


def table(rows: Mapping[str, Row], *, protocol: str = LEAVE_ONE_OUT) -> dict[str, dict[str, Any]]:
  """The comparison as JSON; a protocol other than leave-one-out is named in each row."""
  said = {} if protocol == LEAVE_ONE_OUT else {"split": protocol}
  return {name: said | {column: _plain(row.get(column)) for column in _COLUMNS} for name, row in rows.items()}


def show(rows: Mapping[str, Row], say: Callable[[str], None], *, protocol: str = LEAVE_ONE_OUT) -> None:
  """Prints the rows side by side, a line each, below the protocol if that is not leave-one-out."""
  heading = TEST if protocol == LEAVE_ONE_OUT else f"{TEST}, {protocol}"
  width = max(map(len, [heading, *rows])) + 2
  say(heading.ljust(width) + "".join(column.rjust(18) for column in _COLUMNS))
  for name, row in rows.items():
    say(name.ljust(width) + "".join(_figure(row.get(column)).rjust(18) for column in _COLUMNS))


def _plain(value: float | Spread | None) -> Any:
  return vars(value) if isinstance(value, Spread) else value


def _figure(value: float | Spread | None) -> str:
  if value is None:
    return "-"
  return f"{value.mean:.4f} ± {value.std:.4f}" if isinstance(value, Spread) else f"{value:.4f}"
