"""The lines of a pairs file that `…-sequences` is made of, gone through again and again instead of held."""

from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import itertools
import pathlib
from typing import Any

from absl import logging
import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import number_beside
from mlrec.data.interactions import Rows
from mlrec.data.lines import of_pairs
from tfds_microlens import sequences


class SequenceLines:
  """Users' histories out of lines: of a user who has several the last line counts, in the place of the first.

  Lines with fewer than `sequences.MIN_LENGTH` items count for nothing. Memory is some 24 bytes a user, and the lines of
  users who have several.

  Attributes:
    skipped: how many users have no line that counts.
    users: `[users]` int64, in the order of their first lines.
  """

  def __init__(self, path: pathlib.Path, folder: pathlib.Path):
    """Goes through the file once.

    Args:
      path: a pairs file.
      folder: for what is large, where a log is in no order.

    Raises:
      DataError: no user has enough items, or a line is malformed.
    """
    self._log, self._path, self._folder = of_pairs(path), path, folder
    counted, short = [], []
    positions: list[list[int]] = [[]]
    for chunk in self._log.chunks([], folder):
      long_enough = chunk.lines.lengths >= sequences.MIN_LENGTH
      counted.append(chunk.users[long_enough])
      short.append(chunk.users[~long_enough])
      positions.append(chunk.position)
    lines_before = np.cumsum([0, *map(len, counted)])[:-1]
    line_users, others = np.concatenate(counted), np.concatenate(short)
    del counted, short
    if not len(line_users):
      raise DataError(f"{self._log.name}: no user has {sequences.MIN_LENGTH} items")
    self._several = _named_twice(line_users)
    again = np.isin(line_users, self._several)
    # Of users with several lines, the first.
    first = np.flatnonzero(again)[np.unique(line_users[again], return_index=True)[1]]
    self._first_lines = dict(zip(line_users[first].tolist(), first.tolist()))
    again[first] = False
    if again.any():
      logging.warning(
        "%s: %d lines name a user again (user %d first); the later line of each wins.",
        self._log.name, again.sum(), self._several[0],
      )  # fmt: skip
    self.users = line_users[~again]
    users_before = lines_before - np.concatenate([[0], np.cumsum(again)])[lines_before]
    self._starts = list(zip(users_before.tolist(), lines_before.tolist(), positions))
    self.skipped = number_beside(others, self.users)

  def repeats(self, number: int) -> dict[str, list]:
    """All lines of those of the first `number` users who have several, as `…-sequences` keeps them in its metadata."""
    wanted = np.intersect1d(self._several, self.users[:number])
    places: list[int] = []
    users: list[int] = []
    items: list[list[int]] = []
    line = 0
    if len(wanted):
      for chunk_users, rows, kept in self._lines(number):
        for row in kept[np.isin(chunk_users[kept], wanted)].tolist():
          places.append(line + int(np.searchsorted(kept, row)))
          users.append(int(chunk_users[row]))
          items.append(rows[row].tolist())
        line += len(kept)
    return {sequences.PLACES: places, sequences.USERS: users, sequences.ITEMS: items}

  def rows(
    self, number: int, repeated: Mapping[str, list], hidden: int, *, has_target: bool
  ) -> "SequenceRows | Iterator[dict[str, Any]]":
    """The examples of the first `number` of `users`; parts of a log in no order are not made by themselves.

    Args:
      number: how many.
      repeated: what `repeats` gives of them.
      hidden: items at the end of each history that an example does not have, the first of which is the target.
      has_target: whether it names that.
    """
    last = dict(zip(repeated[sequences.USERS], repeated[sequences.ITEMS]))
    found = SequenceRows(
      self._path, self._folder, number, self._starts, {user: (self._first_lines[user], last[user]) for user in last},
      hidden, has_target,
    )  # fmt: skip
    # Each part would sort all of it.
    return found if self._path.suffix == ".tsv" else iter(found)

  def _lines(self, number: int) -> Iterator[tuple[np.ndarray, Rows, np.ndarray]]:
    """`(users, items)` of a chunk's lines, and the places of those that count and are of the first `number` users."""
    wanted = None if number >= len(self.users) else np.sort(self.users[:number])
    for chunk in self._log.chunks([], self._folder):
      kept = chunk.lines.lengths >= sequences.MIN_LENGTH
      if wanted is not None:
        kept &= np.isin(chunk.users, wanted)
      yield chunk.users, chunk.lines, np.flatnonzero(kept)


@dataclasses.dataclass(frozen=True)
class SequenceRows:
  """The examples of a split of `…-sequences`; picklable, for whoever makes a part of it elsewhere.

  Attributes:
    path: the pairs file.
    folder: for what is large, where it is in no order.
    count: how many there are.
    starts: of some places from which on the file is read, ascending: users and lines that come before, and the place.
    several: of each user who has several lines the first that counts, by its number, and the items of the last.
    hidden: as of `SequenceLines.rows`, as is `has_target`.
  """

  path: pathlib.Path
  folder: pathlib.Path
  count: int
  starts: list[tuple[int, int, list[int]]]
  several: Mapping[int, tuple[int, list[int]]]
  hidden: int
  has_target: bool

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return self.between(0, self.count)

  def between(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """The examples of users `start` to `stop` - 1."""
    before, line, position = max((one for one in self.starts if one[0] <= start), key=lambda one: one[:2])
    for user, history in itertools.islice(self._histories(line, position), start - before, stop - before):
      target = int(history[-self.hidden]) if self.has_target else 0
      yield {"user": user, "items": history[: -self.hidden], "target": target}

  def _histories(self, line: int, position: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """`(user, items)` from a place on, before which there are so many lines that count."""
    for chunk in of_pairs(self.path).chunks(position, self.folder):
      kept = np.flatnonzero(chunk.lines.lengths >= sequences.MIN_LENGTH).tolist()
      for number, row in enumerate(kept, start=line):
        user = int(chunk.users[row])
        if user not in self.several:
          yield user, chunk.lines[row]
        elif number == self.several[user][0]:
          yield user, np.array(self.several[user][1])
      line += len(kept)


def _named_twice(users: np.ndarray) -> np.ndarray:
  """Users who occur several times, ascending."""
  in_order = np.sort(users)
  return np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
