"""Published Flax parameters under PyTorch's names, by a table that an encoder keeps.

Such a file is flat: a key is the path through the tree of parameters, its parts separated by `/`, and layers that were
run by a scan lie on a leading axis of one array.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import re
from typing import Any
from typing import NamedTuple

import numpy as np

from mlrec.models.convert import misfits


def same(array: np.ndarray) -> np.ndarray:
  """The form of an entry whose axes are PyTorch's."""
  return array


class FlaxEntry(NamedTuple):
  """How one entry of the file is called and laid out there and in PyTorch.

  Attributes:
    name: in the file.
    shape: in the file, of one layer.
    torch_name: in PyTorch, with `{}` for the number of the layer where layers are stacked.
    form: brings one layer's array into PyTorch's axis order.
    layers: the length of the leading axis of stacked layers; None where there is none.
  """

  name: str
  shape: tuple[int, ...]
  torch_name: str
  form: Callable[[np.ndarray], np.ndarray] = same
  layers: int | None = None


def from_flax(
  entries: Mapping[str, Any], table: Iterable[FlaxEntry], dropped: str | None = None
) -> dict[str, np.ndarray]:
  """A Flax file's entries under PyTorch's names, stacked layers apart.

  Args:
    entries: arrays by the names of the file.
    table: an entry for each that is used.
    dropped: an expression that finds the names of those that are not.

  Returns:
    Arrays by PyTorch's names.

  Raises:
    ValueError: an entry is missing, unused or wrongly shaped; it is named as the file calls it.
  """
  table = list(table)
  expected = {name: shape if layers is None else (layers, *shape) for name, shape, _, _, layers in table}
  unused = {
    name: np.shape(array)
    for name, array in entries.items()
    if name not in expected and (dropped is None or not re.search(dropped, name))
  }
  converted: dict[str, np.ndarray] = {}
  for name, _, torch_name, form, layers in table:
    if name not in entries:
      raise ValueError(misfits.missing(name, expected[name], unused))
    array = np.asarray(entries[name])
    if array.shape != expected[name]:
      raise ValueError(f"entry {name!r} has shape {array.shape}; expected {expected[name]}")
    if layers is None:
      converted[torch_name] = form(array)
    else:
      converted |= {torch_name.format(layer): form(array[layer]) for layer in range(layers)}
  if unused:
    raise ValueError(f"unused entries: {misfits.surplus(unused, expected)}")
  return converted
