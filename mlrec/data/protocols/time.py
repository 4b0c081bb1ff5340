"""A global split in time: nothing that training sees is newer than what is to be predicted."""

import datetime

import numpy as np

from mlrec import terminal
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.protocols import protocols
from mlrec.data.protocols.protocol import Log
from mlrec.data.protocols.protocol import NAME_ENDS
from mlrec.data.protocols.protocol import Protocol
from mlrec.data.protocols.protocol import shares
from mlrec.data.splits import Cuts
from mlrec.data.splits import TEST
from mlrec.data.splits import VALID

# Where the date of the test is given alone, the share of the interactions before it that validates.
_VALID_SHARE = 0.1
# Units of timestamps, by how many of them a second has. Those of 1980 to 2100 in one unit are none in another.
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
_FIRST, _END = 315_532_800, 4_102_444_800
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


@protocols.register("time")
class Time(Protocol):
  """Two moments cut the log of all users: training sees what is before the first.

  A user's validation target is the first item at or after the first moment and before the second, the test target the
  first item at or after the second; the history of each is everything of the user before it. Users who have no such
  item, or nothing before it, are not evaluated. Items that only come later exist, and training does not know them.

  * `time:0.8,0.1`: the first moment is after 80 % of all interactions, the second after another 10 %.
  * `time:2023-01-01,2023-02-01`: at the beginning of these days in UTC, or at times such as 2023-01-01T12:00+02:00.
  * `time:2023-02-01`: the second; the last 10 % of the interactions before it validate.
  """

  timed = True
  form = (
    "time:DATE, time:DATE,DATE or time:TRAIN,VALID, the last two shares with a sum below 1, such as time:2023-01-01 or "
    "time:0.8,0.1"
  )

  def __init__(self, text: str):
    self.text = text
    options = text.partition(NAME_ENDS)[2]
    self._shares = shares(options)
    self._dates: list[datetime.datetime] = []
    if self._shares is None:
      try:
        self._dates = [_date(part) for part in options.split(",")]
      except ValueError as error:
        self.refuse(str(error))
      if len(self._dates) > 2 or sorted(set(self._dates)) != self._dates:
        self.refuse("dates are one or two, the earlier one first")

  def cuts(self, log: Log) -> Cuts:
    """By the times of the log."""
    if log.times is None:
      self.refuse_untimed(log.source)
    rows = np.repeat(np.arange(len(log.histories)), log.histories.lengths)
    if ((np.diff(log.times) < 0) & (rows[1:] == rows[:-1])).any():
      raise DataError(f"{log.source}: the histories are not in the order of their timestamps")
    times = np.sort(log.times)
    first, second = self._moments(times, log.source)
    unit = _unit(times)
    before_first, before_second = (_count(log.histories, log.times < moment) for moment in (first, second))
    return Cuts(before_first, {
      VALID: _places(before_first, before_second),
      TEST: _places(before_second, log.histories.lengths),
    }, {VALID: _iso(first, unit), TEST: _iso(second, unit)})  # fmt: skip

  def _moments(self, times: np.ndarray, source: str) -> tuple[int, int]:
    """The two moments, in the unit of the sorted `times`."""
    if self._shares is not None:
      train, valid = self._shares
      places = [min(round(share * len(times)), len(times) - 1) for share in (train, train + valid)]
      found = [int(times[place]) for place in places]
    else:
      unit = _unit(times)
      if unit is None:
        raise DataError(
          f"config.data.split = {self.text!r}: the timestamps of {source}, {times[0]} to {times[-1]}, are no times of "
          f"1980 to 2100 in {' or '.join(_UNITS)}; give shares, such as time:0.8,0.1"
        )
      terminal.tell(f"{source}: timestamps are taken for {unit}, {_shown(times[0], unit)} to {_shown(times[-1], unit)}")
      # What is at or after a moment between two ticks is at or after the later one.
      found = [-(-((date - _EPOCH) // _MICROSECOND) * _UNITS[unit] // 10**6) for date in self._dates]
    if len(found) == 1:
      before = times[: np.searchsorted(times, found[0])]
      if not len(before):
        raise DataError(f"config.data.split = {self.text!r}: {source} has nothing before it")
      found.insert(0, int(before[int((1 - _VALID_SHARE) * len(before))]))
    return found[0], found[1]


def _date(text: str) -> datetime.datetime:
  """A moment in ISO 8601; without a zone in UTC."""
  if "-" not in text:
    raise ValueError(f"{text.strip()!r} is neither a date nor one of two shares")
  date = datetime.datetime.fromisoformat(text.strip())
  return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)


def _unit(times: np.ndarray) -> str | None:
  """What unit sorted timestamps are in; None where they are no times, such as places in a history."""
  for unit, ticks in _UNITS.items():
    if _FIRST * ticks <= times[0] and times[-1] < _END * ticks:
      return unit
  return None


def _iso(time: int, unit: str | None) -> str:
  """A moment as `time:DATE` takes it."""
  if unit is None:
    return str(time)
  # Down to a microsecond: what is finer, Python's times do not hold.
  return (_EPOCH + _MICROSECOND * (time * 10**6 // _UNITS[unit])).isoformat().replace("+00:00", "Z")


def _shown(time: int, unit: str) -> str:
  return f"{_EPOCH + datetime.timedelta(seconds=int(time) // _UNITS[unit]):%Y-%m-%d}"


def _count(histories: Rows, chosen: np.ndarray) -> np.ndarray:
  """`[users]` int64: how many items of each history `chosen` marks."""
  counts = np.concatenate([[0], np.cumsum(chosen, dtype=np.int64)])
  return np.diff(counts[histories.offsets])


def _places(start: np.ndarray, end: np.ndarray) -> np.ndarray:
  """`start [users]`, where it is a place before `end` and has something before it; else -1."""
  return np.where((start > 0) & (start < end), start, -1)
