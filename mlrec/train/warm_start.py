"""Starting from parameters that another run, or a published file, has found."""

import contextlib
import pathlib
from typing import Any

from absl import logging
from flax import nnx
import jax
import jax.numpy as jnp

from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data.id_map import IdMap
from mlrec.data.id_map import matched
from mlrec.data.interactions import DataError
from mlrec.models import convert
from mlrec.models.layers import variables
from mlrec.models.layers.variables import DataArray
from mlrec.models.layers.variables import ITEMS
from mlrec.models.layers.variables import row_owners
from mlrec.train.checkpoint import Checkpoints
from mlrec.train.checkpoint import model_shapes
from mlrec.train.run_files import RunFiles
from mlrec.train.state import split_model
from mlrec.train.state import StateSpec
from mlrec.train.state import TrainState


def load(source: RunFiles | pathlib.Path, spec: StateSpec, state: TrainState, ids: IdMap) -> TrainState:
  """`state` with the best parameters of another run, or those of a file.

  Rows of item and user tables are matched by original id: those of new ids keep their random start, and those of ids
  that this run does not have are dropped; how many is logged. A file has no ids: its rows are taken by place. Arrays
  that come from the data stay this run's own.

  Args:
    source: of a run's workdir; or a file under PyTorch's names, of safetensors or `torch.save`.
    spec: of this run.
    state: at its random start.
    ids: of this run.

  Raises:
    ConfigError: there is nothing to read, it is damaged, or names or shapes differ; the first difference is named.
  """
  if isinstance(source, RunFiles):
    params, rest = _from_run(source, spec, state, ids)
  elif source.is_file():
    params, rest = _from_file(source, spec, state)
  else:
    raise ConfigError(
      f"config.init_from = {str(source)!r}: expected a workdir with checkpoints, or a file of safetensors or "
      "torch.save (.safetensors, .pt, .pth, .pyth, .bin)"
    )
  rest = _with_own_data(state, rest)
  average = None if state.average is None else jax.tree.map(lambda x: x.copy(), params)
  return state._replace(params=params, rest=rest, average=average)


def regrown(spec: StateSpec, params: Any, rest: Any, *, ids: IdMap, theirs: IdMap) -> tuple[Any, Any]:
  """Parameters and other variables of a model of some ids, moved to the same model of others.

  Rows of tables and arrays that come from the data are as of `load`; nothing is read.

  Args:
    spec: of the model of `ids`.
    params: of the model of `theirs`, as is `rest`.
    rest: the other variables.
    ids: of users and items, as are `theirs`.
    theirs: those that the parameters are of.
  """
  state = spec.create()
  owners = row_owners(spec.abstract.params) | row_owners(spec.abstract.rest)
  params, rest = (_by_id(own, one, owners, ids, theirs) for own, one in ((state.params, params), (state.rest, rest)))
  return params, _with_own_data(state, rest)


def _with_own_data(state: TrainState, rest: Any) -> Any:
  """`rest`, in which arrays that come from the data are those of `state`."""
  _, others = nnx.split_state(rest, DataArray, ...)
  return nnx.merge_state(others, nnx.filter_state(state.rest, DataArray))


def _from_run(source: RunFiles, spec: StateSpec, state: TrainState, ids: IdMap) -> tuple[Any, Any]:
  named = f"config.init_from = {str(source.checkpoints.parent)!r}"
  if not source.checkpoints.is_dir():
    raise ConfigError(f"{named}: it has no folder {source.checkpoints.name}")
  with contextlib.closing(Checkpoints(source.checkpoints, read_only=True)) as checkpoints:
    record = checkpoints.latest_record()
    step = checkpoints.best_step(record)
    try:
      theirs = IdMap.read(source.ids, digest=record.ids)
      # Shapes come before arrays: a restoration that Orbax breaks off leaves reads under way, which end in a closed
      # event loop.
      saved = checkpoints.model_shapes(step)
    except DataError as error:
      raise ConfigError(f"{named}: {error}") from error
    except Exception as error:  # Orbax raises anything
      raise ConfigError(f"{named}: checkpoint {step} cannot be read: {terminal.shortened(str(error), 500)}") from error
    owners = row_owners(spec.abstract.params) | row_owners(spec.abstract.rest)
    difference = _difference(saved, spec, owners)
    if difference:
      raise ConfigError(f"{named} holds another model: {difference}")
    try:
      params, rest = checkpoints.restore_model(step, _as_saved(spec.abstract, saved))
    except Exception as error:  # Orbax raises anything
      raise ConfigError(f"{named}: checkpoint {step} cannot be read: {terminal.shortened(str(error), 500)}") from error
  if set(owners.values()):
    _log_matches(named, ids, theirs, owners)
  return tuple(_by_id(own, other, owners, ids, theirs) for own, other in ((state.params, params), (state.rest, rest)))  # type: ignore[return-value]


def _difference(saved: dict[str, tuple[int, ...]], spec: StateSpec, owners: dict[str, str]) -> str | None:
  """The first array that only one of the two has, or that has another shape; None if there is none.

  The number of rows of tables does not matter, nor does the shape of arrays that come from the data.
  """
  ours = model_shapes(spec.abstract)
  data = _names_of_data(spec.abstract.rest)
  tables = {f"{part}.{name}" for part in ("params", "rest") for name in owners}

  def compared(shape: tuple[int, ...] | None, name: str) -> tuple[int, ...] | None:
    return shape[1:] if shape is not None and name in tables else shape

  for name in sorted(ours.keys() | saved.keys()):
    here, there = ours.get(name), saved.get(name)
    if name in data and here is not None and there is not None:
      continue
    if compared(here, name) != compared(there, name):
      return f"{name} is {_shown(there)} there, and {_shown(here)} in this model"
  return None


def _as_saved(abstract: TrainState, saved: dict[str, tuple[int, ...]]) -> TrainState:
  """The abstract state with the shapes that were saved: other numbers of rows, and data of other sizes."""

  def one(part: str, tree: Any) -> Any:
    def shaped(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
      name = f"{part}.{variables.name_of(path)}"
      return jax.ShapeDtypeStruct(saved[name], leaf.dtype, sharding=leaf.sharding)

    return jax.tree_util.tree_map_with_path(shaped, tree)

  # What is evaluated is what is read.
  return abstract._replace(params=one("params", abstract.params), rest=one("rest", abstract.rest), average=None)


def _by_id(own: Any, other: Any, owners: dict[str, str], ids: IdMap, theirs: IdMap) -> Any:
  """`other`, its tables' rows moved to the places that their ids have in this run."""
  places = {
    owner: matched(*((ids.items, theirs.items) if owner == ITEMS else (ids.users, theirs.users)))
    for owner in set(owners.values())
  }

  def one(path: Any, ours: jax.Array, there: jax.Array) -> jax.Array:
    owner = owners.get(variables.name_of(path))
    if owner is None:
      return there
    first, second = places[owner]
    moved = ours.at[first].set(jnp.take(there, second, axis=0))
    return jax.device_put(moved, ours.sharding)

  return jax.tree_util.tree_map_with_path(one, own, other)


def _log_matches(named: str, ids: IdMap, theirs: IdMap, owners: dict[str, str]) -> None:
  for owner in sorted(set(owners.values())):
    # The padding item is no item.
    ours, there = (ids.items[1:], theirs.items[1:]) if owner == ITEMS else (ids.users, theirs.users)
    known = len(matched(ours, there)[0])
    if known == len(ours) == len(there):
      continue
    logging.warning(
      "%s: %d of %d %s are known there and keep their rows; %d start at random, %d of its own are dropped.",
      named, known, len(ours), owner, len(ours) - known, len(there) - known,
    )  # fmt: skip


def _names_of_data(rest: Any) -> set[str]:
  return {
    f"rest.{'.'.join(map(str, (*path, 'value')))}"
    for path, variable in nnx.to_flat_state(rest)
    if isinstance(variable, DataArray)
  }


def _from_file(path: pathlib.Path, spec: StateSpec, state: TrainState) -> tuple[Any, Any]:
  model = nnx.merge(spec.graphdef, state.params, state.rest, copy=True)
  try:
    convert.load_torch(model, path)
  except (ValueError, OSError) as error:
    raise ConfigError(f"config.init_from = {str(path)!r}: {error}") from error
  _, params, rest = split_model(model)
  place = lambda value, like: jax.device_put(value, like.sharding)  # noqa: E731
  return jax.tree.map(place, params, spec.abstract.params), jax.tree.map(place, rest, spec.abstract.rest)


def _shown(shape: tuple[int, ...] | None) -> str:
  return "missing" if shape is None else str(shape)
