"""Learning curves: what a run wrote of its validations."""

from collections.abc import Iterator
import math
import pathlib
from typing import Any

from mlrec import files

# Lines that are longer are none of a run's.
_LONGEST_LINE = 1 << 16
# Points of a curve that a page can show.
_MOST_POINTS = 400


def validations(path: pathlib.Path, metric: str) -> list[tuple[int, float]]:
  """`(step, fraction)` of each validation in a `metrics.jsonl`, ascending; none where the file is missing.

  Lines that are damaged, or that say something else, are passed over. Of very many, some are shown.
  """
  found = dict(_read(path, metric))
  steps = sorted(found)
  return [(step, found[step]) for step in steps[:: max(math.ceil(len(steps) / _MOST_POINTS), 1)]]


def _read(path: pathlib.Path, metric: str) -> Iterator[tuple[int, float]]:
  try:
    with files.open_regular(path) as lines:
      while line := lines.readline(_LONGEST_LINE):
        # Most lines are of training.
        if b'"valid"' not in line:
          continue
        try:
          said: Any = files.parse_json(line.decode())
        except ValueError:
          continue
        if not isinstance(said, dict):
          continue
        step, value = said.get("step"), said.get(metric)
        if (
          said.get("split") == "valid"
          and type(step) is int
          and step > 0
          and isinstance(value, float)
          and 0 <= value <= 1
        ):
          yield step, value
  except OSError:
    return
