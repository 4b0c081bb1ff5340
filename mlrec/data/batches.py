"""Batches for training and evaluation, built by vectorised NumPy from rows in memory.

A batch holds each of its distinct items once, and says of every slot where its item is found. Histories are packed:
several users share a dense row and are told apart by a segment, unless the user encoder reads the padding, in which
case each user has a left-padded row. What a step holds is a function of (seed, step) alone, so any process can build
any batch, and a run resumes on another number of hosts.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any
from typing import NamedTuple

from absl import logging
import numpy as np

from mlrec.data.interactions import Rows
from mlrec.data.packing import pack
from mlrec.data.permutation import KeyedPermutation
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.data.static_shapes import most
from mlrec.data.static_shapes import PLANNED_BATCHES
from mlrec.data.static_shapes import round_up
from mlrec.data.static_shapes import stacked
from mlrec.data.static_shapes import StaticSizes

# Width of packed rows that serves most: wide enough to fill well, narrow enough for cheap attention.
_ROW_WIDTH = 16
# Rows of an epoch that are put in order at once; of more, so many at a time, drawn by lot from all.
_ORDERED_WHOLE = 1 << 20
_ORDERED = 1 << 16
# Standard deviations left for what varies from part to part of batches, and of how many that is found.
_SPREAD_OF_PARTS, _PARTS_LOOKED_AT = 6.0, 128
# Of the permutation that draws them.
_LOT = 0x9A57
# Batches of an evaluation of which each is looked at for the rows that it needs.
_EVAL_LOOKED_AT = 1024
# Users whose rows are read before what came with them is released: some 200 KB for each.
_USERS_A_RELEASE = 1 << 11
# A NumPy array on the host; a JAX array once it is on devices.
Array = Any


class History(NamedTuple):
  """Rows of histories as a user encoder reads them.

  Attributes:
    tokens: `[R, W]` int32, the column of `items` (training) or the item (evaluation) at each place; 0 on padding.
    positions: `[R, W]` int32, the place in the user's left-padded row, 0 to max_length - 1.
    segments: `[R, W]` int32, tells the users of a row apart; 0 on padding.
  """

  tokens: Array
  positions: Array
  segments: Array


class Batch(NamedTuple):
  """A training batch of B users, or windows of users' rows, in G groups that see only their own negatives.

  Of a batch that is made in parts each part is such a batch, and all arrays have an axis of parts in front.

  Attributes:
    items: `[U]` int32, distinct dense item ids; column 0 is the padding item, as are filler columns.
    counts: `[G, U]` int32, the slots of each group that hold the item; 0 on the padding and on filler.
    log_popularity: `[U]` float32, log share of the training interactions.
    slots: `[B, S]` int32, the column of each item of each user's row, left-padded with 0.
    history: the inputs, of which row r belongs to group r // (R / G).
    targets: `[R, W]` int32, the column of the item that follows.
    users: `[R, W]` int32, the row of `slots` that each place belongs to.
    weights: `[R, W]` float32, 1 on real places, 0 on padding.
    negatives: `[K]` int32, columns of items drawn at random for the whole batch.
    content: `[U, ...]` each, what the item tower reads of the items beside their ids.
  """

  items: Array
  counts: Array
  log_popularity: Array
  slots: Array
  history: History
  targets: Array
  users: Array
  weights: Array
  negatives: Array = np.zeros(0, np.int32)
  content: Mapping[str, Array] = {}


class EvalBatch(NamedTuple):
  """Users to be ranked.

  Attributes:
    history: the inputs, tokens being dense item ids.
    last: `[B]` int32, the flat place in `history` of each user's newest item.
    targets: `[B]` int32; 1 for filler users.
    seen: `[B, H]` int32, items excluded from the ranking; 0 is filler.
    users: `[B]` int32, the users' rows in the split; 0 for filler users.
  """

  history: History
  last: Array
  targets: Array
  seen: Array
  users: Array


@dataclasses.dataclass(frozen=True)
class Layout:
  """How histories are laid out in rows.

  Attributes:
    max_length: the number of items a model reads.
    packed: users share rows; otherwise each has one of `max_length`.
    width: length of a packed row.
  """

  max_length: int
  packed: bool
  width: int

  @classmethod
  def of(cls, max_length: int, *, packed: bool) -> "Layout":
    """A layout whose packed rows fill well."""
    return cls(max_length, packed, max(_ROW_WIDTH, max_length) if packed else max_length)

  def place(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Row and first place of each history, and the number of rows."""
    if self.packed:
      return pack(lengths, self.width)
    return np.arange(len(lengths)), self.width - lengths, len(lengths)


def _spread(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """For histories end to end: which one each item belongs to, and its place there from 0."""
  which = np.repeat(np.arange(len(lengths)), lengths)
  return which, np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


class TrainBatches:
  """The endless stream of training batches, by step.

  Each epoch visits every row of `split.train_sequences` once, in a new order: every user, or every window of a user who
  has several, which is taken for a user of its own. Its batches are alike in size and in the lengths of their rows:
  users are drawn by lot within strata of neighbouring lengths, one of each stratum to a batch, so that arrays of
  static size are filled as well by one batch as by another. Of an epoch of more than a million rows this holds of
  blocks of its batches: their rows are drawn from all by a permutation that is never written down, so that neither
  time nor memory of a batch grows with the number of users.
  """

  def __init__(
    self,
    split: Split,
    layout: Layout,
    *,
    batch_size: int,
    seed: int,
    negative_groups: int = 1,
    negatives: int = 0,
    negatives_by_popularity: bool = False,
    popularity_power: float = 1.0,
    multiple_of: int = 1,
    parts: int = 1,
  ):
    """Plans the static sizes.

    Args:
      split: users' rows.
      layout: how histories are laid out.
      batch_size: users in a global batch.
      seed: of the order of users.
      negative_groups: groups that see only their own negatives; divides the batch size.
      negatives: items drawn for each batch, or each part of one, each for itself.
      negatives_by_popularity: whether by their popularity shares, not uniformly.
      popularity_power: the exponent of the item counts in the popularity shares.
      multiple_of: what every sharded axis must be divisible by (the number of devices); of parts that is theirs alone.
      parts: that a batch is made in, each of users and items of its own, which are groups of their own: they divide
        `negative_groups`, unless that is 1. All parts of all batches have one size. The last users of one that does not
        fit, of which there is hardly any, are left out of that epoch.

    Raises:
      ValueError: sizes that do not divide, or are not positive.
    """
    if batch_size < 1 or negative_groups < 1 or batch_size % negative_groups:
      raise ValueError(f"batch_size {batch_size} must be a positive multiple of negative_groups {negative_groups}")
    if parts < 1 or batch_size % parts or (negative_groups > 1 and negative_groups % parts):
      raise ValueError(
        f"batch_size {batch_size} and negative_groups {negative_groups} must be multiples of parts {parts}"
      )
    self.split, self.layout, self.batch_size, self.seed = split, layout, batch_size, seed
    self.parts, self._negatives = parts, negatives
    self._groups = max(negative_groups // parts, 1)
    self._rows, self._unreleased = split.train_sequences, 0
    self._log_popularity = log_popularity(split.train_counts, popularity_power)
    # Up to which share of all each item reaches, the padding's 0 first.
    self._reach: np.ndarray | None = None
    if negatives_by_popularity:
      self._reach = np.cumsum(popularity_shares(split.train_counts, popularity_power))
    self._users = round_up(batch_size // parts, 1 if parts > 1 else math.lcm(multiple_of, negative_groups))
    planned = np.arange(min(self.steps_per_epoch, PLANNED_BATCHES))
    if self._blocks > 1:
      planned = planned * self.steps_per_epoch // len(planned)
    if parts > 1:
      self._fixed = self._size_of_parts()
      return
    columns, rows = np.transpose([self._raw(int(step)).sizes for step in planned])
    # Within a block batches have about as many rows each.
    self._sizes = StaticSizes([most(columns), most(rows) if self._blocks > 1 else rows.max()], multiple_of)

  @property
  def steps_per_epoch(self) -> int:
    return -(-len(self._rows) // self.batch_size)

  def batch(self, step: int, parts: Sequence[int] | None = None) -> Batch:
    """The batch of one step, arrays in host memory; of one that is made in parts those of the numbers, or all."""
    if self.parts == 1:
      raw = self._raw(step)
      return self._sized(raw, self._sizes.holding([raw.sizes]))
    numbers = range(self.parts) if parts is None else parts
    return stacked([self._sized(self._fitting(step, part), self._fixed) for part in numbers], len(numbers))

  def stack(self, first: int, count: int, size: int, parts: Sequence[int] | None = None) -> Batch:
    """The batches of `count` steps from `first` on, on a new leading axis of `size` (zeros after the last)."""
    steps = range(first, first + count)
    if self.parts > 1:
      return stacked([self.batch(step, parts) for step in steps], size)
    raws = [self._raw(step) for step in steps]
    sizes = self._sizes.holding([raw.sizes for raw in raws])
    return stacked([self._sized(raw, sizes) for raw in raws], size)

  def _size_of_parts(self) -> tuple[int, int]:
    """The columns and rows of each part, by the sizes of some: all processes must know them, none of which has all."""
    number = self.steps_per_epoch * self.parts
    # By lot: neighbours are alike.
    looked_at = KeyedPermutation(number, (_LOT,))(np.arange(min(number, _PARTS_LOOKED_AT))).tolist()
    columns, rows = np.transpose([self._raw(*divmod(one, self.parts)).sizes for one in looked_at])
    least = 2 + self.layout.max_length + self._negatives, 1
    there = self.split.num_items + 1, self._users
    found = (max(math.ceil(most(sizes, spread=_SPREAD_OF_PARTS)), int(sizes.max())) for sizes in (columns, rows))
    num_columns, num_rows = (min(max(size, low), high) for size, low, high in zip(found, least, there))
    return num_columns, num_rows

  def _fitting(self, step: int, part: int) -> "_Raw":
    """A part of a batch, of as many of its users as fit."""
    users = self._users_of(step)[part :: self.parts]
    raw = self._raw_of(users, step, part)
    while raw.sizes[0] > self._fixed[0] or raw.sizes[1] > self._fixed[1]:
      logging.log_first_n(
        logging.WARNING, "Step %d: a part of the batch has no room for all of its users; the last is left out.", 1, step
      )  # fmt: skip
      users = users[:-1]
      raw = self._raw_of(users, step, part)
    return raw

  def _raw(self, step: int, part: int = 0) -> "_Raw":
    return self._raw_of(self._users_of(step)[part :: self.parts], step, part)

  def _raw_of(self, users: np.ndarray, step: int, part: int) -> "_Raw":
    rows = self._rows.take(users)
    # Pages that were read come with their neighbours: those of some hundred batches would fill memory. But to have them
    # leave, and come again, takes longer than the rest of a batch of a hundred users.
    self._unreleased += len(users)
    if self._unreleased >= _USERS_A_RELEASE:
      self._unreleased = 0
      self.split.release()
    negatives = self._drawn(np.random.default_rng([self.seed, step, 1, *([part] if part else [])]))
    distinct, columns = np.unique(np.concatenate([rows.values, negatives]), return_inverse=True)
    columns = (columns + 1).astype(np.int32)
    slots, drawn = Rows(columns[: len(rows.values)], rows.offsets), columns[len(rows.values) :]
    groups = np.arange(len(users)) % self._groups
    lengths = slots.lengths - 1
    row, start = np.empty(len(users), np.int64), np.empty(len(users), np.int64)
    num_rows = 0
    for group in range(self._groups):
      inside = groups == group
      row[inside], start[inside], rows_here = self.layout.place(lengths[inside])
      num_rows = max(num_rows, rows_here)
    return _Raw(distinct, slots, drawn, groups, row, start, (len(distinct) + 1, num_rows))

  def _drawn(self, rng: np.random.Generator) -> np.ndarray:
    if self._reach is None:
      return rng.integers(1, self.split.num_items + 1, self._negatives)
    return np.searchsorted(self._reach, rng.random(self._negatives) * self._reach[-1], side="right")

  def _sized(self, raw: "_Raw", sizes: tuple[int, ...]) -> Batch:
    num_columns, num_rows = sizes
    groups, width, length = self._groups, self.layout.width, self.layout.max_length
    items = np.zeros(num_columns, np.int32)
    items[1 : len(raw.distinct) + 1] = raw.distinct
    slot_group = np.repeat(raw.groups, raw.columns.lengths)
    counts = np.bincount(slot_group * num_columns + raw.columns.values, minlength=groups * num_columns)
    slots = np.zeros((self._users, length + 1), np.int32)
    slots[: len(raw.columns)] = raw.columns.padded(length + 1)
    inputs = raw.columns.last(length, before=1)
    followers = raw.columns.without_first()
    lengths = inputs.lengths
    which, place = _spread(lengths)
    flat = (raw.groups * num_rows + raw.row)[which] * width + raw.start[which] + place

    def laid_out(values: np.ndarray | float, dtype: Any = np.int32) -> np.ndarray:
      out = np.zeros(groups * num_rows * width, dtype)
      out[flat] = values
      return out.reshape(-1, width)

    positions = laid_out(length - lengths[which] + place)
    if not self.layout.packed:
      positions[:] = np.arange(width)
    # A row's segments need only differ from one another: the place where a history starts tells them apart.
    segments = laid_out(raw.start[which] + 1)
    history = History(laid_out(inputs.values), positions, segments)
    return Batch(
      items,
      counts.reshape(groups, num_columns).astype(np.int32),
      self._log_popularity[items],
      slots,
      history,
      laid_out(followers.values),
      laid_out(which),
      laid_out(1.0, np.float32),
      raw.drawn,
    )

  @property
  def _blocks(self) -> int:
    """In how many blocks the batches of an epoch are made."""
    return 1 if len(self._rows) <= _ORDERED_WHOLE else min(-(-len(self._rows) // _ORDERED), self.steps_per_epoch)

  def _users_of(self, step: int) -> np.ndarray:
    """The rows of the batch of a step."""
    epoch, place = divmod(step, self.steps_per_epoch)
    block = ((place + 1) * self._blocks - 1) // self.steps_per_epoch
    first, end = (number * self.steps_per_epoch // self._blocks for number in (block, block + 1))
    return self._order(epoch, first, end)[place - first :: end - first]

  @functools.lru_cache(maxsize=4)  # noqa: B019 - one stream lives as long as its run
  def _order(self, epoch: int, first: int, end: int) -> np.ndarray:
    """The rows of batches `first` to `end` - 1 of the epoch: each has every (`end` - `first`)-th, from its place on."""
    if self._blocks == 1:
      order = np.random.default_rng([self.seed, epoch]).permutation(len(self._rows))
    else:
      start, stop = (place * len(self._rows) // self.steps_per_epoch for place in (first, end))
      order = KeyedPermutation(len(self._rows), (self.seed, epoch, 1))(np.arange(start, stop))
    return order[np.argsort(self._rows.lengths_of(order), kind="stable")]


class _Raw(NamedTuple):
  """A batch before it is laid out in arrays of static sizes; `sizes` are the columns and rows (a group) it needs."""

  distinct: np.ndarray
  columns: Rows
  drawn: np.ndarray
  groups: np.ndarray
  row: np.ndarray
  start: np.ndarray
  sizes: tuple[int, int]


def log_popularity(counts: np.ndarray, power: float = 1.0) -> np.ndarray:
  """Log of each item's share of `counts [N + 1]` raised to `power`, float32; 0 for the padding, -inf for count 0.

  With a negative power counting starts from 1, as in MicroLens's code.
  """
  with np.errstate(divide="ignore"):
    out = np.log(popularity_shares(counts, power))
  out[0] = 0
  return out.astype(np.float32)


def popularity_shares(counts: np.ndarray, power: float = 1.0) -> np.ndarray:
  """Each item's share of `counts [N + 1]` raised to `power`, as `log_popularity` says; float64, 0 for the padding."""
  counts = counts.astype(np.float64)
  raised = (counts + 1) ** power if power < 0 else np.where(counts > 0, counts**power, 0)
  raised[0] = 0
  return raised / max(raised.sum(), 1e-300)


def eval_batches(
  split: Split, name: str, layout: Layout, *, batch_size: int, multiple_of: int = 1, users: np.ndarray | None = None
) -> Iterator[EvalBatch]:
  """All users that are evaluated (or those named) once a target, in order, in batches of one static shape.

  The last one is filled with no-one.

  Args:
    split: users' rows.
    name: `valid` or `test`.
    layout: how histories are laid out.
    batch_size: users in a batch, rounded up to `multiple_of`.
    multiple_of: what sharded axes must be divisible by.
    users: `[n]` row numbers of the users wanted, of those that are evaluated.
  """
  batch_size = round_up(batch_size, multiple_of)
  which = split.which(name) if users is None else None
  parts = _parts(split.evaluated(name) if users is None else users, batch_size)
  targets = [None] * len(parts) if which is None else _parts(which, batch_size)
  planned = [(name, part) for part in parts]
  if users is None:
    # Rows that are enough for the test serve validation too, compiled once.
    planned += [(TEST, part) for part in _parts(split.evaluated(TEST), batch_size)]
  sizes = _eval_sizes(split, layout, planned, multiple_of)
  for part, of_part in zip(parts, targets):
    inputs, seen = split.inputs(name, part), split.seen(name, part).padded(split.most_seen)
    split.release()
    (num_rows,) = sizes.holding([[layout.place(inputs.lengths)[2]]])
    history, last = laid_out(inputs, layout, num_rows)
    yield EvalBatch(
      history, _filled(last, batch_size), _filled(split.targets(name, part, of_part), batch_size, 1),
      _filled(seen, batch_size), _filled(part, batch_size),
    )  # fmt: skip


def _eval_sizes(split: Split, layout: Layout, parts: list[tuple[str, np.ndarray]], multiple_of: int) -> StaticSizes:
  """The rows that hold the histories of each of `parts`, each of a split's users; of many, what hardly one passes."""
  looked_at = parts if len(parts) <= _EVAL_LOOKED_AT else parts[:: -(-len(parts) // PLANNED_BATCHES)]
  rows = [layout.place(split.inputs(name, users).lengths)[2] for name, users in looked_at]
  return StaticSizes([max(rows) if len(looked_at) == len(parts) else most(rows)], multiple_of)


def laid_out(histories: Rows, layout: Layout, num_rows: int) -> tuple[History, np.ndarray]:
  """Histories of at least an item, of at most `layout.max_length`, as a user encoder reads them.

  Returns:
    The rows, `num_rows` of them, of which some may be empty; and `[len(histories)]`, the flat place of each one's
    newest item.
  """
  lengths = histories.lengths
  row, start, _ = layout.place(lengths)
  which, place = _spread(lengths)
  flat = row[which] * layout.width + start[which] + place

  def in_rows(values: np.ndarray) -> np.ndarray:
    out = np.zeros(num_rows * layout.width, np.int32)
    out[flat] = values
    return out.reshape(num_rows, layout.width)

  positions = in_rows(layout.max_length - lengths[which] + place)
  if not layout.packed:
    positions[:] = np.arange(layout.width)
  return History(
    in_rows(histories.values), positions, in_rows(start[which] + 1)
  ), row * layout.width + start + lengths - 1


def _parts(users: np.ndarray, size: int) -> list[np.ndarray]:
  """The users, so many at a time."""
  return [users[at : at + size] for at in range(0, len(users), size)]


def _filled(array: np.ndarray, size: int, filler: int = 0) -> np.ndarray:
  out = np.full((size, *array.shape[1:]), filler, np.int32)
  out[: len(array)] = array
  return out
