"""Interactions as MicroLens ships them: a pairs file read into rows of original ids.

Two forms of the same data (arXiv 2309.15379, its public release):

* `*_pairs.tsv`: a user a line, no header: the user, a tab, then the user's items separated by single spaces, oldest
  first. Lines end in CRLF or LF.
* `*_pairs.csv`: header `user,item,timestamp`, an interaction a line in any order; a stable sort on the timestamp gives
  each user's history, and users keep the order in which the file first names them.

Reading is strict: every byte of the file is accounted for, and the first malformed line is named by its number.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any
from typing import TYPE_CHECKING

from absl import logging
import numpy as np

from mlrec import mapped

if TYPE_CHECKING:
  from mlrec.data.names import Names

_CHUNK_BYTES = 32 << 20
_MAX_DIGITS = 19  # what an int64 may have
LARGEST = 2**63 - 1
# In a file: a byte, and the number of the line there.
Place = tuple[int, int]
BEGINNING: Place = (0, 1)
_CSV_HEADER = b"user,item,timestamp"
_TSV_LINE = "a user, a tab, then items separated by single spaces"
_CSV_LINE = "user,item,timestamp"


class DataError(ValueError):
  """Input data that cannot be used; the message names the file, the place and what was expected."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Rows of unequal length in compressed form (CSR): row r is `values[offsets[r]:offsets[r + 1]]`.

  Attributes:
    values: `[offsets[-1]]` integers.
    offsets: `[len + 1]` int64, from 0, never decreasing.
  """

  values: np.ndarray
  offsets: np.ndarray

  @classmethod
  def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Rows":
    """Rows of the given `lengths [len]`, laid end to end in `values`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return cls(values, offsets)

  @classmethod
  def from_lists(cls, rows: Iterable[Sequence[int] | np.ndarray], dtype: Any = np.int64) -> "Rows":
    """Rows from an iterable of integer sequences."""
    arrays = [np.asarray(row, dtype) for row in rows]
    values = np.concatenate(arrays) if arrays else np.empty(0, dtype)
    return cls.from_lengths(values, np.array([len(row) for row in arrays], np.int64))

  @classmethod
  def concatenate(cls, parts: "list[Rows]") -> "Rows":
    """The rows of all `parts`, one after another."""
    values = np.concatenate([part.values for part in parts]) if parts else np.empty(0, np.int64)
    lengths = np.concatenate([part.lengths for part in parts]) if parts else np.empty(0, np.int64)
    return cls.from_lengths(values, lengths)

  def __len__(self) -> int:
    return len(self.offsets) - 1

  def __getitem__(self, row: int) -> np.ndarray:
    if not 0 <= row < len(self):
      raise IndexError(f"row {row} of {len(self)}")
    return self.values[self.offsets[row] : self.offsets[row + 1]]

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Rows):
      return NotImplemented
    return np.array_equal(self.values, other.values) and np.array_equal(self.offsets, other.offsets)

  @property
  def lengths(self) -> np.ndarray:
    """`[len]` int64."""
    return np.diff(self.offsets)

  def lengths_of(self, rows: np.ndarray) -> np.ndarray:
    """Of the named `rows` (indices), int64."""
    return self.offsets[1:][rows] - self.offsets[:-1][rows]

  def take(self, rows: np.ndarray) -> "Rows":
    """The named `rows` (indices or a mask), in that order."""
    # Not of all lengths: a batch must not cost more for more users.
    starts = self.offsets[:-1][rows]
    return self._cut(starts, self.offsets[1:][rows] - starts)

  def last(self, count: int, *, before: int = 0) -> "Rows":
    """Of each row without its final `before` values, the last `count`."""
    kept = np.maximum(self.lengths - before, 0)
    lengths = np.minimum(kept, count)
    return self._cut(self.offsets[:-1] + kept - lengths, lengths)

  def before(self, rows: np.ndarray, places: np.ndarray, count: int) -> "Rows":
    """Of each of the named `rows` (indices), the last `count` of the values before its place in `places`."""
    lengths = np.minimum(places, count)
    return self._cut(self.offsets[rows] + places - lengths, lengths)

  def without_first(self) -> "Rows":
    """Of each row, all values but the first; an empty row stays empty."""
    skipped = np.minimum(self.lengths, 1)
    return self._cut(self.offsets[:-1] + skipped, self.lengths - skipped)

  def where(self, kept: np.ndarray) -> "Rows":
    """Of each row, the values that `kept [offsets[-1]]` (bool) marks; a row may be left empty."""
    ends = np.concatenate([[0], np.cumsum(kept, dtype=np.int64)])
    return Rows(self.values[kept], ends[self.offsets])

  def padded(self, width: int) -> np.ndarray:
    """`[len, width]` with each row's values at the right end and 0 before them; no row may be longer than `width`."""
    out = np.zeros((len(self), width), self.values.dtype)
    lengths = self.lengths
    if lengths.size and lengths.max() > width:
      raise ValueError(f"a row of {lengths.max()} values does not fit a width of {width}")
    out[np.arange(width) >= (width - lengths)[:, None]] = self.values
    return out

  def _cut(self, starts: np.ndarray, lengths: np.ndarray) -> "Rows":
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Rows(self.values[index], offsets)


@dataclasses.dataclass(frozen=True, eq=False)
class CutRows:
  """Parts of rows: number n has the last `most` of the first `ends[n]` values of its row. Only what is taken is copied.

  Attributes:
    rows: the whole rows.
    ends: `[len]` integers, at most the rows' lengths.
    most: how many values a part has at most.
    which: `[len]` the row of each; None where there is one of each row, in order.
  """

  rows: Rows
  ends: np.ndarray
  most: int
  which: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.ends)

  def __getitem__(self, number: int) -> np.ndarray:
    return self.take(np.array([number])).values

  @property
  def lengths(self) -> np.ndarray:
    """`[len]` int64."""
    return np.minimum(self.ends, self.most).astype(np.int64)

  def lengths_of(self, numbers: np.ndarray) -> np.ndarray:
    """Of the named parts (indices), int64."""
    return np.minimum(self.ends[numbers], self.most).astype(np.int64)

  def take(self, numbers: np.ndarray) -> Rows:
    """The named parts (indices), in that order."""
    rows = numbers if self.which is None else self.which[numbers]
    return self.rows.before(rows, self.ends[numbers], self.most)


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
  """Who watched what, in time order, under original ids.

  Attributes:
    line_users: `[lines]` int64, the user of each line, in file order; a user may have several lines.
    lines: the items of each line, oldest first (int64, positive).
    source: where they came from, for messages.
    user_names: of users whose ids in the log are texts; None where they are integers.
    item_names: likewise.
    timestamps: beside `lines.values` (int64), when each item was watched, in any unit; None where the log does not say.
    labels: beside `lines.values` (int8), what the log has each interaction for (`mlrec.data.labelled`); None where it
      does not say.

  Of a user named twice the later line counts, in the place of the earlier one (`users`, `histories`); both lines count
  when `leave_one_out` asks which items exist.
  """

  line_users: np.ndarray
  lines: Rows
  source: str = "memory"
  user_names: "Names | None" = None
  item_names: "Names | None" = None
  timestamps: np.ndarray | None = None
  labels: np.ndarray | None = None

  @functools.cached_property
  def _merged(self) -> tuple[np.ndarray, Rows, Rows | None]:
    first, last = first_and_last(self.line_users)
    times = None if self.timestamps is None else Rows(self.timestamps, self.lines.offsets).take(last)
    return self.line_users[first], self.lines.take(last), times

  @property
  def users(self) -> np.ndarray:
    """`[users]` int64: each user once, in the order of its first line."""
    return self._merged[0]

  @property
  def histories(self) -> Rows:
    """The items of each of `users`, oldest first."""
    return self._merged[1]

  @property
  def history_times(self) -> Rows | None:
    """The timestamps beside `histories`; None where the log does not say."""
    return self._merged[2]

  @property
  def num_interactions(self) -> int:
    return int(self.histories.offsets[-1])


def first_and_last(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The first and the last place of each distinct key, keys in the order of their first place."""
  _, first = np.unique(keys, return_index=True)
  if len(first) == len(keys):
    places = np.arange(len(keys))
    return places, places
  _, last = np.unique(keys[::-1], return_index=True)
  order = np.argsort(first)
  return first[order], (len(keys) - 1 - last)[order]


def number_beside(others: np.ndarray, users: np.ndarray) -> int:
  """How many distinct `others` are none of the `users`, of whom there may be so many that no copy is made."""
  others = np.unique(others)
  alone = np.ones(len(others), bool)
  for piece in mapped.pieces(users) if len(others) else ():
    place = np.searchsorted(others, piece).clip(max=len(others) - 1)
    alone[place[others[place] == piece]] = False
  return int(alone.sum())


def read_pairs(path: str | os.PathLike) -> Interactions:
  """Reads a `*_pairs.tsv` or `*_pairs.csv` file.

  Raises:
    DataError: the file is missing, empty or of another kind, or a line is malformed (its number is named).
  """
  path = pathlib.Path(path)
  if path.suffix == ".csv":
    users, items, timestamps = (np.concatenate(part) for part in zip(*iter_csv(path)))
    return histories_by_time(users, items, timestamps, str(path))
  if path.suffix != ".tsv":
    raise DataError(f"{path}: expected a file named *_pairs.tsv or *_pairs.csv in MicroLens's format")
  users, lines, _ = zip(*iter_tsv(path))
  interactions = Interactions(np.concatenate(users), Rows.concatenate(list(lines)), str(path))
  warn_of_repeated_users(interactions.source, interactions.line_users)
  return interactions


def warn_of_repeated_users(source: str, *line_users: np.ndarray) -> None:
  """Logs a warning if a user has several lines."""
  users = np.concatenate(line_users)
  users.sort()
  again = users[1:][users[1:] == users[:-1]]
  if len(again):
    logging.warning(
      "%s: %d lines name a user again (user %d first); the later line of each wins.", source, len(again), again[0]
    )


def iter_tsv(
  path: str | os.PathLike, chunk_bytes: int = _CHUNK_BYTES, *, start: Place = BEGINNING
) -> Iterator[tuple[np.ndarray, Rows, Place]]:
  """Reads a pairs TSV in chunks of whole lines.

  Args:
    path: the file.
    chunk_bytes: how much of it is read at a time.
    start: where to begin: at its beginning, or after a chunk.

  Yields:
    `(users [lines], items of each line, the place after them)`, int64, in file order.

  Raises:
    DataError: as `read_pairs`.
  """
  for first_line, text, after in chunks_of_lines(path, chunk_bytes, start):
    tokens = _Tokens(path, first_line, text, _TSV_LINE)
    opens = np.concatenate([[True], tokens.separators[:-1] == ord("\n")])
    tokens.require((tokens.separators == ord("\t")) == opens)
    tokens.require(tokens.separators != ord(","))
    tokens.require(tokens.values > 0, "ids are positive integers")
    starts = np.flatnonzero(opens)
    lengths = np.diff(np.append(starts, len(opens))) - 1
    yield tokens.values[starts], Rows.from_lengths(tokens.values[~opens], lengths), after


def iter_csv(
  path: str | os.PathLike, chunk_bytes: int = _CHUNK_BYTES
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Reads a pairs CSV in chunks of whole lines: `(users, items, timestamps)`, int64, in file order.

  MicroLens's timestamps are in ms; any unit will do.

  Raises:
    DataError: as `read_pairs`.
  """
  for users, items, timestamps, _ in iter_csv_places(path, chunk_bytes):
    yield users, items, timestamps


def iter_csv_places(
  path: str | os.PathLike, chunk_bytes: int = _CHUNK_BYTES, *, start: Place = BEGINNING
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, Place]]:
  """As `iter_csv`, from its beginning, or after a chunk, on; and the place after each chunk.

  Raises:
    DataError: as `read_pairs`.
  """
  rows = start != BEGINNING
  for first_line, text, after in chunks_of_lines(path, chunk_bytes, start):
    if first_line == 1:
      header, _, text = text.partition(b"\n")
      if header.strip().lower() != _CSV_HEADER:
        raise DataError(f"{path}:1: expected the header {_CSV_HEADER.decode()!r}, found {shown(header)}")
      if not text:
        continue
      first_line = 2
    rows = True
    tokens = _Tokens(path, first_line, text, _CSV_LINE)
    comma, end = ord(","), ord("\n")
    expected = np.array([comma, comma, end], np.uint8)
    tokens.require(tokens.separators == np.resize(expected, len(tokens.separators)))
    user, item, timestamp = tokens.values.reshape(-1, 3).T
    tokens.require(np.repeat((user > 0) & (item > 0), 3), "ids are positive integers")
    yield user, item, timestamp, after
  if not rows:
    raise DataError(f"{path}: no interactions after the header")


def histories_by_time(
  users: np.ndarray,
  items: np.ndarray,
  timestamps: np.ndarray | None,
  source: str,
  *,
  labels: np.ndarray | None = None,
  user_names: "Names | None" = None,
  item_names: "Names | None" = None,
) -> Interactions:
  """Users in the order of their first row; a user's items by a stable sort on time (equal times keep file order)."""
  distinct, first, code = np.unique(users, return_index=True, return_inverse=True)
  place = np.empty(len(distinct), np.int64)
  order = np.argsort(first)
  place[order] = np.arange(len(distinct))
  by_user_and_time = np.lexsort((place[code],) if timestamps is None else (timestamps, place[code]))
  lengths = np.bincount(place[code], minlength=len(distinct))
  rows = Rows.from_lengths(items[by_user_and_time], lengths)
  times, labels = (None if one is None else one[by_user_and_time] for one in (timestamps, labels))
  return Interactions(distinct[order], rows, source, user_names, item_names, times, labels)


def chunks_of_lines(
  path: str | os.PathLike, chunk_bytes: int, start: Place = BEGINNING
) -> Iterator[tuple[int, bytes, Place]]:
  """`(number of the first line, whole lines ending in LF, the place after them)`.

  CRLF becomes LF, a byte order mark is dropped.

  Raises:
    DataError: the file is missing or empty.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
  (at, line), rest = start, b""
  with path.open("rb") as file:
    file.seek(at)
    while block := file.read(chunk_bytes):
      block = rest + block
      cut = block.rfind(b"\n") + 1
      rest = block[cut:]
      if cut:
        first, line, at = line, line + block.count(b"\n", 0, cut), at + cut
        yield first, _clean(block[:cut], first), (at, line)
  if rest.strip():
    yield line, _clean(rest, line) + b"\n", (at + len(rest), line + 1)
  elif line == 1:
    raise DataError(f"{path}: the file is empty")


def _clean(text: bytes, line: int) -> bytes:
  return (text.removeprefix(b"\xef\xbb\xbf") if line == 1 else text).replace(b"\r\n", b"\n").rstrip(b"\r")


def shown(line: bytes) -> str:
  """The beginning of a line, for messages."""
  text = line[:60].decode("utf-8", "replace")
  return repr(text + ("…" if len(line) > 60 else ""))


class _Tokens:
  """Unsigned integers, each followed by one separator byte; anything else is a DataError that names the line."""

  def __init__(self, path: str | os.PathLike, first_line: int, text: bytes, expected: str):
    self._path, self._first_line, self._text, self._expected = path, first_line, text, expected
    raw = np.frombuffer(text, np.uint8)
    digit = (raw >= ord("0")) & (raw <= ord("9"))
    self._ends = np.flatnonzero(~digit)
    known = np.isin(raw[self._ends], np.frombuffer(b"\t ,\n", np.uint8))
    self.separators = raw[self._ends]
    digits = np.diff(self._ends, prepend=-1) - 1
    self.require(known)
    self.require(digits > 0)
    self.require(digits <= _MAX_DIGITS, f"numbers have at most {_MAX_DIGITS} digits")
    # As unsigned integers all numbers of so many digits are exact.
    values = np.fromstring(text.replace(b",", b" "), np.uint64, sep=" ")
    self.require(values <= LARGEST, f"numbers are at most {LARGEST}")
    self.values = values.view(np.int64)

  def require(self, ok: np.ndarray, reason: str = "") -> None:
    """Raises for the first token that is not `ok [tokens]`."""
    if ok.all():
      return
    at = int(self._ends[int(np.argmin(ok))])
    start = self._text.rfind(b"\n", 0, at) + 1
    line = self._text[start : self._text.find(b"\n", start)]
    number = self._first_line + self._text.count(b"\n", 0, start)
    found = "a blank line" if not line.strip() else shown(line)
    expected = f"expected {self._expected}" + (f"; {reason}" if reason else "")
    raise DataError(f"{self._path}:{number}: {expected}; found {found}")
