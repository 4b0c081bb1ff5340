"""Users' histories under dense ids, and where they are cut: what training sees, and what is to be predicted.

A protocol (`mlrec.data.protocols`) makes a split of interactions; all else reads of it what this module says.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import pathlib
from typing import NamedTuple
from typing import Self
from typing import TYPE_CHECKING

import numpy as np

from mlrec import mapped
from mlrec.data.interactions import CutRows
from mlrec.data.interactions import Rows
from mlrec.data.names import Names
from mlrec.data.permutation import KeyedPermutation

if TYPE_CHECKING:
  from mlrec.data.impressions import Impressions

TRAIN, VALID, TEST = "train", "valid", "test"
# The splits that have targets, which a run evaluates at its end.
EVALUATED = (VALID, TEST)
LEAVE_ONE_OUT = "leave_one_out"
# The key of the lot that samples users.
_SAMPLE = 2309_15379


class Cuts(NamedTuple):
  """Where users' rows are cut.

  Attributes:
    train: `[num_users]` integers, how many of the first items of each row training sees.
    targets: by the name of a split that is evaluated, `[num_users]` integers: the place in the row of the item to be
      predicted, after which nothing is read; -1 for users who are not evaluated.
    moments: of a split by time, by the same names, when targets begin; ISO 8601 in UTC, or the number in the log where
      that is no time.
    numbers: of a protocol with several targets a user, by the same names, `[num_users]` integers: how many items are to
      be predicted, from the place in `targets` on. What is read before is then, for each of them, what training sees.
  """

  train: np.ndarray
  targets: Mapping[str, np.ndarray]
  moments: Mapping[str, str] = {}
  numbers: Mapping[str, np.ndarray] = {}

  def take(self, users: np.ndarray) -> "Cuts":
    """Those of the named `users` (indices or a mask)."""
    targets, numbers = ({name: of[users] for name, of in one.items()} for one in (self.targets, self.numbers))
    return self._replace(train=self.train[users], targets=targets, numbers=numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Users' kept histories under dense ids: items 1 to `num_items`, 0 for padding.

  Attributes:
    users: `[num_users]` int64, original ids in file order.
    rows: each user's kept items (int32 dense ids), oldest first, targets among them.
    item_ids: `[num_items + 1]` int64, the original id of each dense id; entry 0 is 0, the padding.
    max_length: the number of items a model reads.
    cuts: where the rows are cut.
    num_skipped: users dropped for having too few items.
    cold: `[C]` int64, ascending, the dense ids that are taken out of training by force (`mlrec.data.cold_start`).
    user_names: of users whose original ids are texts; None where they are integers.
    item_names: likewise.
    protocol: as `config.data.split` names it.
    train_windows: how many windows of `max_length + 1` items training sees of a row, from the newest back; 0 for all.
    num_new: the last so many items are ones that training did not know of (`mlrec.inference`).
    sampled: of how many users an evaluation is, drawn by lot from those who have a target; 0 for all of them.
    item_fields: what is known of items by category, by name: `[num_items + 1]` or, where an item may have several,
      `[num_items + 1, T]` int32; 0 is none.
    impressions: what was shown and clicked, where the data says so; users' rows are then what is known of them last.
    mapped_from: the file that its arrays are mapped from (`mlrec.data.kept_split`); None where they are in memory.
  """

  users: np.ndarray
  rows: Rows
  item_ids: np.ndarray
  max_length: int
  cuts: Cuts
  num_skipped: int = 0
  cold: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
  user_names: Names | None = None
  item_names: Names | None = None
  protocol: str = LEAVE_ONE_OUT
  train_windows: int = 1
  num_new: int = 0
  sampled: int = 0
  item_fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  impressions: "Impressions | None" = None
  # Another split that is made of it is not that of the file.
  mapped_from: pathlib.Path | None = dataclasses.field(default=None, init=False)

  @property
  def num_users(self) -> int:
    return len(self.rows)

  @property
  def num_items(self) -> int:
    """Items that exist, padding not counted."""
    return len(self.item_ids) - 1

  @property
  def known_ids(self) -> np.ndarray:
    """`[num_items + 1 - num_new]`: `item_ids` of the items that training knew of."""
    return self.item_ids[: len(self.item_ids) - self.num_new]

  @functools.cached_property
  def train(self) -> Rows:
    """The training rows, a row a user: what training sees of it, without `cold`; empty for users it does not see."""
    rows = self._train_rows.take(np.arange(len(self.rows)))
    return self._without_cold(rows)

  @functools.cached_property
  def trained(self) -> np.ndarray:
    """`[num_users]` bool: the users of whom training sees something."""
    return self.train.lengths > 0 if len(self.cold) else self.cuts.train > 0

  @functools.cached_property
  def train_sequences(self) -> Rows | CutRows:
    """What models of sequences learn from: rows of `max_length + 1` items at most, each after the first a target.

    A training row that is longer is cut into windows that share an item with their neighbours (`windows`), so that each
    item but the first of all is a target once. A row without a target is left out; but leave-one-out has a row for each
    user in any case, as in MicroLens's code.
    """
    if self.protocol == LEAVE_ONE_OUT and self.train_windows == 1:
      # Not copied: there may be more than memory holds.
      return self.train if len(self.cold) else self._train_rows
    return windows(self.train if len(self.cold) else self._train_rows, self.max_length)

  @property
  def several(self) -> bool:
    """Whether a user may have several targets."""
    return bool(self.cuts.numbers)

  def evaluated(self, split: str) -> np.ndarray:
    """`[E]` int64, ascending: the row of the user of each target of `split` that is to be predicted.

    Where users have several targets, a row is there once for each of them, in the order of `targets`.
    """
    places = self._places(split)
    if not self.sampled:
      users = np.flatnonzero(places >= 0)
    else:
      if split not in self._samples:
        self._samples[split] = _sample(places, self.sampled)
      users = self._samples[split]
    return np.repeat(users, self.cuts.numbers[split][users]) if self.several else users

  def which(self, split: str) -> np.ndarray | None:
    """`[E]` int64, beside `evaluated`: the number, from 0, of the target among those of its user.

    None where each user has one.
    """
    if not self.several:
      return None
    _, first, numbers = np.unique(self.evaluated(split), return_index=True, return_counts=True)
    return np.arange(int(numbers.sum())) - np.repeat(first, numbers)

  def sampling(self, users: int) -> Self:
    """The split, evaluated on a sample of so many users, the same in every run; on all for 0."""
    found = dataclasses.replace(self, sampled=users)
    return found if self.mapped_from is None else found.of_file(self.mapped_from)

  def parts(self, split: str) -> Iterator[np.ndarray]:
    """`evaluated`, in parts of so few items each that there is memory for what is made of them."""
    if self.sampled or self.several:
      yield self.evaluated(split)
      return
    places = self._places(split)
    for users in self._blocks():
      if len(found := users[places[users] >= 0]):
        yield found

  def inputs(self, split: str, users: np.ndarray | None = None) -> Rows:
    """What a model reads before it predicts: at most `max_length` items, oldest first; a row for each `evaluated` user.

    For `train` these are the items before the last one of each training row; the test input contains the validation
    target.

    Args:
      split: which one.
      users: `[n]` the rows of the users wanted, of those that are evaluated; None for all of them.
    """
    if split == TRAIN:
      return self.train.last(self.max_length, before=1)
    return self._histories(split, users, self.max_length)

  def seen(self, split: str, users: np.ndarray | None = None) -> Rows:
    """Items excluded from the ranking of each `evaluated` user: everything kept of the history before the target."""
    return self._histories(split, users, self.most_seen)

  @functools.cached_property
  def most_seen(self) -> int:
    """The length that no row of `seen` exceeds, at least `max_length + 2`."""
    ends = [self.cuts.train] if self.several else self.cuts.targets.values()
    longest = (int(places.max(initial=0)) for places in ends)
    return max(self.max_length + 2, *longest, 0)

  def targets(self, split: str, users: np.ndarray | None = None, which: np.ndarray | None = None) -> np.ndarray:
    """`[E]` int32, the one item to be ranked for each `evaluated` user, or for those named, as of `inputs`.

    Args:
      split: which one.
      users: `[n]`, as of `inputs`.
      which: `[n]`, beside `users`, as of the method `which`; None for the first target of each.
    """
    if users is None:
      users, which = self.evaluated(split), self.which(split)
    places = self._places(split)[users]
    return self.rows.values[self.rows.offsets[users] + (places if which is None else places + which)]

  @functools.cached_property
  def train_counts(self) -> np.ndarray:
    """`[num_items + 1]` int64: how often each item occurs in the training rows (0 for padding)."""
    counts = np.zeros(self.num_items + 1, np.int64)
    for users in self._blocks():
      values = self._without_cold(self._train_rows.take(users)).values
      counts += np.bincount(values, minlength=len(counts))
    return counts

  @functools.cached_property
  def popularity(self) -> np.ndarray:
    """`[num_items + 1]` float64: each item's share of the training interactions; 1 for the padding (its log is 0)."""
    share = self.train_counts / max(int(self.train_counts.sum()), 1)
    share[0] = 1.0
    return share

  @functools.cached_property
  def fingerprint(self) -> str:
    """Twelve hexadecimal digits of the content: users, rows, items, their fields, which are cold, and how all is cut.

    Impressions have a fingerprint of their own.
    """
    arrays = [self.users, self.rows.values, self.rows.offsets, self.item_ids, self.cold]
    protocol = str(self.max_length)
    # Leave-one-out is told by its rows alone.
    if self.protocol != LEAVE_ONE_OUT or self.train_windows != 1:
      protocol += f" {self.protocol} {self.train_windows}"
      cuts = (*sorted(self.cuts.targets.items()), *sorted(self.cuts.numbers.items()))
      arrays += [self.cuts.train, *(places for _, places in cuts)]
    for name, values in sorted(self.item_fields.items()):
      protocol += f" {name} {values.shape}"
      arrays.append(values.reshape(-1))
    digest = hashlib.sha256(protocol.encode())
    for array in arrays:
      for piece in mapped.pieces(array):
        digest.update(piece.astype(np.int64).tobytes())
    return digest.hexdigest()[:12]

  def of_file(self, path: pathlib.Path) -> Self:
    """The split, whose arrays are mapped from a file."""
    object.__setattr__(self, "mapped_from", path)
    return self

  def release(self) -> None:
    """Has what was read of the file that the arrays are mapped from leave memory."""
    mapped.release(self.rows.values)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Split):
      return NotImplemented
    return (
      np.array_equal(self.users, other.users)
      and self.rows == other.rows
      and np.array_equal(self.item_ids, other.item_ids)
      and np.array_equal(self.cold, other.cold)
      and np.array_equal(self.cuts.train, other.cuts.train)
      and self.cuts.targets.keys() == other.cuts.targets.keys()
      and all(np.array_equal(places, other.cuts.targets[name]) for name, places in self.cuts.targets.items())
      and self.cuts.numbers.keys() == other.cuts.numbers.keys()
      and all(np.array_equal(numbers, other.cuts.numbers[name]) for name, numbers in self.cuts.numbers.items())
      and (self.max_length, self.protocol, self.train_windows)
      == (other.max_length, other.protocol, other.train_windows)
    )

  @functools.cached_property
  def _samples(self) -> dict[str, np.ndarray]:
    return {}

  @functools.cached_property
  def _train_rows(self) -> CutRows:
    """As `train`, with the cold items."""
    ends = self.cuts.train
    most = self.train_windows * self.max_length + 1 if self.train_windows else int(ends.max(initial=0))
    return CutRows(self.rows, ends, most)

  def _without_cold(self, rows: Rows) -> Rows:
    return rows.where(~np.isin(rows.values, self.cold)) if len(self.cold) else rows

  def _blocks(self) -> Iterator[np.ndarray]:
    """All users in parts, of so few items each that there is memory for what is made of them."""
    for users in mapped.parts(self.rows.offsets):
      yield users
      self.release()

  def _histories(self, split: str, users: np.ndarray | None, most: int) -> Rows:
    users = self.evaluated(split) if users is None else users
    ends = self.cuts.train if self.several else self._places(split)
    return self.rows.before(users, ends[users], most)

  def _places(self, split: str) -> np.ndarray:
    if split not in self.cuts.targets:
      raise ValueError(f"unknown split {split!r}: expected one of {list(self.cuts.targets)}")
    return self.cuts.targets[split]


def _sample(places: np.ndarray, number: int) -> np.ndarray:
  """`[number]` int64, ascending: users drawn by lot of those whose place is not below 0; all where there are fewer."""
  lot = KeyedPermutation(len(places), (_SAMPLE,))
  found, drawn = np.empty(0, np.int64), 0
  while len(found) < number and drawn < len(places):
    more = lot(np.arange(drawn, min(drawn + number, len(places))))
    drawn += len(more)
    found = np.concatenate([found, more[places[more] >= 0]])
  return np.sort(found[:number])


def windows(rows: Rows | CutRows, length: int) -> CutRows:
  """Cuts rows, from their ends back, into windows of at most `length + 1` values.

  Windows of a row share a value with their neighbours: each value but the row's first is in one window behind another.
  They come row by row, newest first; a row of one value or none has no window.
  """
  lengths = rows.lengths
  numbers = -(-(lengths - 1).clip(min=0) // length)
  which = np.repeat(np.arange(len(rows)), numbers)
  newer = np.arange(len(which)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
  if isinstance(rows, Rows):
    return CutRows(rows, lengths[which] - newer * length, length + 1, which)
  # What a cut row has left in front of it is a whole number of windows away from its end, or nothing.
  return CutRows(rows.rows, rows.ends[which] - newer * length, length + 1, which)
