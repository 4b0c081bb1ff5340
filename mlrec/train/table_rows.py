"""Rows of item tables: where they lie as they are, and where several lie in a line.

A TPU keeps arrays in tiles of 8 x 128. A table of width 64 it keeps turned, so that no tile is half empty, and what
reads or writes its rows needs a copy that is not turned, filled up to 128: for 1.14 million items 558 MiB for each of
the parameters and moments, in every step. In lines of 128 numbers a row is a window of its line, and nothing is copied.

What is here tells one from the other by the width of a row: as they are, a table is as wide as that.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers import variables

T = TypeVar("T")

# Numbers in a line, by platform; others read rows of any width where they lie.
LANES = {"tpu": 128}

_GATHER = jax.lax.GatherDimensionNumbers(offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0, 1))
_SCATTER = jax.lax.ScatterDimensionNumbers(
  update_window_dims=(1,), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0, 1)
)


def read(table: Array, items: Array, width: int) -> Array:
  """Rows `[U, width]` of `items` int `[U]`; an id beyond the table reads one that is in it."""
  if table.shape[1] == width:
    return jnp.take(table, items, axis=0, mode="clip")
  return jax.lax.gather(table, _windows(table, items, width), _GATHER, (1, width), mode="clip")


def rows_of(tree: Any, items: Array, widths: Mapping[str, int]) -> Any:
  """A training state, or a part of one, with the rows of `items [U]` in place of the tables of those names."""
  return _on_tables(widths, lambda table, width: read(table, items, width), tree)


def put(table: Array, items: Array, rows: Array) -> Array:
  """`table` with `rows [U, D]` in place of those of `items [U]`, each named once; ids beyond it are put nowhere."""
  if table.shape[1] == rows.shape[1]:
    return table.at[items].set(rows, mode="drop", unique_indices=True)
  windows = _windows(table, items, rows.shape[1])
  return jax.lax.scatter(table, windows, rows, _SCATTER, mode="drop", unique_indices=True)


def add(table: Array, items: Array, rows: Array) -> Array:
  """`table` with `rows [U, D]` added to those of `items [U]`, as often as these are named."""
  if table.shape[1] == rows.shape[1]:
    return table.at[items].add(rows)
  return jax.lax.scatter_add(table, _windows(table, items, rows.shape[1]), rows, _SCATTER, mode="drop")


def number(table: Array, width: int) -> int:
  """The rows of that width that there is room for."""
  return table.size // width


def _windows(table: Array, items: Array, width: int) -> Array:
  """Where rows begin in a table of lines, `[U, 2]`."""
  in_line = table.shape[1] // width
  return jnp.stack([items // in_line, items % in_line * width], axis=-1)


class Lines:
  """Which tables lie in lines while a run trains.

  Attributes:
    shapes: of each, by its parameter's name, as it is outside of training: `[R, D]`.
  """

  def __init__(self, shapes: Mapping[str, tuple[int, int]], lanes: int):
    """Keeps what `of` has found."""
    self.shapes, self._lanes = dict(shapes), lanes

  @classmethod
  def of(cls, params: Any, lanes: int) -> "Lines":
    """Of parameters: tables whose rows steps read in batches, that no rule cuts, and of which `lanes` hold several."""
    tables = variables.tables_in_batches(params)
    leaves = {variables.name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    narrow = {
      name: leaves[name].shape
      for name in sorted(tables)
      if lanes > (width := leaves[name].shape[1]) and lanes % width == 0 and leaves[name].sharding.is_fully_replicated
    }
    return cls(narrow, lanes)

  def laid(self, tree: Any) -> Any:
    """A training state, or a part of one, with its tables in lines, the last filled up with zeros."""

    def one(table: Array, shape: tuple[int, int]) -> Array:
      rows, width = shape
      return jnp.pad(table, ((0, -rows % (self._lanes // width)), (0, 0))).reshape(-1, self._lanes)

    return _on_tables(self.shapes, one, tree)

  def taken(self, tree: Any) -> Any:
    """The opposite of `laid`."""
    return _on_tables(self.shapes, lambda table, shape: table.reshape(-1, shape[1])[: shape[0]], tree)


def _on_tables(tables: Mapping[str, T], change: Callable[[Array, T], Array], tree: Any) -> Any:
  """`tree` with its tables changed, given what `tables` has for each; an optimiser's arrays have their names too."""

  def one(path: Any, leaf: Array) -> Array:
    name = variables.parameter_of(variables.name_of(path), tables)
    return leaf if name is None else change(leaf, tables[name])

  return jax.tree_util.tree_map_with_path(one, tree)
