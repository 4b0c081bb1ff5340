"""A log read once, as a stream, into a file of small records that the rest of the work reads."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
from typing import Any
from typing import IO

from absl import logging
import numpy as np

from mlrec import terminal
from mlrec.data.interactions import DataError
from tfds_microlens.ingest import columns as columns_lib
from tfds_microlens.ingest import tables
from tfds_microlens.ingest.columns import ITEM
from tfds_microlens.ingest.columns import RATING
from tfds_microlens.ingest.columns import TIME
from tfds_microlens.ingest.columns import USER
from tfds_microlens.ingest.ids import IdTable
from tfds_microlens.ingest.settings import Settings
from tfds_microlens.ingest.tables import Table
from tfds_microlens.ingest.times import Times

# Ratings by value are counted for so many values.
_MOST_RATINGS = 1000
# An interaction: codes of the user and the item, and ticks of the clock since 1970.
RECORD = np.dtype([("user", "<i4"), ("item", "<i4"), ("time", "<i8")])
_SAY_EVERY = 10_000_000


@dataclasses.dataclass
class Log:
  """What was read.

  Attributes:
    path: of the records, in the order of the log.
    users, items: the ids that were kept.
    lines: rows of the log.
    rows: the same, or items where a row lists several; each is kept or dropped for one reason.
    kept: records.
    timed: whether there is a column of times; else the order of the log counts.
    ticks_per_ms: of the times.
    dropped: rows that were not kept by their reason; and where the first of each is.
    told: what was guessed and found, a line each.
    ratings: how many rows have each, for the first thousand values; empty where ratings are not read.
    columns: by role, those that were read.
  """

  path: pathlib.Path
  users: IdTable
  items: IdTable
  lines: int = 0
  rows: int = 0
  kept: int = 0
  timed: bool = False
  ticks_per_ms: int = 1
  dropped: dict[str, int] = dataclasses.field(default_factory=dict)
  first_dropped: dict[str, int] = dataclasses.field(default_factory=dict)
  told: list[str] = dataclasses.field(default_factory=list)
  ratings: dict[float, int] = dataclasses.field(default_factory=dict)
  columns: dict[str, str] = dataclasses.field(default_factory=dict)

  def drop(self, reason: str, rows: np.ndarray) -> None:
    """Counts rows, by their numbers, that are not kept."""
    if len(rows):
      self.dropped[reason] = self.dropped.get(reason, 0) + len(rows)
      self.first_dropped.setdefault(reason, int(rows[0]))

  def left_out(self) -> list[str]:
    """What was dropped, a line for each reason."""
    return [f"{count:,} {reason} (row {self.first_dropped[reason]:,} first)" for reason, count in self.dropped.items()]


def read(settings: Settings, path: pathlib.Path, say: Callable[[str], None]) -> Log:
  """Reads the log of `settings` into records at `path`.

  Raises:
    DataError: it cannot be read, a column is missing, a value is not what its column holds, or no interaction is kept.
  """
  words = settings.words
  table = Table(
    settings.interactions, header=settings.header, separator=settings.separator, encoding=settings.encoding, words=words
  )
  by_place = not settings.header
  named = {USER: settings.user, ITEM: settings.item, TIME: settings.time, RATING: settings.rating}
  found = columns_lib.of_log(table, named, by_place=by_place, words=words)
  rated = settings.min_rating is not None
  if rated and not found[RATING]:
    raise DataError(
      f"{words.given('min_rating', settings.min_rating)}: {table.name} has no column of ratings of a usual name, "
      f"expected {words.name('rating')}COLUMN; its columns are {columns_lib.listed(table.columns)}"
    )
  log = Log(path, IdTable(), IdTable(), timed=bool(found[TIME]))
  used = {role: column for role, column in found.items() if column and (rated or role != RATING)}
  log.columns = used
  log.told.append(f"{table.name}: {table.form}; {tables.described(used)}")
  if found[RATING] and not rated:
    hint = words.hint("min_rating", 4, ": {} would keep those of 4 and more")
    log.told.append(f"ratings in {found[RATING]!r} are not read, rows of any rating count{hint}")
  if not log.timed:
    others = [name for name in table.columns if name not in found.values()]
    hint = f"; {words.name(TIME)}COLUMN names one, such as {', '.join(map(repr, others[:5]))}" if others else ""
    log.told.append(f"no column of times: the order of the rows counts{hint}")
  for line in log.told:
    say(line)
  times = Times(used[TIME], settings.time_unit, words) if log.timed else None
  with path.open("wb") as file:
    for rows, chunk in _chunks(table, used, settings):
      append(file, _keep(log, rows, chunk, times, settings))
      log.lines = int(rows[-1])
      if log.rows // _SAY_EVERY != (log.rows - len(rows)) // _SAY_EVERY:
        say(f"{log.rows:,} rows read")
  if not log.rows:
    raise DataError(f"{table.name}: there are no rows in it, beside the names of columns")
  if not log.kept:
    raise DataError(f"{table.name}: none of {log.rows:,} rows is kept: {'; '.join(log.left_out())}")
  if times is not None:
    log.told.append(f"times are {times.form}")
    say(log.told[-1])
  for ids, role in ((log.users, USER), (log.items, ITEM)):
    log.told.append(f"{len(ids):,} {role}s, whose ids are {'texts' if ids.are_texts else 'integers'}")
    say(log.told[-1])
  for reason, line in zip(log.dropped, log.left_out()):
    if reason != _rated_below(settings):
      logging.warning("%s: left out: %s", table.name, line)
  return log


def append(file: IO[bytes], records: np.ndarray) -> None:
  """Writes records at the end of a file; of a full disk NumPy's own `tofile` would not say so."""
  file.write(np.ascontiguousarray(records).view(np.uint8).data)


def _chunks(table: Table, used: dict[str, str], settings: Settings) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
  """`(rows [n] from 1, columns by role)`; a cell of several items becomes as many of them, with the row's number."""
  first = 1
  for columns in table.rows(list(used.values()), floats=[used[RATING]] if RATING in used else []):
    by_role = {role: columns[column] for role, column in used.items()}
    rows = first + np.arange(len(by_role[USER]))
    first += len(rows)
    yield _one_item_each(rows, by_role, settings.item_separator)


def _one_item_each(rows: np.ndarray, by_role: dict[str, Any], separator: str) -> tuple[np.ndarray, dict[str, Any]]:
  import pyarrow
  import pyarrow.compute

  types = pyarrow.types
  items = by_role[ITEM]
  if separator:
    items = pyarrow.compute.split_pattern(pyarrow.compute.utf8_trim(items.cast(pyarrow.string()), separator), separator)
  if not (types.is_list(items.type) or types.is_large_list(items.type)):
    return rows, by_role
  lengths = pyarrow.compute.list_value_length(items).fill_null(0).to_numpy(zero_copy_only=False)
  # A row that lists none is one without an item.
  places = np.repeat(np.arange(len(rows)), lengths.clip(min=1))
  listed = np.cumsum(lengths[places] > 0) - 1
  which = pyarrow.array(listed, mask=lengths[places] == 0)
  out = {ITEM: items.flatten().take(which)}
  for role, column in by_role.items():
    if role == ITEM:
      continue
    if types.is_list(column.type) or types.is_large_list(column.type):
      counts = pyarrow.compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
      if not np.array_equal(counts, lengths):
        at = int(np.argmax(counts != lengths))
        raise DataError(f"row {rows[at]}: it lists {lengths[at]} items, and {counts[at]} values of the {role}")
      out[role] = column.flatten().take(which)
    else:
      out[role] = column.take(pyarrow.array(places))
  return rows[places], out


def _keep(log: Log, rows: np.ndarray, chunk: dict[str, Any], times: Times | None, settings: Settings) -> np.ndarray:
  """The records of the rows that are kept, `[n]` of `RECORD`; the others are counted."""
  import pyarrow

  ids = {
    role: tables.as_texts_or_integers(chunk[role], f"{settings.log}: column {log.columns[role]!r}")
    for role in (USER, ITEM)
  }
  kept = np.ones(len(rows), bool)

  def drop(reason: str, which: np.ndarray) -> None:
    log.drop(reason, rows[kept & which])
    kept[which] = False

  for role, values in ids.items():
    drop(f"without {'a user' if role == USER else 'an item'}", tables.is_missing(values))
  if settings.min_rating is not None:
    with _of_file(settings):
      ratings = _ratings(chunk[RATING], rows, log.columns[RATING])
    drop("without a rating", np.isnan(ratings))
    for value, count in zip(*np.unique(ratings[kept], return_counts=True)):
      if value in log.ratings or len(log.ratings) < _MOST_RATINGS:
        log.ratings[float(value)] = log.ratings.get(float(value), 0) + int(count)
    drop(_rated_below(settings), ratings < settings.min_rating)
  moments = np.zeros(len(rows), np.int64)
  if times is not None:
    with _of_file(settings):
      moments, known = times.ticks(chunk[TIME], rows)
    log.ticks_per_ms = times.ticks_per_ms
    drop("without a time", ~known)
  log.rows += len(rows)
  log.kept += int(kept.sum())
  mask = pyarrow.array(kept)
  found = np.empty(int(kept.sum()), RECORD)
  try:
    found["user"] = log.users.codes(ids[USER].filter(mask))
    found["item"] = log.items.codes(ids[ITEM].filter(mask))
  except UnicodeDecodeError as error:
    raise DataError(f"{settings.log}: rows {rows[0]} to {rows[-1]}: an id is not UTF-8 ({error})") from error
  found["time"] = moments[kept]
  return found


@contextlib.contextmanager
def _of_file(settings: Settings) -> Iterator[None]:
  try:
    yield
  except DataError as error:
    raise DataError(f"{settings.log}: {error}") from error


def _rated_below(settings: Settings) -> str:
  """The reason of the rows that were asked to be left out."""
  return "" if settings.min_rating is None else f"rated below {settings.min_rating:g}"


def _ratings(values: Any, rows: np.ndarray, column: str) -> np.ndarray:
  """`[n]` float64, NaN where there is none."""
  import pyarrow
  import pyarrow.compute

  try:
    if pyarrow.types.is_string(values.type):
      values = pyarrow.compute.if_else(pyarrow.array(tables.is_missing(values)), None, values)
    return values.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
  except pyarrow.ArrowException as error:
    raise DataError(
      f"column {column!r}, rows {rows[0]} to {rows[-1]}: expected ratings that are numbers; "
      f"{terminal.shortened(str(error), 200)}"
    ) from error
