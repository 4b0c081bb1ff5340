"""What is said of entries of a file that do not fit a model: the name and shape of each, and the nearest name."""

from collections.abc import Mapping

from mlrec import registry

Shapes = Mapping[str, tuple[int, ...]]

_MOST_NAMED = 10
# Comparing takes time that grows with the lengths of both names: a file has any number of names, of any length.
_MOST_COMPARED, _LONGEST_COMPARED = 1000, 200


def missing(name: str, shape: tuple[int, ...], unused: Shapes) -> str:
  """That an entry is missing, and which of those that nothing else uses has the nearest name."""
  near = _nearest(name, unused)
  hint = f"; the nearest in the file is {near}" if near else ""
  return f"missing entry {name!r} of shape {shape}{hint}"


def surplus(unused: Shapes, expected: Shapes) -> str:
  """That entries are not used, and which expected name is the nearest to the first."""
  first = sorted(unused)[:_MOST_NAMED]
  more = f" and {len(unused) - len(first)} more" if len(unused) > len(first) else ""
  near = _nearest(first[0], expected)
  hint = f"; the nearest to the first in the model is {near}" if near else ""
  return f"{', '.join(f'{name!r} of shape {unused[name]}' for name in first)}{more}{hint}"


def _nearest(name: str, shapes: Shapes) -> str:
  names = [other for other in sorted(shapes)[:_MOST_COMPARED] if len(other) <= _LONGEST_COMPARED]
  near = registry.near(name, names)
  return f"{near[0]!r} of shape {shapes[near[0]]}" if near else ""
