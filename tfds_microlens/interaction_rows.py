"""The examples of `…-interactions`: those of a pairs file in its order, from any place on."""

from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np

from mlrec.data.interactions import BEGINNING
from mlrec.data.interactions import iter_csv_places
from mlrec.data.interactions import iter_tsv
from mlrec.data.interactions import Place

# Users, items and times, `[n]` int64 each.
Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class InteractionRows:
  """What a pairs file has; picklable, for whoever makes a part of it elsewhere.

  Attributes:
    path: the file.
    timed: whether it says when an item was watched; else its place in the user's line takes the place of the time.
    count: how many interactions there are.
    starts: how many come before a place, and the place, from which on it is read: of some places, ascending.
  """

  path: pathlib.Path
  timed: bool
  count: int
  starts: list[tuple[int, Place]]

  @classmethod
  def of(cls, path: pathlib.Path) -> "InteractionRows":
    """Goes through the file once.

    Raises:
      DataError: a line is malformed.
    """
    timed, count, starts = path.suffix == ".csv", 0, [(0, BEGINNING)]
    for (users, _, _), after in _columns(path, timed, BEGINNING):
      count += len(users)
      starts.append((count, after))
    # Nothing is read from the end on.
    return cls(path, timed, count, starts[:-1] or starts)

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return self.between(0, self.count)

  def between(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """The examples from place `start` to `stop` - 1."""
    before, place = max((one for one in self.starts if one[0] <= start), key=lambda one: one[0])
    rows = examples(columns for columns, _ in _columns(self.path, self.timed, place))
    return itertools.islice(rows, start - before, stop - before)


def examples(chunks: Iterable[Columns]) -> Iterator[dict[str, Any]]:
  """As `…-interactions` has them."""
  rows = itertools.chain.from_iterable(zip(*(part.tolist() for part in chunk)) for chunk in chunks)
  for user, item, timestamp in rows:
    yield {"user": user, "item": item, "timestamp": timestamp}


def _columns(path: pathlib.Path, timed: bool, start: Place) -> Iterator[tuple[Columns, Place]]:
  """The interactions from a place on, some at a time, and the place after them."""
  if timed:
    for *columns, after in iter_csv_places(path, start=start):
      yield (columns[0], columns[1], columns[2]), after
    return
  for users, lines, after in iter_tsv(path, start=start):
    places = np.arange(len(lines.values)) - np.repeat(lines.offsets[:-1], lines.lengths)
    yield (np.repeat(users, lines.lengths), lines.values, places), after
