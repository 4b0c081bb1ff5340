"""Where arrays lie on the devices: a mesh of one axis, and a few rules by name."""

from collections.abc import Sequence
import functools
import re
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mlrec.data.content import Content

DATA = "data"

# Parameters by path: the first pattern found decides; all others are copied to every device.
PARAMETER_RULES: tuple[tuple[str, PartitionSpec], ...] = ()


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """All devices of all processes (or those given) along the axis `data`."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def state_shardings(mesh: Mesh, abstract_state: Any, rules=PARAMETER_RULES) -> Any:
  """A sharding for each leaf of a state, by `rules` over its path (optimiser moments share their parameter's rule)."""

  def choose(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, spec in rules:
      if re.search(pattern, name) and len(spec) <= leaf.ndim:
        return NamedSharding(mesh, spec)
    return NamedSharding(mesh, PartitionSpec())

  return jax.tree_util.tree_map_with_path(choose, abstract_state)


def put(mesh: Mesh, arrays: Any, axis: int = 0) -> Any:
  """Global arrays from host arrays that every process holds whole, cut along `axis`; each device gets its share only.

  Arrays whose `axis` the mesh does not divide (or that have no such axis) are copied to all devices.
  """

  def place(array: np.ndarray):
    array = np.asarray(array)
    sharded = array.ndim > axis and array.shape[axis] % mesh.size == 0
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA) if sharded else PartitionSpec())
    if jax.process_count() == 1:
      return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

  return jax.tree.map(place, arrays)


def put_content(mesh: Mesh, content: Content, items: np.ndarray) -> dict[str, jax.Array]:
  """The content of dense ids `[..., U]`, cut along U; each process reads its devices' share alone.

  The mesh divides U.
  """
  sharding = NamedSharding(mesh, PartitionSpec(*[None] * (items.ndim - 1), DATA))
  read: dict[Any, dict[str, np.ndarray]] = {}

  def share(name: str, index: tuple[slice, ...]) -> np.ndarray:
    index = index[: items.ndim]
    key = tuple((part.start, part.stop) for part in index)
    if key not in read:
      read[key] = content.read(items[index])
    return read[key][name]

  return {
    name: jax.make_array_from_callback((*items.shape, *need.shape), sharding, functools.partial(share, name))
    for name, need in content.needs.items()
  }


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())
