"""Evaluation of rankers: each impression of a split scored, on all devices; and what impressions a run has."""

from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
import math
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
from ml_collections import ConfigDict
import numpy as np

from mlrec import click_metrics
from mlrec import metrics
from mlrec.config import CLICK_MONITORS
from mlrec.config import ConfigError
from mlrec.config import RANKING_MONITORS
from mlrec.config import SEVERAL_MONITORS
from mlrec.data import impressions as impressions_lib
from mlrec.data.impression_batches import IMPRESSIONS
from mlrec.data.impressions import Examples
from mlrec.data.impressions import Impressions
from mlrec.data.interactions import DataError
from mlrec.data.splits import Split
from mlrec.data.splits import VALID
from mlrec.data.static_shapes import round_up
from mlrec.registry import closest
from mlrec.train.evaluator import Evaluator
from mlrec.train.sharding import put
from mlrec.train.sharding import replicated
from mlrec.train.summary import Judged


def impressions_of(config: ConfigDict, split: Split, batches_of: str) -> Impressions | None:
  """What a run learns to rank from; None for one that learns from histories or interactions.

  Args:
    config: validated.
    split: the data, with the impressions that it has of its own, if any.
    batches_of: of the recommender.

  Raises:
    ConfigError: the data, or what validation is judged by, does not suit the recommender.
    DataError: there is nothing to judge by.
  """
  name, monitor = config.model.name, config.train.monitor
  ranks = batches_of == IMPRESSIONS
  if split.impressions is not None and not ranks:
    raise ConfigError(
      f"config.model.name = {name!r} learns from histories, and config.data.source = {config.data.source!r} holds "
      "impressions: name a ranker, such as 'din'"
    )
  monitors, judged = CLICK_MONITORS, "clicks"
  if not ranks:
    monitors, judged = (*RANKING_MONITORS, *(SEVERAL_MONITORS if split.several else ())), "places of targets"
  if monitor not in monitors:
    raise ConfigError(
      f"config.train.monitor = {monitor!r}: config.model.name = {name!r} is judged by {judged}; "
      f"{closest(monitor, monitors)}"
    )
  if not ranks:
    return None
  found = split.impressions
  if found is None:
    options = config.impressions
    found = impressions_lib.of_split(split, drawn=options.negatives, popularity_power=options.popularity_power)
  if VALID in found.examples:
    _check_monitor(monitor, found.examples[VALID])
  return found


def _check_monitor(monitor: str, valid: Examples) -> None:
  """Raises a DataError where validation would not be defined."""
  assert valid.labels is not None
  scores = np.zeros(len(valid))
  if math.isnan(click_metrics.auc(scores, valid.labels)):
    raise DataError(f"of {len(valid):,} impressions for validation all are clicks, or none is: there is no AUC")
  if monitor != "auc" and math.isnan(click_metrics.grouped_auc(scores, valid.labels, valid.users)):
    raise DataError(
      f"config.train.monitor = {monitor!r}: no user has both clicks and other impressions for validation; give 'auc'"
    )


class _Shown(NamedTuple):
  """`[B, L]` int32 dense ids, newest last and left-padded with 0; and `[B]`, what was shown, 0 for filler."""

  histories: np.ndarray
  targets: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ImpressionEvaluator(Evaluator):
  """Scores and metrics of a ranker on a split's validation and test impressions.

  Attributes:
    impressions: of the run.
  """

  impressions: Impressions = dataclasses.field(kw_only=True)

  def found(self, params: Any, rest: Any, name: str) -> Judged:
    """The logit of each impression of split `name`; of impressions without labels none.

    Raises:
      ScoresNotFinite: a logit is NaN or infinite.
    """
    examples = self.impressions.examples[name]
    if examples.labels is None:
      return Judged(np.empty(0, np.float32))
    table = self.item_table(params, rest)
    size, length = round_up(self.batch_size, self.mesh.size), self.layout.max_length

    def batches() -> Iterator[_Shown]:
      for first in range(0, len(examples), size):
        which = np.arange(first, min(first + size, len(examples)))
        filler = (0, size - len(which))
        histories = examples.histories(which, length).padded(length)
        yield _Shown(np.pad(histories, (filler, (0, 0))), np.pad(examples.targets[which], filler))

    def judge(shown: _Shown) -> Array:
      return self.judge(params, rest, table, *put(self.mesh, shown))

    scores = np.concatenate(list(self._found(judge, batches())))[: len(examples)]
    if not np.isfinite(scores).all():
      raise metrics.ScoresNotFinite("scores are not finite: a user state or an item vector holds NaN or infinity")
    return Judged(scores)

  def figures(self, found: Judged, name: str) -> dict[str, float]:
    """Metrics of what `found` gives of split `name`; of impressions without labels their number alone."""
    examples = self.impressions.examples[name]
    if examples.labels is None:
      return {"impressions": float(len(examples))}
    return click_metrics.all_metrics(found.scores, examples.labels, examples.users)

  @functools.cached_property
  def judge(self) -> Callable[..., Array]:
    """Compiles `(params, rest, table, histories [B, L], targets [B]) -> logits [B]`."""

    def judge(params: Any, rest: Any, table: Any, histories: Array, targets: Array) -> Array:
      model = nnx.merge(self.graphdef, params, rest, copy=True)
      return model.logits(model.read(table, histories), table[targets][:, None])[:, 0]

    return jax.jit(judge, out_shardings=replicated(self.mesh))
