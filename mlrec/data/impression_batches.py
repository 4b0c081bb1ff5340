"""Training batches of impressions. What a step holds is a function of (seed, step) alone."""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import numpy as np

from mlrec.data.batches import Array
from mlrec.data.impressions import Impressions
from mlrec.data.static_shapes import most
from mlrec.data.static_shapes import PLANNED_BATCHES
from mlrec.data.static_shapes import round_up
from mlrec.data.static_shapes import stacked
from mlrec.data.static_shapes import StaticSizes

# What a recommender may be trained on, beside rows and single interactions.
IMPRESSIONS = "impressions"


class ImpressionBatch(NamedTuple):
  """A training batch: B histories, after each of which K items are shown.

  Attributes:
    items: `[U]` int32, distinct dense item ids; column 0 is the padding item, as are filler columns.
    inputs: `[B, L]` int32, columns of the items before, oldest first, left-padded with 0.
    targets: `[B, K]` int32, the column of each item shown.
    labels: `[B, K]` float32, 1 for a click, 0 for none.
    weights: `[B]` float32, 1 on real rows, 0 on filler.
    content: `[U, ...]` each, what the model reads of the items beside their ids.
  """

  items: Array
  inputs: Array
  targets: Array
  labels: Array
  weights: Array
  content: Mapping[str, Array] = {}


class ImpressionBatches:
  """The endless stream of batches, by step; an epoch visits each training impression once, in a new order."""

  def __init__(self, impressions: Impressions, *, max_length: int, batch_size: int, seed: int, multiple_of: int = 1):
    """Plans the static sizes.

    Args:
      impressions: what is learned from; where items are drawn beside each example, K is one more than those, else 1.
      max_length: L, items of a history.
      batch_size: training examples in a global batch, what is drawn beside them not counted.
      seed: of order and draws.
      multiple_of: what every sharded axis must be divisible by (the number of devices).
    """
    self.impressions, self.batch_size, self.seed = impressions, batch_size, seed
    self._length = max_length
    self._filled_size = round_up(batch_size, multiple_of)
    sampled = [len(self._raw(step).distinct) for step in range(min(self.steps_per_epoch, PLANNED_BATCHES))]
    self._sizes = StaticSizes([most(sampled)], multiple_of)

  @property
  def steps_per_epoch(self) -> int:
    return -(-len(self.impressions.train) // self.batch_size)

  def batch(self, step: int) -> ImpressionBatch:
    """The batch of one step, arrays in host memory."""
    raw = self._raw(step)
    return self._sized(raw, *self._sizes.holding([[len(raw.distinct)]]))

  def stack(self, first: int, count: int, size: int) -> ImpressionBatch:
    """The batches of `count` steps from `first` on, on a new leading axis of `size` (zeros after the last)."""
    raws = [self._raw(first + n) for n in range(count)]
    (columns,) = self._sizes.holding([[len(raw.distinct)] for raw in raws])
    return stacked([self._sized(raw, columns) for raw in raws], size)

  def _raw(self, step: int) -> "_Raw":
    epoch, place = divmod(step, self.steps_per_epoch)
    chosen = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
    train, drawn = self.impressions.train, self.impressions.drawn
    assert train.labels is not None
    inputs = train.histories(chosen, self._length).padded(self._length)
    targets, labels = train.targets[chosen, None], train.labels[chosen, None]
    if self.impressions.negatives is not None:
      rng = np.random.default_rng([self.seed, step, 1])
      targets = np.concatenate([targets, self.impressions.negatives.drawn(train.users[chosen], drawn, rng)], axis=1)
      labels = np.pad(labels, ((0, 0), (0, drawn)))
    # With the padding item among them, it takes column 0.
    distinct, columns = np.unique(np.concatenate([[0], inputs.ravel(), targets.ravel()]), return_inverse=True)
    _, *parts = np.split(columns, [1, 1 + inputs.size])
    return _Raw(distinct, parts[0].reshape(inputs.shape), parts[1].reshape(targets.shape), labels)

  def _sized(self, raw: "_Raw", num_columns: int) -> ImpressionBatch:
    def filled(array: np.ndarray, dtype: type) -> np.ndarray:
      out = np.zeros((self._filled_size, *array.shape[1:]), dtype)
      out[: len(array)] = array
      return out

    items = np.zeros(num_columns, np.int32)
    items[: len(raw.distinct)] = raw.distinct
    return ImpressionBatch(
      items,
      filled(raw.inputs, np.int32),
      filled(raw.targets, np.int32),
      filled(raw.labels, np.float32),
      filled(np.ones(len(raw.labels)), np.float32),
    )

  @functools.lru_cache(maxsize=2)  # noqa: B019 - one stream lives as long as its run
  def _order(self, epoch: int) -> np.ndarray:
    return np.random.default_rng([self.seed, epoch]).permutation(len(self.impressions.train))


class _Raw(NamedTuple):
  """A batch before it is laid out in arrays of static sizes; `distinct` are its items, the padding first."""

  distinct: np.ndarray
  inputs: np.ndarray
  targets: np.ndarray
  labels: np.ndarray
