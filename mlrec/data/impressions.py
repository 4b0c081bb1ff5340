"""Impressions: items that were shown to users, and whether they clicked.

They come from files that say so (`mlrec/sources/mmctr.py`), or are made of histories: what a user watched was clicked,
after what was watched before it, and items drawn at random of those that the user has not stand for what was shown in
vain. Such a click rate is that of the draw, 1 in 1 + `config.impressions.negatives`: of it alone predictions are
calibrated.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib

import numpy as np

from mlrec.data.batches import popularity_shares
from mlrec.data.interactions import Rows
from mlrec.data.negatives import Negatives
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import Split
from mlrec.data.splits import TRAIN

# The key of the lot that draws what validation and test show: the same in every run.
_SHOWN = 1706_06978


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
  """Impressions of one split, in compressed form: impression n follows the first `ends[n]` items of row `rows_of[n]`.

  Attributes:
    rows: int32 dense ids, oldest first; impressions may share a row.
    rows_of: `[n]` int, the row of each.
    ends: `[n]` int, how many of its items came before.
    targets: `[n]` int32, the dense id of the item shown.
    labels: `[n]` uint8, 1 for a click, 0 for none; None where that is not known.
    users: `[n]` int32, rows of the split.
  """

  rows: Rows
  rows_of: np.ndarray
  ends: np.ndarray
  targets: np.ndarray
  labels: np.ndarray | None
  users: np.ndarray

  def __len__(self) -> int:
    return len(self.targets)

  def histories(self, which: np.ndarray, max_length: int) -> Rows:
    """The newest `max_length` items before each of the impressions `which [m]`."""
    return self.rows.before(self.rows_of[which], self.ends[which], max_length)

  @functools.cached_property
  def digest(self) -> str:
    """Sixteen hexadecimal digits of all of it."""
    digest = hashlib.sha256()
    labels = () if self.labels is None else (self.labels,)
    for array in (self.rows.values, self.rows.offsets, self.rows_of, self.ends, self.targets, *labels, self.users):
      digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True, eq=False)
class Impressions:
  """What a ranker learns from, and is judged by.

  Attributes:
    examples: by split: `train`, and those of `valid` and `test` that there are.
    drawn: items that are drawn for each training example, anew in each step, as shown and not clicked; 0 for none.
    negatives: draws them.
  """

  examples: Mapping[str, Examples]
  drawn: int = 0
  negatives: Negatives | None = None

  @property
  def train(self) -> Examples:
    return self.examples[TRAIN]

  @functools.cached_property
  def fingerprint(self) -> str:
    """Twelve hexadecimal digits of the content."""
    parts = "".join(f"{name}{one.digest}" for name, one in sorted(self.examples.items()))
    return hashlib.sha256(parts.encode()).hexdigest()[:12]

  @property
  def told(self) -> str:
    """How many there are, and how many are clicks, in words."""
    parts = []
    for name, one in self.examples.items():
      known = "no labels" if one.labels is None else f"{one.labels.mean():.1%} clicks" if len(one) else "none"
      if name == TRAIN and self.drawn:
        known = f"each clicked, {self.drawn} others drawn beside it"
      parts.append(f"{len(one):,} {'to train on' if name == TRAIN else f'for {name}'} ({known})")
    return ", ".join(parts)

  def counts(self, num_items: int) -> np.ndarray:
    """`[num_items + 1]` int64: how often training names each item, shown or in a history; 0 for the padding."""
    counts = np.bincount(self.train.targets, minlength=num_items + 1)
    counts += np.bincount(self.train.rows.values, minlength=num_items + 1)
    counts[0] = 0
    return counts


def of_split(split: Split, *, drawn: int, popularity_power: float = 0.0) -> Impressions:
  """Impressions made of histories.

  Training shows each item of a user's training row but the first, after those before it in the row. Validation and test
  show each user's target, and `drawn` items beside it, which are the same in every run.

  Args:
    split: users' histories.
    drawn: items drawn for each item that was watched, of those that the user has not: in training of the training row,
      otherwise of the whole row.
    popularity_power: they are drawn by training counts to this power; 0 for all alike.

  Raises:
    DataError: a user has all items.
  """
  shares = popularity_shares(split.train_counts, popularity_power) if popularity_power else None
  train = split.train
  numbers = (train.lengths - 1).clip(min=0)
  rows_of = np.repeat(np.arange(len(train), dtype=np.int32), numbers)
  ends = (1 + np.arange(len(rows_of)) - np.repeat(np.cumsum(numbers) - numbers, numbers)).astype(np.int32)
  examples = {
    TRAIN: Examples(
      train, rows_of, ends, train.values[train.offsets[rows_of] + ends], np.ones(len(rows_of), np.uint8), rows_of
    )
  }
  if split.cuts.targets:
    whole = Negatives(split.rows, split.num_items, shares)
    for place, name in enumerate(name for name in EVALUATED if name in split.cuts.targets):
      whom = split.evaluated(name).astype(np.int32)
      others = whole.drawn(whom, drawn, np.random.default_rng([_SHOWN, place]))
      shown = np.concatenate([split.targets(name)[:, None], others], axis=1).astype(np.int32)
      users = np.repeat(whom, drawn + 1)
      labels = np.tile(np.arange(drawn + 1) == 0, len(whom)).astype(np.uint8)
      ends = split.cuts.targets[name][users]
      examples[name] = Examples(split.rows, users, ends, shown.ravel(), labels, users)
  return Impressions(examples, drawn, Negatives(train, split.num_items, shares) if drawn else None)
