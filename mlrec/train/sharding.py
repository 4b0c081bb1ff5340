"""Where arrays lie on the devices: a mesh of one axis, and a few rules by name."""

from collections.abc import Sequence
import re
from typing import Any
from typing import NamedTuple
from typing import Self

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mlrec.content.base import Content

DATA = "data"

# Parameters by path: the first pattern found decides; all others are copied to every device.
PARAMETER_RULES: tuple[tuple[str, PartitionSpec], ...] = ()


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """All devices of all processes (or those given) along the axis `data`."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def state_shardings(
  mesh: Mesh, abstract_state: Any, rules: Sequence[tuple[str, PartitionSpec]] = PARAMETER_RULES
) -> Any:
  """A sharding for each leaf of a state, by `rules` over its path (optimiser moments share their parameter's rule)."""

  def choose(path: Any, leaf: Any) -> NamedSharding:
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

  def place(array: np.ndarray) -> jax.Array:
    array = np.asarray(array)
    sharding = _cut(mesh, array.shape, axis)
    if jax.process_count() == 1:
      return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

  return jax.tree.map(place, arrays)


def put_shapes(mesh: Mesh, arrays: Any, axis: int = 0) -> Any:
  """Shapes, dtypes and shardings of what `put` would give; of `arrays`, shapes and dtypes are enough."""

  def describe(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_cut(mesh, array.shape, axis))

  return jax.tree.map(describe, arrays)


def _cut(mesh: Mesh, shape: tuple[int, ...], axis: int) -> NamedSharding:
  """Along `axis` where the mesh divides it, else whole on all devices."""
  divides = len(shape) > axis and shape[axis] % mesh.size == 0
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA) if divides else PartitionSpec())


class Shares(NamedTuple):
  """Which parts of an axis this process's devices hold: `places` of `number` equal ones. Picklable, unlike devices."""

  places: tuple[int, ...]
  number: int

  @classmethod
  def of(cls, mesh: Mesh) -> Self:
    here = jax.process_index()
    return cls(
      tuple(place for place, device in enumerate(mesh.devices.flat) if device.process_index == here), mesh.size
    )

  def read(self, content: Content, items: np.ndarray) -> dict[int, dict[str, np.ndarray]]:
    """By place, the content of its part of the last axis of dense ids `[..., U]`; `number` divides U."""
    size = items.shape[-1] // self.number
    return {place: content.read(items[..., place * size : (place + 1) * size]) for place in self.places}


def put_content(mesh: Mesh, shape: tuple[int, ...], shares: dict[int, dict[str, np.ndarray]]) -> dict[str, jax.Array]:
  """The content of dense ids of a `shape [..., U]`, cut along U, from the parts that `Shares.read` gave."""
  sharding = NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), DATA))
  size, axis = shape[-1] // mesh.size, len(shape) - 1

  def array(name: str, like: np.ndarray) -> jax.Array:
    whole = (*shape, *like.shape[len(shape) :])

    def part(index: Any) -> np.ndarray:
      return shares[(index[axis].start or 0) // size][name]

    return jax.make_array_from_callback(whole, sharding, part)

  return {name: array(name, like) for name, like in next(iter(shares.values())).items()}


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())
