"""Variables that training does not touch; and what a parameter says of itself: its group, and whose rows it has.

What a parameter says is metadata of its `nnx.Param`, so it survives splitting, tracing and merging.
"""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from flax import nnx
import jax
from jax import Array

# Groups of parameters, each with its learning rate and weight decay (arXiv 2309.15379, released code): encoders of
# content, and everything else.
ENCODER, HEAD = "encoder", "head"
# Whose rows a table holds: row r belongs to the item, or the user, of dense id r.
ITEMS, USERS = "items", "users"
_GROUP, _ROWS, _IN_BATCHES = "group", "rows", "in_batches"


class Frozen(nnx.Variable):
  """A parameter that takes no gradient, has no optimiser state and is not averaged; it is saved as statistics are."""


class DataArray(nnx.Variable):
  """An array that comes from the data, such as a graph, vectors or counts: no gradient, no optimiser state, no average.

  It belongs to the data of a run, so that a warm start from another run keeps this run's own.
  """


def freeze(model: nnx.Module, paths: Iterable[tuple[Any, ...]]) -> None:
  """Turns the parameters at those paths of `nnx.state(model)` into `Frozen` ones, in place."""
  owners = {path: module for path, module in nnx.iter_modules(model)}
  for path in paths:
    owner, name = owners[path[:-1]], str(path[-1])
    variable = getattr(owner, name)
    if isinstance(variable, nnx.Param):
      said = variable.get_metadata()
      setattr(owner, name, Frozen(variable[...], **{key: said[key] for key in (_ROWS,) if key in said}))


def put_in_group(module: nnx.Module, group: str) -> None:
  """Puts all parameters of a module into a group, in place."""
  for _, node in nnx.iter_graph(module):
    if isinstance(node, nnx.Param):
      node.set_metadata(**{_GROUP: group})


def rows_of_items(value: Array) -> nnx.Param:
  """A parameter `[num_items + 1, ...]` with a row for each item, the padding item first."""
  return _param(value, ITEMS)


def rows_of_users(value: Array) -> nnx.Param:
  """A parameter `[num_users, ...]` with a row for each user."""
  return _param(value, USERS)


def _param(value: Array, owner: str) -> nnx.Param:
  param = nnx.Param(value)
  hold_rows(param, owner)
  return param


def hold_rows(variable: nnx.Variable, owner: str) -> None:
  """Has an existing parameter say that it holds the rows of `ITEMS` or of `USERS`."""
  variable.set_metadata(**{_ROWS: owner})


def read_in_batches(variable: nnx.Variable) -> None:
  """Has a parameter with the rows of items say that a training step reads those of its batch alone."""
  variable.set_metadata(**{_IN_BATCHES: True})


def name_of(path: Any) -> str:
  """What a parameter of a state is called, by the path that JAX gives of it: `items.table.value`, say."""
  return jax.tree_util.keystr(path, simple=True, separator=".")


def parameter_of(name: str, parameters: Collection[str]) -> str | None:
  """The parameter that an array of a training state is of: an optimiser's, say, whose name ends in the parameter's."""
  parts = name.split(".")
  return next((end for start in range(len(parts)) if (end := ".".join(parts[start:])) in parameters), None)


def groups(params: Any) -> dict[str, str]:
  """The group of each parameter that names one, by its `name_of`; others are in `HEAD`."""
  return {name: said[_GROUP] for name, said in _metadata(params) if _GROUP in said}


def row_owners(params: Any) -> dict[str, str]:
  """Whose rows each table of `params` holds, by its `name_of`."""
  return {name: said[_ROWS] for name, said in _metadata(params) if _ROWS in said}


def tables_in_batches(params: Any) -> set[str]:
  """Parameters of which a training step reads the rows of its batch alone, by `name_of`."""
  return {name for name, said in _metadata(params) if _IN_BATCHES in said}


def _metadata(params: Any) -> Iterator[tuple[str, dict[str, Any]]]:
  if isinstance(params, nnx.State):
    for path, variable in nnx.to_flat_state(params):
      yield ".".join(map(str, (*path, "value"))), variable.get_metadata()
