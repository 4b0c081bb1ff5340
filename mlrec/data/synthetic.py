r"""Logs of MicroLens's shape and of any size, for trying what a size costs before the data is there.

    python -m mlrec.data.synthetic --users=34_492_051 --items=1_142_528 --interactions=1_006_528_709 --to=full_pairs.tsv

A log is a function of its sizes and its seed: users come in blocks, each of them drawn by itself. Lengths of histories
are at least `--least`, with a tail like that of the released logs; items are watched by a power law of their rank; and
with a chance of a half, a user goes on to an item near the one before, so that there is something to learn.
"""

import argparse
from collections.abc import Iterator
from collections.abc import Sequence
import pathlib
import sys
from typing import NamedTuple

import numpy as np

from mlrec import files
from mlrec import terminal
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.permutation import KeyedPermutation

# Users drawn at a time: a log depends on it.
_BLOCK = 1 << 16
# Spread of the logarithm of what a history has beyond the least.
_SPREAD = 1.0
# Of the power law: an item's share falls with its rank to this power.
_POWER = 0.75
# How often a user goes on to an item near the one before, and how near in popularity it is.
_NEAR, _NEAREST = 0.5, 20
_EXISTING = 2**31 - 1


class Shape(NamedTuple):
  """The sizes of a log.

  Attributes:
    users: how many there are, from 1 on.
    items: how many there are at the most, from 1 on.
    interactions: about how many there are.
    least: a user has at least so many, but for an item that was drawn twice.
    seed: of all that is drawn.
  """

  users: int
  items: int
  interactions: int
  least: int = 5
  seed: int = 0


def blocks(shape: Shape) -> Iterator[tuple[np.ndarray, Rows]]:
  """The log: `(users [n] int64, the items of each (int64), oldest first)`, some users at a time.

  No user has an item twice.

  Raises:
    DataError: sizes that make no log.
  """
  mean = shape.interactions / max(shape.users, 1)
  if shape.seed < 0:
    raise DataError(f"the seed must be at least 0, not {shape.seed}")
  for value, least, named in (
    (shape.users, 1, "users"),
    (shape.least, 1, "the least that a user has"),
    (shape.items, shape.least + 1, "items, more than the least that a user has"),
  ):
    if not least <= value <= _EXISTING:
      raise DataError(f"{value:,}: expected {least:,} to {_EXISTING:,} as the number of {named}")
  if not shape.least <= mean <= shape.items / 2:
    raise DataError(
      f"{shape.interactions} interactions of {shape.users} users are {mean:.1f} of each; expected at least "
      f"{shape.least} (least) and at most half of the {shape.items} items"
    )
  names = KeyedPermutation(shape.items, (shape.seed, shape.items, 1))
  for start in range(0, shape.users, _BLOCK):
    users = np.arange(start, min(start + _BLOCK, shape.users)) + 1
    rng = np.random.default_rng([shape.seed, start, 2])
    lengths = _lengths(rng, len(users), shape, mean)
    ranks = Rows.from_lengths(_ranks(rng, lengths, shape.items), lengths)
    first = _first_of_each(ranks)
    rows = ranks.where(first)
    yield users, Rows(names(rows.values) + 1, rows.offsets)


def write(shape: Shape, path: pathlib.Path) -> tuple[int, int]:
  """Writes a log as a `*_pairs.tsv` file, whole or not at all; how many users and interactions it has.

  Raises:
    DataError: sizes that make no log, or the file cannot be written.
  """
  users = interactions = 0
  try:
    with files.replacing(path) as temporary, temporary.open("wb") as file:
      for some, rows in blocks(shape):
        file.write(_text(some, rows))
        users, interactions = users + len(some), interactions + len(rows.values)
  except OSError as error:
    raise DataError(f"{path}: it cannot be written ({error.strerror or error})") from error
  return users, interactions


def _lengths(rng: np.random.Generator, number: int, shape: Shape, mean: float) -> np.ndarray:
  """`[number]` int64, of the shape's mean."""
  # The mean of a logarithmic normal distribution is that of its logarithm and half its variance.
  beyond = rng.lognormal(np.log(max(mean - shape.least, 1e-9)) - _SPREAD**2 / 2, _SPREAD, number)
  return np.minimum(shape.least + np.floor(beyond + rng.random(number)).astype(np.int64), shape.items)


def _ranks(rng: np.random.Generator, lengths: np.ndarray, items: int) -> np.ndarray:
  """`[sum(lengths)]` int64: the rank of each item, 0 for the most watched one."""
  number = int(lengths.sum())
  drawn = np.minimum((items * rng.random(number) ** (1 / (1 - _POWER))).astype(np.int64), items - 1)
  fresh = rng.random(number) >= _NEAR
  fresh[np.cumsum(lengths) - lengths] = True
  steps = np.where(fresh, 0, rng.integers(1, _NEAREST + 1, number))
  # Each goes on from the last that was drawn afresh.
  since = np.maximum.accumulate(np.where(fresh, np.arange(number), 0))
  walked = np.cumsum(steps)
  return (drawn[since] + walked - walked[since]) % items


def _first_of_each(rows: Rows) -> np.ndarray:
  """Of each value, whether its row has it for the first time."""
  row = np.repeat(np.arange(len(rows)), rows.lengths)
  order = np.lexsort((rows.values, row))
  again = (np.diff(rows.values[order]) == 0) & (np.diff(row[order]) == 0)
  first = np.ones(len(row), bool)
  first[order[1:][again]] = False
  return first


def _text(users: np.ndarray, rows: Rows) -> bytes:
  """Lines of a user, a tab, and the user's items with spaces between them."""
  lengths = rows.lengths
  numbers = np.insert(rows.values, rows.offsets[:-1], users)
  last = np.cumsum(lengths + 1) - 1
  separators = np.full(len(numbers), ord(" "), np.uint8)
  separators[last - lengths] = ord("\t")
  separators[last] = ord("\n")
  powers = 10 ** np.arange(1, 11)
  digits = 1 + np.searchsorted(powers, numbers, side="right")
  ends = np.cumsum(digits + 1)
  out = np.empty(int(ends[-1]), np.uint8)
  out[ends - 1] = separators
  left, place = numbers, ends - 2
  while len(left):
    left, digit = np.divmod(left, 10)
    out[place] = digit + ord("0")
    more = left > 0
    left, place = left[more], place[more] - 1
  return out.tobytes()


def main(arguments: Sequence[str] | None = None) -> int:
  """The command; its exit status."""
  parser = argparse.ArgumentParser("python -m mlrec.data.synthetic", description=__doc__.partition("\n")[0])
  parser.add_argument("--users", type=int, required=True, help="How many users there are.")
  parser.add_argument("--items", type=int, required=True, help="How many items there are at the most.")
  parser.add_argument("--interactions", type=int, required=True, help="About how many interactions there are.")
  parser.add_argument("--least", type=int, default=5, help="What a user has at least, but for repeats.")
  parser.add_argument("--seed", type=int, default=0, help="Of all that is drawn.")
  parser.add_argument("--to", type=pathlib.Path, required=True, help="The file to be written, named *_pairs.tsv.")
  given = parser.parse_args(arguments)
  shape = Shape(given.users, given.items, given.interactions, given.least, given.seed)
  try:
    if given.to.suffix != ".tsv":
      raise DataError(f"--to={given.to}: expected the path of a *_pairs.tsv file")
    users, interactions = write(shape, given.to)
  except DataError as error:
    terminal.tell(f"error: {error}")
    return 2
  terminal.say(f"{given.to}: {users:,} users, {interactions:,} interactions")
  return 0


if __name__ == "__main__":
  sys.exit(main())
