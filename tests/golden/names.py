"""Lists of names and shapes, for the scripts beside this; layers that are alike take a line for each of their parts."""

from collections.abc import Mapping
import pathlib
import re
from typing import Any

_FOLDER = pathlib.Path(__file__).parent / "keys"


def write(file: str, arrays: Mapping[str, Any]) -> None:
  """Writes the names of `arrays` and their shapes; `layers.{0..3}.norm.weight` stands for four names."""
  alike: dict[tuple, list[int]] = {}
  for name, array in arrays.items():
    before, number, after = re.fullmatch(r"(?:(.*?\.)(\d+)(\..*)|.*)", name).groups()
    key = (name, "", tuple(array.shape)) if number is None else (before, after, tuple(array.shape))
    alike.setdefault(key, []).append(-1 if number is None else int(number))
  lines = []
  for (before, after, shape), numbers in alike.items():
    if numbers == [-1]:
      lines.append(f"{before} {shape}\n")
      continue
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), numbers
    lines.append(f"{before}{{{numbers[0]}..{numbers[-1]}}}{after} {shape}\n")
  (_FOLDER / file).write_text("".join(lines))
