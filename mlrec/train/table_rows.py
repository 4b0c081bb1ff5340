"""Item tables of a training state: their rows, and the lines that narrow ones lie in while a run trains on a TPU."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

import jax
from jax import Array

from mlrec import rows_in_lines
from mlrec.models.layers import variables

T = TypeVar("T")


def rows_of(tree: Any, items: Array, widths: Mapping[str, int]) -> Any:
  """A training state, or a part of one, with the rows of `items [U]` in place of the tables of those names."""
  return _on_tables(widths, lambda table, width: rows_in_lines.read(table, items, width), tree)


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
      if rows_in_lines.several_in(leaves[name].shape[1], lanes) and leaves[name].sharding.is_fully_replicated
    }
    return cls(narrow, lanes)

  def laid(self, tree: Any) -> Any:
    """A training state, or a part of one, with its tables in lines."""
    return _on_tables(self.shapes, lambda table, _: rows_in_lines.laid(table, self._lanes), tree)

  def taken(self, tree: Any) -> Any:
    """The opposite of `laid`."""
    return _on_tables(self.shapes, rows_in_lines.taken, tree)


def _on_tables(tables: Mapping[str, T], change: Callable[[Array, T], Array], tree: Any) -> Any:
  """`tree` with its tables changed, given what `tables` has for each; an optimiser's arrays have their names too."""

  def one(path: Any, leaf: Array) -> Array:
    name = variables.parameter_of(variables.name_of(path), tables)
    return leaf if name is None else change(leaf, tables[name])

  return jax.tree_util.tree_map_with_path(one, tree)
