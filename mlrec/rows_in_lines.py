"""Tables whose rows lie several in a line: pure functions of arrays.

A TPU keeps arrays in tiles of 8 x 128. A table of width 64 it keeps turned, so that no tile is half empty, and what
reads or writes its rows needs a copy that is not turned, filled up to 128: for 1.14 million items 558 MiB for each of
the parameters and moments, in every step, and as much where users are ranked. In lines of 128 numbers a row is a window
of its line, and nothing is copied.

A table `[R, D]` lies in `[ceil(R / k), k * D]`, k rows in a line, the last line filled up with zeros. Functions that
take either tell one from the other by the width of a row: as it is, a table is as wide as that.
"""

import dataclasses
import functools

import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import Mesh

# Numbers in a line, by platform; others read rows of any width where they lie.
LANES = {"tpu": 128}
# Lines that are laid, or taken apart, at once: what is copied of them is filled up as the whole would be.
_AT_ONCE = 8192

_GATHER = jax.lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0, 1))
_SCATTER = jax.lax.ScatterDimensionNumbers(
  update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 1)
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RowsInLines:
  """A table in lines.

  Attributes:
    lines: `[ceil(R / k), k * width]`.
    width: of a row.
  """

  lines: Array
  width: int = dataclasses.field(metadata={"static": True})


def rows_of(table: Array | RowsInLines, rows: Array) -> Array:
  """Rows `[..., D]` of `rows` int `[...]` of a table in lines, or of `table [R, ...]`; instead of one beyond it any."""
  if isinstance(table, RowsInLines):
    return read(table.lines, rows.ravel(), table.width).reshape(*rows.shape, table.width)
  return jnp.take(table, rows, axis=0, mode="clip")


def lanes_of(mesh: Mesh) -> int:
  """The numbers in a line on the devices of a mesh; 0 where rows are read where they lie."""
  return LANES.get(mesh.devices.flat[0].platform, 0)


def several_in(width: int, lanes: int) -> bool:
  """Whether lines of `lanes` numbers hold more than one row of that width, with nothing over."""
  return lanes > width and lanes % width == 0


@functools.partial(jax.jit, static_argnames="lanes")
def laid(table: Array, lanes: int) -> Array:
  """A table `[R, D]` in lines of `lanes` numbers."""
  width = table.shape[1]
  in_line = lanes // width
  table = jnp.pad(table, ((0, max(in_line - table.shape[0], 0)), (0, 0)))
  whole, over = divmod(table.shape[0], in_line)
  lines = _copied(table, jnp.zeros((whole + bool(over), lanes), table.dtype), whole, in_line, 1)
  if over:
    # Read as a whole line, of which the first rows are in the one before: of less a TPU's compiler copies the table.
    last = jnp.roll(table[-in_line:].reshape(1, lanes), over * width, axis=1)
    last = jnp.where(jnp.arange(lanes) < over * width, last, 0)
    lines = jax.lax.dynamic_update_slice_in_dim(lines, last, whole, axis=0)
  return lines


@functools.partial(jax.jit, static_argnames="shape")
def taken(lines: Array, shape: tuple[int, int]) -> Array:
  """The opposite of `laid`: the table of that shape `[R, D]`."""
  in_line = lines.shape[1] // shape[1]
  table = jnp.zeros((lines.shape[0] * in_line, shape[1]), lines.dtype)
  return _copied(lines, table, lines.shape[0], 1, in_line)[: shape[0]]


def _copied(table: Array, out: Array, lines: int, rows: int, rows_out: int) -> Array:
  """`out` with `lines` of `table`, some at a time; `rows` of it and `rows_out` of the other make one of them."""
  at_once = max(min(lines, _AT_ONCE), 1)

  def some(n: Array, out: Array) -> Array:
    # The last begin where they still are all within.
    first = jnp.minimum(n * at_once, lines - at_once)
    part = jax.lax.dynamic_slice_in_dim(table, first * rows, at_once * rows)
    return jax.lax.dynamic_update_slice_in_dim(out, part.reshape(-1, out.shape[1]), first * rows_out, axis=0)

  return jax.lax.fori_loop(0, -(-lines // at_once), some, out)


def read(table: Array, rows: Array, width: int) -> Array:
  """Rows `[U, width]` of `rows` int `[U]`; one beyond the table reads one that is in it."""
  if table.shape[1] == width:
    return jnp.take(table, rows, axis=0, mode="clip")
  return jax.lax.gather(table, _windows(table, rows, width), _GATHER, (1, width), mode="clip")


def put(table: Array, rows: Array, values: Array) -> Array:
  """`table` with `values [U, D]` in place of those of `rows [U]`, each named once; those beyond it are put nowhere."""
  if table.shape[1] == values.shape[1]:
    return table.at[rows].set(values, mode="drop", unique_indices=True)
  windows = _windows(table, rows, values.shape[1])
  return jax.lax.scatter(table, windows, values, _SCATTER, mode="drop", unique_indices=True)


def add(table: Array, rows: Array, values: Array) -> Array:
  """`table` with `values [U, D]` added to those of `rows [U]`, as often as these are named."""
  if table.shape[1] == values.shape[1]:
    return table.at[rows].add(values)
  return jax.lax.scatter_add(table, _windows(table, rows, values.shape[1]), values, _SCATTER, mode="drop")


def number(table: Array, width: int) -> int:
  """The rows of that width that there is room for."""
  return table.size // width


def _windows(table: Array, rows: Array, width: int) -> Array:
  """Where rows begin in a table of lines, `[U, 2]`."""
  in_line = table.shape[1] // width
  return jnp.stack([rows // in_line, rows % in_line * width], axis=-1)
