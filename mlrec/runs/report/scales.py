"""Axes of charts: where values lie, and which are named."""

from collections.abc import Iterable
import dataclasses
import math

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
# About how many ticks an axis has.
_TICKS = 5
# Values that are closer are one.
_LEAST_RANGE = 1e-9


@dataclasses.dataclass(frozen=True)
class Scale:
  """Values from `low` to `high` laid on `start` to `end`.

  Attributes:
    low: the least value.
    high: the most.
    start: where the least lies.
    end: where the most lies.
    logarithmic: whether equal ratios are equally long; `low` is then above 0.
    ticks: values to be named, ascending, all of them within.
  """

  low: float
  high: float
  start: float
  end: float
  logarithmic: bool
  ticks: tuple[float, ...]

  @classmethod
  def linear(
    cls, values: Iterable[float], start: float, end: float, *, zero: bool = False, whole: bool = False
  ) -> "Scale":
    """A scale that holds all `values` (0 or more), and 0 if `zero`; a few round ticks, the first and last at its ends.

    `whole`: ticks are whole numbers.
    """
    known = [*map(float, values), *([0.0] if zero else [])] or [0.0]
    low, high = min(known), max(known)
    if high - low < _LEAST_RANGE * max(high, 1.0):
      low, high = (0.0, high) if high >= _LEAST_RANGE else (0.0, 1.0)
    step = max(_round_step((high - low) / (_TICKS - 1)), 1.0 if whole else 0.0)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(place * step for place in range(first, last + 1))
    return cls(ticks[0], ticks[-1], start, end, False, ticks)

  @classmethod
  def log(cls, values: Iterable[float], start: float, end: float) -> "Scale":
    """A logarithmic scale that holds all `values`, which are above 0; its ticks are round."""
    known = list(values)
    low, high = min(known) / 1.25, max(known) * 1.25
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
      ticks = tuple(t for power in decades for digit in digits if low <= (t := digit * 10.0**power) <= high)
      if len(ticks) >= 3:
        break
    else:
      ticks = tuple(tick for tick in cls.linear((low, high), start, end).ticks if low <= tick <= high)
    return cls(low, high, start, end, True, ticks)

  def __call__(self, value: float) -> float:
    """Where a value lies."""
    low, high = self.low, self.high
    if self.logarithmic:
      value, low, high = math.log(value), math.log(low), math.log(high)
    return self.start + (value - low) / (high - low) * (self.end - self.start)


def _round_step(least: float) -> float:
  power = 10.0 ** math.floor(math.log10(least))
  return next(step * power for step in _STEPS if step * power >= least * (1 - 1e-9))


def named(value: float) -> str:
  """A tick's name: as short as it can be."""
  for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
    if value >= least:
      return f"{value / size:.3g}{letter}"
  return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
