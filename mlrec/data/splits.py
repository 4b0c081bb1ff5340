"""Leave-one-out: the last item of a user is the test target, the one before it the validation target.

The protocol of MicroLens (arXiv 2309.15379, section 4.1, and its released code): users with fewer than `min_length`
items are dropped, the last `max_length + 3` items of the others are kept, and items are numbered again in the order of
their original ids.
"""

import dataclasses
import functools
import hashlib

from absl import logging
import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import first_and_last
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.data.names import Names

TRAIN, VALID, TEST = "train", "valid", "test"
# The splits that have targets, which a run evaluates at its end.
EVALUATED = (VALID, TEST)
# How many of a user's last items a split hides, its target included.
_HIDDEN = {VALID: 2, TEST: 1}

# Below it, what a split keeps of the interactions is probably not what was meant.
_SMALL_SHARE = 0.5
# Some do watch a video again; a log that holds each line twice has all of them do so.
_MANY_AGAIN = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Users' kept histories under dense ids: items 1 to `num_items`, 0 for padding.

  Attributes:
    users: `[num_users]` int64, original ids in file order.
    rows: each user's last `max_length + 3` items (int32 dense ids), oldest first.
    item_ids: `[num_items + 1]` int64, the original id of each dense id; entry 0 is 0, the padding.
    max_length: the number of items a model reads.
    num_skipped: users dropped for having too few items.
    cold: `[C]` int64, ascending, the dense ids that are taken out of training by force (`mlrec.data.cold_start`).
    user_names: of users whose original ids are texts; None where they are integers.
    item_names: likewise.
  """

  users: np.ndarray
  rows: Rows
  item_ids: np.ndarray
  max_length: int
  num_skipped: int = 0
  cold: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
  user_names: Names | None = None
  item_names: Names | None = None

  @property
  def num_users(self) -> int:
    return len(self.rows)

  @property
  def num_items(self) -> int:
    """Items that exist, padding not counted."""
    return len(self.item_ids) - 1

  @functools.cached_property
  def train(self) -> Rows:
    """The training rows, of which every item after the first is a target: users' items but the last two and `cold`."""
    rows = self.rows.last(self.max_length + 1, before=2)
    return rows.where(~np.isin(rows.values, self.cold)) if len(self.cold) else rows

  def inputs(self, split: str) -> Rows:
    """What a model reads before it predicts: at most `max_length` items, oldest first.

    For `train` these are the items before the row's last one; the test input contains the validation target.
    """
    before = 1 if split == TRAIN else _hidden(split)
    rows = self.train if split == TRAIN else self.rows
    return rows.last(self.max_length, before=before)

  def seen(self, split: str) -> Rows:
    """The items excluded from a user's ranking: everything kept of the history before the target."""
    return self.rows.last(self.max_length + 2, before=_hidden(split))

  def targets(self, split: str) -> np.ndarray:
    """`[num_users]` int32, the one item to be ranked."""
    return self.rows.values[self.rows.offsets[1:] - _hidden(split)]

  @functools.cached_property
  def train_counts(self) -> np.ndarray:
    """`[num_items + 1]` int64: how often each item occurs in the training rows (0 for padding)."""
    return np.bincount(self.train.values, minlength=self.num_items + 1)

  @functools.cached_property
  def popularity(self) -> np.ndarray:
    """`[num_items + 1]` float64: each item's share of the training interactions; 1 for the padding (its log is 0)."""
    share = self.train_counts / max(int(self.train_counts.sum()), 1)
    share[0] = 1.0
    return share

  @functools.cached_property
  def fingerprint(self) -> str:
    """Twelve hexadecimal digits of the content: users, rows, items, which are cold, and the protocol's lengths."""
    digest = hashlib.sha256(str(self.max_length).encode())
    for array in (self.users, self.rows.values, self.rows.offsets, self.item_ids, self.cold):
      digest.update(array.astype(np.int64).tobytes())
    return digest.hexdigest()[:12]

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Split):
      return NotImplemented
    return (
      np.array_equal(self.users, other.users)
      and self.rows == other.rows
      and np.array_equal(self.item_ids, other.item_ids)
      and np.array_equal(self.cold, other.cold)
      and self.max_length == other.max_length
    )


def leave_one_out(interactions: Interactions, *, max_length: int = 10, min_length: int = 5) -> Split:
  """Splits interactions as the MicroLens benchmark does.

  Args:
    interactions: histories under original ids.
    max_length: the number of items a model reads; the last `max_length + 3` items of a user are kept.
    min_length: users with fewer items are dropped, counted and reported.

  Raises:
    DataError: `max_length` or `min_length` is too small, or no user is left.
  """
  if max_length < 1:
    raise DataError(f"max_length must be at least 1, not {max_length}")
  if min_length < 3:
    raise DataError(f"min_length must be at least 3 (one item each to train, validate and test), not {min_length}")
  long_enough = interactions.lines.lengths >= min_length
  line_users = interactions.line_users[long_enough]
  if not line_users.size:
    raise DataError(f"{interactions.source}: none of {len(interactions.users)} users has {min_length} items")
  lines = interactions.lines.take(long_enough).last(max_length + 3)
  # A line that a later one of the same user replaces still counts for which items exist.
  distinct = np.unique(lines.values)
  item_ids = np.concatenate([[0], distinct])
  first, last = first_and_last(line_users)
  kept = lines.take(last)
  rows = Rows((np.searchsorted(distinct, kept.values) + 1).astype(np.int32), kept.offsets)
  skipped = len(interactions.users) - len(first)
  if skipped:
    logging.warning(
      "%s: skipped %d of %d users, who have fewer than %d items.",
      interactions.source, skipped, len(interactions.users), min_length,
    )  # fmt: skip
  whole = int(interactions.lines.lengths[long_enough][last].sum())
  if len(kept.values) < _SMALL_SHARE * whole:
    logging.warning(
      "%s: data.max_length=%d keeps the last %d items of a user, %.0f %% of all interactions; a larger one keeps more.",
      interactions.source, max_length, max_length + 3, 100 * len(kept.values) / whole,
    )  # fmt: skip
  again = int(_watched_before(rows).sum())
  if again > _MANY_AGAIN * len(rows):
    logging.warning(
      "%s: the last item of %d of %d users is one that they had watched before; ranking leaves out what was watched: "
      "it cannot be found. Are there lines twice?",
      interactions.source, again, len(rows),
    )  # fmt: skip
  return Split(
    line_users[first], rows, item_ids, max_length, skipped, user_names=interactions.user_names,
    item_names=interactions.item_names,
  )  # fmt: skip


def _watched_before(rows: Rows) -> np.ndarray:
  """`[users]` bool: whether the last item of a row occurs in it before."""
  last = np.repeat(rows.values[rows.offsets[1:] - 1], rows.lengths)
  return np.add.reduceat((rows.values == last).astype(np.int64), rows.offsets[:-1]) > 1


def _hidden(split: str) -> int:
  if split not in _HIDDEN:
    raise ValueError(f"unknown split {split!r}: expected one of {list(_HIDDEN)}")
  return _HIDDEN[split]
