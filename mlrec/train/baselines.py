"""What a run is compared with at its end: popularity, and the same model on item IDs."""

from collections.abc import Callable
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from mlrec.config import ConfigError
from mlrec.data.splits import Split
from mlrec.models.recommenders.popularity import Popularity
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.train import fitted_run
from mlrec.train.writers import finite
from mlrec.train.writers import write_json

COMPARISON = "comparison.json"
_COLUMNS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "cold/hr@10")


def check(config: ConfigDict) -> None:
  """Nothing, if all that `config.baselines` names can be run.

  Raises:
    ConfigError: the model has no item tower that could be of IDs instead.
  """
  name = config.model.name
  if "id" in config.baselines and name in models.names(RECOMMENDER) and "item" not in models.options(name):
    raise ConfigError(
      f"config.baselines = {tuple(config.baselines)}: 'id' is the same model with item IDs in its item tower, and "
      f"config.model.name = {name!r} has no item tower; leave 'id' out"
    )


def label(config: ConfigDict) -> str:
  """What tells the run apart: its encoder or item tower, or, of a model without one, the model."""
  item = config.model.get("item", {"name": "id"} if "item" in models.options(config.model.name) else {})
  return item.get("encoder") or item.get("name") or config.model.name


def id_twin(config: ConfigDict) -> ConfigDict:
  """The same experiment on item IDs."""
  twin = config.copy_and_resolve_references()
  twin.model.item = ConfigDict({"name": "id"})
  twin.baselines = ()
  return twin


def compare(workdir: pathlib.Path, rows: dict[str, dict[str, Any]], say: Callable[[str], None]) -> None:
  """Prints test metrics side by side and keeps them in `comparison.json`.

  Args:
    workdir: of the run.
    rows: test metrics by the row's name; numbers, or mean and standard deviation over seeds.
    say: prints a line.
  """
  if jax.process_index() == 0:
    kept = {name: {key: row.get(key) for key in _COLUMNS} for name, row in rows.items()}
    write_json(workdir / COMPARISON, kept)
  width = max(map(len, rows)) + 2
  say("test".ljust(width) + "".join(column.rjust(18) for column in _COLUMNS))
  for name, row in rows.items():
    say(name.ljust(width) + "".join(_figure(row.get(column)).rjust(18) for column in _COLUMNS))


def popularity_row(split: Split) -> dict[str, float | None]:
  """Test metrics of ranking all items by their training interactions, the user's history struck."""
  return finite(fitted_run.evaluate(Popularity(split.train, split.num_items), split, "test"))


def _figure(value: Any) -> str:
  if value is None:
    return "-"
  return f"{value['mean']:.4f} ± {value['std']:.4f}" if isinstance(value, dict) else f"{value:.4f}"
