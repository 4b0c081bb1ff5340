"""Static sizes of arrays whose content varies from batch to batch, so that one compiled program serves them all."""

from collections.abc import Sequence
import math
from typing import Any

import jax
import numpy as np

# Batches looked at to choose the sizes, the standard deviations left for what varies from batch to batch (a batch that
# does not fit costs a compilation), and the growth from one size to the next where one does not fit.
PLANNED_BATCHES = 64
_SPREAD_PLANNED = 4.5
_GROWTH = 1.125


class StaticSizes:
  """Planned sizes, and larger ones where a batch does not fit."""

  def __init__(self, planned: Sequence[float], multiple_of: int = 1):
    """`planned`: the size of each axis; all are rounded up to multiples of `multiple_of`."""
    self._multiple = multiple_of
    self._planned = [round_up(math.ceil(size), multiple_of) for size in planned]

  def holding(self, needed: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The planned sizes, or the next larger ones, that hold each of `needed [batches][axes]`."""
    return tuple(self._grown(size, most) for size, most in zip(self._planned, np.max(needed, axis=0)))

  def _grown(self, size: int, needed: int) -> int:
    while size < needed:
      size = round_up(max(math.ceil(size * _GROWTH), 1), self._multiple)
    return size


def most(sampled: Sequence[int] | np.ndarray, *, spread: float = _SPREAD_PLANNED) -> float:
  """What hardly a batch passes whose sizes vary as those `sampled`: so many standard deviations above their mean."""
  return float(np.mean(sampled) + spread * np.std(sampled))


def stacked(batches: Sequence[Any], size: int) -> Any:
  """Batches of one shape on a new leading axis of `size`, zeros after the last."""

  def stack(*arrays: np.ndarray) -> np.ndarray:
    out = np.zeros((size, *arrays[0].shape), arrays[0].dtype)
    for n, array in enumerate(arrays):
      out[n] = array
    return out

  return jax.tree.map(stack, *batches)


def round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple
