"""Where arrays lie on the devices: a mesh of two axes, and what the rules of a config say of parameters."""

from collections.abc import Sequence
import math
import re
from typing import Any
from typing import NamedTuple
from typing import Self

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from mlrec.config import ConfigError
from mlrec.content.base import Content
from mlrec.data.static_shapes import round_up
from mlrec.models.layers import variables
from mlrec.sharding_rules import AXES
from mlrec.sharding_rules import MODEL
from mlrec.sharding_rules import ROWS
from mlrec.sharding_rules import Rule
from mlrec.sharding_rules import WHOLE

# Tables that are cut have so many rows or a multiple, the last of which are nobody's: whatever power of two of devices,
# up to it, a run goes on with, it finds the same arrays.
_ROWS_MULTIPLE = 512
# Along which a table may have been cut that a checkpoint holds.
_MOST_DEVICES = 4096
# Arrays of fewer numbers stay whole under `fsdp`: to gather them costs more than to hold them.
_LEAST_CUT = 1 << 16


def make_mesh(devices: Sequence[jax.Device] | None = None, model: int = 1) -> Mesh:
  """All devices of all processes (or those given) along the axes `data` and `model`, of which the latter has `model`.

  Raises:
    ConfigError: `model` does not divide their number.
  """
  devices = jax.devices() if devices is None else devices
  if len(devices) % model:
    fitting = [str(number) for number in range(1, len(devices) + 1) if len(devices) % number == 0]
    raise ConfigError(
      f"config.sharding.model = {model} must divide the number of devices, {len(devices)}: give {' or '.join(fitting)}"
    )
  return jax.make_mesh(
    (len(devices) // model, model), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
  )  # fmt: skip


class Placement:
  """Where the arrays of a training state lie on a mesh, by rules over the paths of its parameters."""

  def __init__(self, mesh: Mesh, rules: Sequence[Rule] = ()):
    self.mesh, self._rules = mesh, tuple(rules)

  def padded(self, params: nnx.State) -> nnx.State:
    """Parameters whose tables that are cut by rows have rows of zeros more, so that the devices divide them."""
    owners = variables.row_owners(params)

    def one(path: Any, param: jax.Array) -> jax.Array:
      name = variables.name_of(path)
      rule = self._rule(name)
      if rule.strategy != ROWS or name not in owners:
        return param
      more = rows_over(self.mesh, rule.axes, len(param)) - len(param)
      return jnp.pad(param, [(0, more)] + [(0, 0)] * (param.ndim - 1))

    return jax.tree_util.tree_map_with_path(one, params)

  def shardings(self, params: Any, state: Any) -> Any:
    """The sharding of each leaf of a `state` of shapes; arrays that an optimiser has for a parameter lie as it does.

    Raises:
      ConfigError: a rule fits no parameter, or the devices do not divide what it cuts.
    """
    leaves = {variables.name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for rule in self._rules:
      if not any(rule.pattern.search(name) for name in leaves):
        raise ConfigError(
          f"config.sharding.rules: {rule} fits no parameter of this model, which has {', '.join(sorted(leaves)[:12])}"
          f"{' and more' if len(leaves) > 12 else ''}"
        )
    specs = {name: self._spec(name, leaf.shape) for name, leaf in leaves.items()}

    def choose(path: Any, leaf: Any) -> NamedSharding:
      name = variables.parameter_of(variables.name_of(path), leaves)
      if name is None or leaves[name].shape != leaf.shape:
        return replicated(self.mesh)
      return NamedSharding(self.mesh, specs[name])

    return jax.tree_util.tree_map_with_path(choose, state)

  def _rule(self, name: str) -> Rule:
    return next((rule for rule in self._rules if rule.pattern.search(name)), _NO_RULE)

  def _spec(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
    rule = self._rule(name)
    if rule.strategy == WHOLE:
      return PartitionSpec()
    size = size_of(self.mesh, rule.axes)
    if rule.strategy == ROWS:
      if not shape or shape[0] % size:
        raise ConfigError(
          f"config.sharding.rules: {rule} would cut {name} {list(shape)} along its first axis, which {size} devices do "
          "not divide"
        )
      return PartitionSpec(rule.axes)
    # The last of equal axes, so that of a square kernel the outputs are cut.
    largest = max((n for n in range(len(shape)) if shape[n] % size == 0), key=lambda n: (shape[n], n), default=None)
    if largest is None or math.prod(shape) < _LEAST_CUT:
      return PartitionSpec()
    return PartitionSpec(*[None] * largest, rule.axes)


_NO_RULE = Rule(re.compile(""), WHOLE, ())


def size_of(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
  """Devices along the axes."""
  return math.prod(mesh.shape[axis] for axis in axes)


def rows_over(mesh: Mesh, axes: Sequence[str], number: int) -> int:
  """The rows of a table that has `number` of its own and is cut over the axes."""
  return round_up(number, math.lcm(_ROWS_MULTIPLE, size_of(mesh, axes)))


def is_filled_up(number: int, rows: int) -> bool:
  """Whether `rows` is what `rows_over` makes of a table of `number` for some number of devices."""
  return any(rows == round_up(number, math.lcm(_ROWS_MULTIPLE, devices)) for devices in range(1, _MOST_DEVICES + 1))


def parts_of_rows(sharding: NamedSharding) -> int:
  """Into how many parts the first axis of an array is cut."""
  axes = sharding.spec[0] if sharding.spec else None
  return size_of(sharding.mesh, (axes,) if isinstance(axes, str) else axes or ())


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
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES) if divides else PartitionSpec())


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

  def of_parts(self, number: int) -> tuple[int, ...]:
    """Those of so many parts, a multiple of `self.number`, that are here."""
    each = number // self.number
    return tuple(place * each + n for place in self.places for n in range(each))

  def read(
    self, content: Content, items: np.ndarray, *, axis: int = -1, held: bool = False
  ) -> dict[int, dict[str, np.ndarray]]:
    """By place, the content of its part of an axis of dense ids.

    Args:
      content: what is read.
      items: `[..., U]`, the places dividing the `axis`.
      axis: which is cut.
      held: whether `items` has along it what is here alone.
    """
    pieces = np.split(items, len(self.places) if held else self.number, axis)
    return {place: content.read(pieces[n if held else place]) for n, place in enumerate(self.places)}


def put_parts(mesh: Mesh, arrays: Any, parts: Sequence[int], number: int) -> Any:
  """Global arrays `[S, number, ...]`, cut along the second axis, from host arrays `[S, len(parts), ...]`.

  Args:
    mesh: whose devices divide `number`.
    arrays: what this process has.
    parts: those of the `number` that are this process's, as `Shares.of_parts` says.
    number: of parts.
  """
  sharding = NamedSharding(mesh, PartitionSpec(None, AXES))
  local = {part: n for n, part in enumerate(parts)}

  def place(array: np.ndarray) -> jax.Array:
    if jax.process_count() == 1:
      return jax.device_put(array, sharding)

    def piece(index: Any) -> np.ndarray:
      start = local[index[1].start or 0]
      return array[:, start : start + number // mesh.size]

    return jax.make_array_from_callback((array.shape[0], number, *array.shape[2:]), sharding, piece)

  return jax.tree.map(place, arrays)


def put_content(
  mesh: Mesh, shape: tuple[int, ...], shares: dict[int, dict[str, np.ndarray]], *, axis: int = -1
) -> dict[str, jax.Array]:
  """The content of dense ids of a `shape [..., U]`, cut along an axis, from the parts that `Shares.read` gave."""
  axis %= len(shape)
  sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))
  size = shape[axis] // mesh.size

  def array(name: str, like: np.ndarray) -> jax.Array:
    whole = (*shape, *like.shape[len(shape) :])

    def part(index: Any) -> np.ndarray:
      return shares[(index[axis].start or 0) // size][name]

    return jax.make_array_from_callback(whole, sharding, part)

  return {name: array(name, like) for name, like in next(iter(shares.values())).items()}


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def over_items(mesh: Mesh) -> NamedSharding:
  """Of arrays with a row for each item, where the axis `model` divides their number."""
  return NamedSharding(mesh, PartitionSpec(MODEL))
