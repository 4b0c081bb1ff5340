"""A column of times, of any unit or form, to ticks of one clock since 1970."""

import re
from typing import Any

import numpy as np

from mlrec import terminal
from mlrec.data.interactions import DataError
from tfds_microlens.ingest.tables import is_missing
from tfds_microlens.ingest.wording import NEUTRAL
from tfds_microlens.ingest.wording import Wording

# By unit: how many make a second; and what values are below, whatever the day between 1973 and the year 5000.
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_BELOW = (10**11, 10**14, 10**17)
_LONG = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_NUMBER = r"^\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*$"
_ZONE = r"[:T ]\d{2}.*(Z|[-+]\d{2}:?(\d{2})?)$"
_NUMBERS, _DATES = "numbers", "dates"
# What milliseconds may be: dates that Python can write; of nanoseconds what an int64 holds.
_LEAST_MS, _MOST_MS = -62_135_596_800_000, 253_402_300_799_999


class Times:
  """Reads the times of a log, chunk by chunk; all of them must be of one form and one unit."""

  def __init__(self, column: str, unit: str = "", words: Wording = NEUTRAL):
    """`column` and `words` are for messages; a `unit` of `UNITS` is that of numbers, else told by their size."""
    self._column, self._given, self._words = column, unit, words
    self._kind = self._zoned = None
    # The unit, and the row and the value that told it.
    self._unit: tuple[str, int, Any] | None = None
    self._largest = 0.0

  @property
  def ticks_per_ms(self) -> int:
    """So many that what the column tells apart keeps its order: of nanoseconds as they are, else of microseconds."""
    return 10**6 if self._unit is not None and self._unit[0] == "ns" else 1000

  @property
  def form(self) -> str:
    """What they are, in words; empty before the first."""
    if self._kind == _DATES:
      return "dates" + (", with zones" if self._zoned else ", taken for UTC" if self._zoned is False else "")
    if self._unit is None:
      return ""
    by = " as was said" if self._given else " by their size"
    small = ", though their size would suit other units as well" if not self._given and self._largest < 10**8 else ""
    return f"{_LONG[self._unit[0]]}{by}{small}"

  def ticks(self, values: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(ticks [n] int64, of which `ticks_per_ms` make a millisecond, known [n] bool)`; of a missing time 0 and False.

    Args:
      values: `pyarrow.Array` of integers, floats, strings, dates or timestamps.
      rows: `[n]`, the row of each, for messages.

    Raises:
      DataError: values are of several forms or units, or one is no time.
    """
    import pyarrow

    types, kind = pyarrow.types, values.type
    if types.is_dictionary(kind):
      values = values.dictionary_decode()
      kind = values.type
    missing = is_missing(values)
    places = np.flatnonzero(~missing)
    given, rows = values.take(pyarrow.array(places)), rows[places]
    if not len(given):
      found, known = np.empty(0, np.int64), np.empty(0, bool)
    elif types.is_timestamp(kind) or types.is_date(kind):
      self._be(_DATES, rows[0], given[0])
      found, known = _of_timestamps(given), np.ones(len(given), bool)
    elif types.is_string(kind) or types.is_large_string(kind):
      found, known = self._of_texts(given.cast(pyarrow.string()), rows)
    elif types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
      found, known = self._of_numbers(self._plain(given, rows), rows)
    else:
      raise DataError(f"column {self._column!r} is of the type {kind}; expected numbers, dates or timestamps")
    ms = found // self.ticks_per_ms
    bad = np.flatnonzero(known & ((ms < _LEAST_MS) | (ms > _MOST_MS)))
    if len(bad):
      at = int(bad[0])
      raise self._error(rows[at], given[at].as_py(), "is no time between the years 1 and 9999")
    out, is_known = np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    out[places], is_known[places] = found, known
    return out, is_known

  def _of_texts(self, given: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow
    import pyarrow.compute as compute

    if self._kind is None:
      self._be(_NUMBERS if re.match(_NUMBER, given[0].as_py()) else _DATES, rows[0], given[0])
    if self._kind == _NUMBERS:
      given = compute.utf8_trim_whitespace(given)
      self._require(compute.match_substring_regex(given, _NUMBER), given, rows, "is no number, as those before it are")
      try:
        return self._of_numbers(given.cast(pyarrow.int64()).to_numpy(), rows)
      except pyarrow.ArrowInvalid:
        return self._of_numbers(given.cast(pyarrow.float64()).to_numpy(), rows)
    given = compute.utf8_trim_whitespace(given)
    zoned = compute.match_substring_regex(given, _ZONE)
    if self._zoned is None:
      self._zoned = zoned[0].as_py()
    alike = zoned if self._zoned else compute.invert(zoned)
    wanted = "has no zone, and those before it have one" if self._zoned else "has a zone, and those before it have none"
    self._require(alike, given, rows, wanted)
    zone = "UTC" if self._zoned else None
    for unit in ("us", "ns"):  # the first has room for more years, the second for more digits
      try:
        return _of_timestamps(given.cast(pyarrow.timestamp(unit, zone))), np.ones(len(given), bool)
      except pyarrow.ArrowInvalid:
        continue
    self._require(
      [_is_date(text.as_py(), zone) for text in given], given, rows,
      "is no ISO date, such as 2020-01-31, 2020-01-31 12:00:00 or 2020-01-31T12:00:00+01:00",
    )  # fmt: skip
    raise self._error(rows[0], given[0].as_py(), "and what follows mix years beyond 1678 to 2262 with nanoseconds")

  def _of_numbers(self, numbers: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    self._be(_NUMBERS, rows[0], numbers[0])
    known = np.ones(len(numbers), bool)
    if numbers.dtype.kind == "f":
      known = ~np.isnan(numbers)
      infinite = np.flatnonzero(np.isinf(numbers))
      if len(infinite):
        raise self._error(rows[infinite[0]], numbers[infinite[0]], "is no time")
      numbers = np.where(known, numbers, 0)
    if not known.any():
      return np.zeros(len(numbers), np.int64), known
    size = np.abs(numbers.astype(np.float64))
    beyond = np.flatnonzero(size >= 2.0**63)
    if len(beyond):
      raise self._error(rows[beyond[0]], numbers[beyond[0]], "is no time: it exceeds 64 bits")
    self._largest = max(self._largest, float(size.max()))
    first = int(np.argmax(known))
    if self._given:
      self._unit = self._unit or (self._given, int(rows[first]), numbers[first])
    else:
      of_size = np.searchsorted(_BELOW, size, side="right")
      self._unit = self._unit or (list(UNITS)[of_size[first]], int(rows[first]), numbers[first])
      other = np.flatnonzero(known & (of_size != list(UNITS).index(self._unit[0])))
      if len(other):
        unit, row, value = self._unit
        at = int(other[0])
        raise DataError(
          f"column {self._column!r} mixes units: row {row} has {value}, {_LONG[unit]} by its size, and row {rows[at]} "
          f"has {numbers[at]}, {_LONG[list(UNITS)[of_size[at]]]}"
          + self._words.hint("time_unit", unit, f"; {{}} takes all for {_LONG[unit]}")
        )
    # Of seconds a million ticks; nanoseconds are ticks by themselves. What is beyond is no time, and must not overflow.
    ticks = self.ticks_per_ms * 1000 // UNITS[self._unit[0]]
    most = (2**63 - 1024) // ticks
    if numbers.dtype.kind == "f":
      return np.floor(np.clip(numbers, -most, most) * ticks).clip(-(2.0**63), 2.0**63 - 1024).astype(np.int64), known
    return np.clip(numbers, -most, most) * ticks, known

  def _plain(self, given: Any, rows: np.ndarray) -> np.ndarray:
    import pyarrow

    integers = pyarrow.types.is_integer(given.type)
    try:
      return given.cast(pyarrow.int64() if integers else pyarrow.float64()).to_numpy(zero_copy_only=False)
    except pyarrow.ArrowInvalid as error:
      raise self._error(rows[0], given[0].as_py(), f"or one after it is no time: {error}") from error

  def _be(self, kind: str, row: int, value: Any) -> None:
    if self._kind not in (None, kind):
      raise self._error(row, value, f"is of another sort than those before it, which are {self._kind}")
    self._kind = kind  # type: ignore[assignment]

  def _require(self, ok: Any, given: Any, rows: np.ndarray, problem: str) -> None:
    wrong = np.flatnonzero(~np.asarray(ok, bool))
    if len(wrong):
      raise self._error(rows[wrong[0]], given[int(wrong[0])].as_py(), problem)

  def _error(self, row: int, value: Any, problem: str) -> DataError:
    shown = repr(value[:60]) if isinstance(value, str) else value
    return DataError(terminal.one_line(f"column {self._column!r}, row {row}: the time {shown} {problem}"))


def _of_timestamps(values: Any) -> np.ndarray:
  """Microseconds."""
  import pyarrow

  if pyarrow.types.is_date(values.type):
    values = values.cast(pyarrow.timestamp("ms"))
  per_second = UNITS[values.type.unit]
  counts = values.cast(pyarrow.int64()).to_numpy(zero_copy_only=False)
  if per_second > 10**6:
    return np.floor_divide(counts, per_second // 10**6)
  ticks = 10**6 // per_second
  return np.clip(counts, -(2**63) // ticks + 1, 2**63 // ticks - 1) * ticks


def _is_date(text: str, zone: str | None) -> bool:
  import pyarrow

  for unit in ("us", "ns"):
    try:
      pyarrow.array([text]).cast(pyarrow.timestamp(unit, zone))
      return True
    except pyarrow.ArrowInvalid:
      continue
  return False
