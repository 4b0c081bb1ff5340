"""Interactions in the format of MMRec (Zhou, arXiv 2302.03497; its repository's data sets), which carry their split.

A `*.inter` file is a table with a header and columns separated by tabs, an interaction a line, in any order:

* `userID`, `itemID`: integers from 0.
* `x_label`: 0 for training, 1 for validation, 2 for the test; some four fifths, a tenth and a tenth of each user.
* `timestamp`, where there is one: an integer in any unit. Without it a user's items are in the order of the lines.

Other columns, such as `rating`, are not read: each interaction counts. Ids of ours are theirs plus 1, for 0 is the
padding, and their names are theirs: so row r of the feature files of such a data set, which is that of item r, is found
where the features of MicroLens's release have it (`mlrec.content.vectors`).
"""

from collections.abc import Iterator
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from mlrec.data.interactions import chunks_of_lines
from mlrec.data.interactions import DataError
from mlrec.data.interactions import histories_by_time
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import LARGEST
from mlrec.data.interactions import shown
from mlrec.data.names import Names

SUFFIX = ".inter"
# Read at a time: each of its cells is an object for a while.
_CHUNK_BYTES = 4 << 20
# What a label stands for.
TRAINS, VALIDATES, TESTS = 0, 1, 2
_USER, _ITEM, _TIME, _LABEL = "userID", "itemID", "timestamp", "x_label"
_REQUIRED = (_USER, _ITEM, _LABEL)
_INTEGER = re.compile(rb"[0-9]{1,19}")
# A column of integers that pandas has written as floats.
_WHOLE = re.compile(rb"([0-9]{1,19})(?:\.0*)?")


class Labelled(NamedTuple):
  """Some lines of a file.

  Attributes:
    users: `[lines]` int64, those of the file plus 1.
    items: likewise.
    times: `[lines]` int64; zeros where the file has none.
    labels: `[lines]` int8, `TRAINS`, `VALIDATES` or `TESTS`.
  """

  users: np.ndarray
  items: np.ndarray
  times: np.ndarray
  labels: np.ndarray


def read(path: str | os.PathLike[str]) -> Interactions:
  """Reads a `*.inter` file.

  Returns:
    Users' histories by time, users in the order in which the file first names them; with `labels`.

  Raises:
    DataError: the file is missing, empty or of another kind, or a line is malformed (its number is named).
  """
  users, items, times, labels = (np.concatenate(part) for part in zip(*iterate(path)))
  return histories_by_time(
    users, items, times if is_timed(path) else None, str(path), labels=labels,
    user_names=names_of(users), item_names=names_of(items),
  )  # fmt: skip


def iterate(path: str | os.PathLike[str], chunk_bytes: int = _CHUNK_BYTES) -> Iterator[Labelled]:
  """Reads a `*.inter` file in chunks of whole lines, in file order.

  Raises:
    DataError: as `read`.
  """
  columns: list[str] = []
  rows = False
  for first_line, text, _ in chunks_of_lines(path, chunk_bytes):
    if first_line == 1:
      header, _, text = text.partition(b"\n")
      columns = _columns(header, path)
      first_line = 2
    if text:
      rows = True
      yield _parsed(text, columns, path, first_line)
  if not rows:
    raise DataError(f"{path}: no interactions after the header")


def is_timed(path: str | os.PathLike[str]) -> bool:
  """Whether a `*.inter` file has timestamps.

  Raises:
    DataError: it is missing, or has another header.
  """
  for _, text, _ in chunks_of_lines(path, 1 << 16):
    return _TIME in _columns(text.partition(b"\n")[0], path)
  raise DataError(f"{path}: the file is empty")


def all_names(path: str | os.PathLike[str]) -> tuple[Names, Names]:
  """The names of all users and of all items of a file, which is read once for them."""
  users, items = np.empty(0, np.int64), np.empty(0, np.int64)
  for part in iterate(path):
    users, items = np.union1d(users, part.users), np.union1d(items, part.items)
  return names_of(users), names_of(items)


def names_of(ids: np.ndarray) -> Names:
  """The ids of the file, by ours, of which some may be there more than once."""
  distinct = np.unique(ids)
  return Names.of(distinct, map(str, (distinct - 1).tolist()))


def _columns(header: bytes, path: str | os.PathLike[str]) -> list[str]:
  columns = header.decode("utf-8", "replace").split("\t")
  if not set(_REQUIRED) <= set(columns) or len(set(columns)) < len(columns):
    raise DataError(
      f"{pathlib.Path(path)}:1: expected a header of columns separated by tabs, each once, with {', '.join(_REQUIRED)} "
      f"among them (and {_TIME}, if there is one); found {shown(header)}; python -m mlrec.ingest reads tables of other "
      "columns"
    )
  return columns


def _parsed(text: bytes, columns: list[str], path: str | os.PathLike[str], first_line: int) -> Labelled:
  lines = text.removesuffix(b"\n").split(b"\n")
  cells = [line.split(b"\t") for line in lines]

  def refuse(number: int, expected: str) -> DataError:
    line = lines[number]
    found = shown(line) if line.strip() else "a blank line"
    return DataError(f"{pathlib.Path(path)}:{first_line + number}: expected {expected}; found {found}")

  for number, line in enumerate(cells):
    if len(line) != len(columns):
      raise refuse(number, f"{len(columns)} columns separated by tabs ({', '.join(columns)})")

  def column(name: str, form: re.Pattern[bytes], most: int, expected: str) -> np.ndarray:
    place = columns.index(name)
    found = np.empty(len(cells), np.int64)
    for number, line in enumerate(cells):
      match = form.fullmatch(line[place])
      value = int(match[match.lastindex or 0]) if match else most + 1
      if value > most:
        raise refuse(number, f"{name} to be {expected}")
      found[number] = value
    return found

  # An id is one more here.
  users, items = (
    column(name, _INTEGER, LARGEST - 1, f"an integer from 0 to {LARGEST - 1}") + 1 for name in (_USER, _ITEM)
  )
  labels = column(_LABEL, _WHOLE, TESTS, "0 (training), 1 (validation) or 2 (test)")
  times = (
    column(_TIME, _WHOLE, LARGEST, f"an integer from 0 to {LARGEST}")
    if _TIME in columns
    else np.zeros(len(cells), np.int64)
  )
  return Labelled(users, items, times, labels.astype(np.int8))
