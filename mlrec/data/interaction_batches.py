"""Training interactions as examples: for models of users and items that know no order.

An example is one item of a user's training row: the user, the item, and, for models that read them, the other items of
the row (those after it too, as in MicroLens's released code), or of the item's window where the row is longer than
that. What a step holds is a function of (seed, step) alone.
"""

from collections.abc import Mapping
import functools
from typing import Any
from typing import NamedTuple

import numpy as np

from mlrec.data.batches import Array
from mlrec.data.batches import log_popularity
from mlrec.data.negatives import Negatives
from mlrec.data.splits import Split
from mlrec.data.static_shapes import most
from mlrec.data.static_shapes import PLANNED_BATCHES
from mlrec.data.static_shapes import round_up
from mlrec.data.static_shapes import stacked
from mlrec.data.static_shapes import StaticSizes

# What a recommender may be trained on: users' rows in order, or their single interactions.
SEQUENCES, INTERACTIONS = "sequences", "interactions"


class InteractionBatch(NamedTuple):
  """A training batch of B interactions.

  Attributes:
    items: `[U]` int32, distinct dense item ids; column 0 is the padding item, as are filler columns.
    counts: `[U]` int32, how often an item is a target or an input in the batch; 0 on the padding and on filler.
    log_popularity: `[U]` float32, log share of the training interactions.
    users: `[B]` int32, rows of the split.
    targets: `[B]` int32, the column of each interaction's item.
    inputs: `[B, L]` int32, columns of the other items of the user's row, oldest first, left-padded with 0; L is 0 for
      models that do not read them.
    negatives: `[B, K]` int32, columns of items drawn at random of those that the user's row has not.
    weights: `[B]` float32, 1 on real examples, 0 on filler.
    content: `[U, ...]` each, what the model reads of the items beside their ids.
  """

  items: Array
  counts: Array
  log_popularity: Array
  users: Array
  targets: Array
  inputs: Array
  negatives: Array
  weights: Array
  content: Mapping[str, Array] = {}


class InteractionBatches:
  """The endless stream of batches of interactions, by step; an epoch visits each interaction once, in a new order."""

  def __init__(
    self,
    split: Split,
    *,
    batch_size: int,
    seed: int,
    inputs: bool = False,
    negatives: int = 0,
    popularity_power: float = 1.0,
    multiple_of: int = 1,
  ):
    """Plans the static sizes.

    Args:
      split: users' rows.
      batch_size: interactions in a global batch.
      seed: of order and negatives.
      inputs: whether examples come with the other items of their row.
      negatives: items drawn for each interaction, uniformly of those that the user's row has not.
      popularity_power: the exponent of the item counts in the popularity shares.
      multiple_of: what every sharded axis must be divisible by (the number of devices).

    Raises:
      ValueError: sizes that are not positive.
      DataError: a user's row has every item, and so no negative.
    """
    if batch_size < 1 or negatives < 0:
      raise ValueError(f"batch_size {batch_size} must be at least 1, and negatives {negatives} at least 0")
    rows = split.train
    self.split, self.batch_size, self.seed, self.negatives = split, batch_size, seed, negatives
    self._items, self._offsets = rows.values, rows.offsets
    self._users = np.repeat(np.arange(len(rows), dtype=np.int32), rows.lengths)
    self._width = split.max_length if inputs else 0
    self._log_popularity = log_popularity(split.train_counts, popularity_power)
    self._filled_size = round_up(batch_size, multiple_of)
    self._unwatched = Negatives(rows, split.num_items) if negatives else None
    sampled = [self._raw(step).columns for step in range(min(self.steps_per_epoch, PLANNED_BATCHES))]
    self._sizes = StaticSizes([most(sampled)], multiple_of)

  @property
  def steps_per_epoch(self) -> int:
    return steps_per_epoch(self.split, INTERACTIONS, self.batch_size)

  def batch(self, step: int) -> InteractionBatch:
    """The batch of one step, arrays in host memory."""
    raw = self._raw(step)
    return self._sized(raw, *self._sizes.holding([[raw.columns]]))

  def stack(self, first: int, count: int, size: int) -> InteractionBatch:
    """The batches of `count` steps from `first` on, on a new leading axis of `size` (zeros after the last)."""
    raws = [self._raw(first + n) for n in range(count)]
    (columns,) = self._sizes.holding([[raw.columns] for raw in raws])
    return stacked([self._sized(raw, columns) for raw in raws], size)

  def _raw(self, step: int) -> "_Raw":
    epoch, place = divmod(step, self.steps_per_epoch)
    chosen = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
    users, targets = self._users[chosen], self._items[chosen]
    inputs = self._others(chosen, users)
    negatives = np.empty((len(users), 0), np.int64)
    if self._unwatched is not None:
      negatives = self._unwatched.drawn(users, self.negatives, np.random.default_rng([self.seed, step, 1]))
    # With the padding item among them, it takes column 0.
    everything = np.concatenate([[0], targets, inputs.ravel(), negatives.ravel()])
    distinct, columns = np.unique(everything, return_inverse=True)
    _, *parts = np.split(columns.astype(np.int32), np.cumsum([1, targets.size, inputs.size]))
    return _Raw(distinct, users, parts[0], parts[1].reshape(inputs.shape), parts[2].reshape(negatives.shape))

  def _others(self, chosen: np.ndarray, users: np.ndarray) -> np.ndarray:
    """`[B, L]` item ids: the row of each chosen interaction without it, left-padded with 0; of a long row a window."""
    start, end = self._offsets[users], self._offsets[users + 1]
    if self._width:
      # Windows overlap by an item (`splits.windows`), which is of the older one; the oldest item is of the oldest one.
      newer = np.minimum(end - 1 - chosen, (end - start - 2).clip(min=0)) // self._width
      end = end - newer * self._width
    place = end[:, None] - self._width + np.arange(self._width)
    # The chosen item's slot takes the item before it, and so on back.
    place -= place <= chosen[:, None]
    return np.where(place >= start[:, None], self._items[np.maximum(place, 0)], 0)

  def _sized(self, raw: "_Raw", num_columns: int) -> InteractionBatch:
    items = np.zeros(num_columns, np.int32)
    items[: raw.columns] = raw.distinct
    counts = np.bincount(np.concatenate([raw.targets, raw.inputs.ravel()]), minlength=num_columns).astype(np.int32)
    counts[0] = 0

    def filled(array: np.ndarray, dtype: Any = np.int32) -> np.ndarray:
      out = np.zeros((self._filled_size, *array.shape[1:]), dtype)
      out[: len(array)] = array
      return out

    return InteractionBatch(
      items,
      counts,
      self._log_popularity[items],
      filled(raw.users),
      filled(raw.targets),
      filled(raw.inputs),
      filled(raw.negatives),
      filled(np.ones(len(raw.users)), np.float32),
    )

  @functools.lru_cache(maxsize=2)  # noqa: B019 - one stream lives as long as its run
  def _order(self, epoch: int) -> np.ndarray:
    return np.random.default_rng([self.seed, epoch]).permutation(len(self._items))


class _Raw(NamedTuple):
  """A batch before it is laid out in arrays of static sizes; `distinct` are its items, the padding first."""

  distinct: np.ndarray
  users: np.ndarray
  targets: np.ndarray
  inputs: np.ndarray
  negatives: np.ndarray

  @property
  def columns(self) -> int:
    return len(self.distinct)


def steps_per_epoch(split: Split, batches_of: str, batch_size: int) -> int:
  """Batches in which each of the training sequences or each training interaction comes once."""
  number = len(split.train_sequences) if batches_of == SEQUENCES else int(split.train.offsets[-1])
  return -(-number // batch_size)
