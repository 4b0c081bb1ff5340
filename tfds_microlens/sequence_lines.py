"""The lines of a log that `…-sequences` is made of, gone through again and again instead of held."""

from collections.abc import Iterator
from collections.abc import Mapping
import pathlib

from absl import logging
import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.lines import LineSource
from tfds_microlens import sequences


class SequenceLines:
  """Users' histories out of lines: of a user who has several the last line counts, in the place of the first.

  Lines with fewer than `sequences.MIN_LENGTH` items count for nothing. Memory is some 24 bytes a user, and the lines of
  users who have several.

  Attributes:
    skipped: how many users have no line that counts.
    users: `[users]` int64, in the order of their first lines.
  """

  def __init__(self, log: LineSource, folder: pathlib.Path):
    """Goes through the log once.

    Args:
      log: a pairs file.
      folder: for what is large, where a log is in no order.

    Raises:
      DataError: no user has enough items, or a line is malformed.
    """
    self._log, self._folder = log, folder
    counted, short = [], []
    for chunk in log.chunks([], folder):
      long_enough = chunk.lines.lengths >= sequences.MIN_LENGTH
      counted.append(chunk.users[long_enough])
      short.append(chunk.users[~long_enough])
    line_users, others = np.concatenate(counted), np.concatenate(short)
    del counted, short
    if not len(line_users):
      raise DataError(f"{log.name}: no user has {sequences.MIN_LENGTH} items")
    self._several = _named_twice(line_users)
    again = np.isin(line_users, self._several)
    # Of users with several lines, the first.
    again[np.flatnonzero(again)[np.unique(line_users[again], return_index=True)[1]]] = False
    if again.any():
      logging.warning(
        "%s: %d lines name a user again (user %d first); the later line of each wins.",
        log.name, again.sum(), self._several[0],
      )  # fmt: skip
    self.users = line_users[~again]
    self.skipped = len(np.setdiff1d(others, self.users))

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

  def histories(self, number: int, repeated: Mapping[str, list]) -> Iterator[tuple[int, np.ndarray]]:
    """`(user, items)` of the first `number` of `users`, of whom `repeated` is what `repeats` gives."""
    last = {user: np.array(row) for user, row in zip(repeated[sequences.USERS], repeated[sequences.ITEMS])}
    given: set[int] = set()
    for users, rows, kept in self._lines(number):
      for row in kept.tolist():
        user = int(users[row])
        if user not in last:
          yield user, rows[row]
        elif user not in given:
          given.add(user)
          yield user, last[user]

  def _lines(self, number: int) -> Iterator[tuple[np.ndarray, Rows, np.ndarray]]:
    """`(users, items)` of a chunk's lines, and the places of those that count and are of the first `number` users."""
    wanted = None if number >= len(self.users) else np.sort(self.users[:number])
    for chunk in self._log.chunks([], self._folder):
      kept = chunk.lines.lengths >= sequences.MIN_LENGTH
      if wanted is not None:
        kept &= np.isin(chunk.users, wanted)
      yield chunk.users, chunk.lines, np.flatnonzero(kept)


def _named_twice(users: np.ndarray) -> np.ndarray:
  """Users who occur several times, ascending."""
  in_order = np.sort(users)
  return np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
