"""The state of a Flax module under PyTorch's names, shapes and axis order.

A module states how its parts are called there by two class attributes: `torch_names`, pairs of a regular expression and
its replacement, applied in turn to the names below it; and `torch_dropped`, expressions of entries of a published file
that it does not use. A method `torch_prepared(entries)` may first adapt what a file holds (a prefix, an older spelling,
a table of positions of another length, Flax's names). Parameter kinds (a linear kernel, a convolution, a norm) convert
by one table.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import os
import re
from typing import Any

from flax import nnx
import jax.numpy as jnp
import numpy as np

from mlrec.models.convert import misfits
from mlrec.models.convert.torch_file import read_torch


def to_torch(model: nnx.Module) -> dict[str, np.ndarray]:
  """All parameters and statistics of `model` by PyTorch name, as NumPy arrays in PyTorch's axis order."""
  return {name: _to_torch(kind, np.asarray(variable[...])) for name, kind, variable in _entries(model)}


def load_torch(model: nnx.Module, arrays: Mapping[str, Any] | str | os.PathLike) -> None:
  """Fills `model` in place from arrays under PyTorch's names.

  Args:
    model: any module; its `torch_names` say how it is called there.
    arrays: a mapping of names to arrays, or the path of a file that `read_torch` reads.

  Raises:
    ValueError: an entry is missing, unused, wrongly shaped or no real number; it is named, with its shape, the expected
      one and the nearest name. Or the file is refused.
  """
  entries = arrays if isinstance(arrays, Mapping) else read_torch(arrays)
  # A model may take files of several spellings, or sizes that it can adapt.
  entries = getattr(model, "torch_prepared", dict)(entries)
  owner, dropped = type(model).__name__, list(_dropped(model))
  parts = list(_entries(model))
  expected = {name: _to_torch(kind, np.empty(variable.shape, np.uint8)).shape for name, kind, variable in parts}
  unused = {
    name: np.shape(array)
    for name, array in entries.items()
    if name not in expected and not any(_is_below(name, *below) for below in dropped)
  }
  converted = []
  for name, kind, variable in parts:
    if name not in entries:
      raise ValueError(f"{owner}: {misfits.missing(name, expected[name], unused)}")
    array = np.asarray(entries[name])
    if array.shape != expected[name]:
      raise ValueError(f"entry {name!r} has shape {array.shape}; {owner} expects {expected[name]}")
    if array.dtype.kind == "c":
      raise ValueError(f"entry {name!r} of shape {array.shape} has dtype {array.dtype}; {owner} expects real numbers")
    converted.append((variable, _from_torch(kind, array)))
  if unused:
    raise ValueError(f"unused entries for {owner}: {misfits.surplus(unused, expected)}")
  # Only a complete set of arrays touches the model.
  for variable, array in converted:
    variable[...] = jnp.asarray(array, variable.dtype)


def names_by_path(model: nnx.Module) -> dict[tuple[Any, ...], str]:
  """The PyTorch name of each variable of `model`, by its path in `nnx.state`."""
  owners = {path: module for path, module in nnx.iter_modules(model)}
  return {
    path: _renamed_upwards(owners, path[:-1], _kind(owners[path[:-1]], str(path[-1]))[1])
    for path, _ in nnx.to_flat_state(nnx.state(model))
  }


def _entries(model: nnx.Module) -> Iterator[tuple[str, str, nnx.Variable]]:
  """`(PyTorch name, kind of parameter, variable)` of every leaf, in definition order."""
  owners = {path: module for path, module in nnx.iter_modules(model)}
  for path, variable in nnx.to_flat_state(nnx.state(model)):
    owner = owners[path[:-1]]
    kind, leaf = _kind(owner, str(path[-1]))
    yield _renamed_upwards(owners, path[:-1], leaf), kind, variable


def _renamed(owner: nnx.Module | None, name: str) -> str:
  for pattern, replacement in getattr(owner, "torch_names", ()):
    name = re.sub(pattern, replacement, name)
  return name


def _dropped(model: nnx.Module) -> Iterator[tuple[str, str]]:
  """`(prefix, expression)`: names under the prefix whose rest the expression finds are not used."""
  owners = {path: module for path, module in nnx.iter_modules(model)}
  for path, module in owners.items():
    for pattern in getattr(module, "torch_dropped", ()):
      yield _renamed_upwards(owners, path, ""), pattern


def _is_below(name: str, prefix: str, pattern: str) -> bool:
  return name.startswith(prefix) and re.search(pattern, name.removeprefix(prefix)) is not None


def _renamed_upwards(owners: Mapping[tuple, nnx.Module], path: tuple, name: str) -> str:
  """A name below `path` as seen from the top, each module on the way applying its `torch_names`."""
  for depth in range(len(path) - 1, -1, -1):
    name = f"{path[depth]}.{name}"
    name = _renamed(owners.get(path[:depth]), name)
  return name


def _kind(owner: nnx.Module, attribute: str) -> tuple[str, str]:
  """How a parameter converts, and what PyTorch calls it."""
  if isinstance(owner, nnx.Linear) and attribute == "kernel":
    return "linear", "weight"
  if isinstance(owner, nnx.Conv) and attribute == "kernel":
    return "convolution", "weight"
  renamed = {"embedding": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
  return "same", renamed.get(attribute, attribute)


def _to_torch(kind: str, array: np.ndarray) -> np.ndarray:
  if kind == "linear":
    return array.T
  if kind == "convolution":
    return np.moveaxis(array, (-1, -2), (0, 1))
  return array


def _from_torch(kind: str, array: np.ndarray) -> np.ndarray:
  if kind == "linear":
    return array.T
  if kind == "convolution":
    return np.moveaxis(array, (0, 1), (-1, -2))
  return array
