"""Starting from parameters that another run, or a published file, has found."""

import contextlib
import pathlib

from flax import nnx
import jax

from mlrec.config import ConfigError
from mlrec.models import convert
from mlrec.train.checkpoint import Checkpoints
from mlrec.train.state import split_model
from mlrec.train.state import StateSpec
from mlrec.train.state import TrainState


def load(source: str, spec: StateSpec, state: TrainState) -> TrainState:
  """`state` with the best parameters of a workdir, or those of a safetensors file under PyTorch's names.

  Raises:
    ConfigError: there is nothing to read, or names or shapes differ; the first difference is named.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_dir():
    params, rest = _from_workdir(path, spec)
  elif path.suffix == ".safetensors" and path.is_file():
    params, rest = _from_file(path, spec, state)
  else:
    raise ConfigError(f"config.init_from = {source!r}: expected a workdir with checkpoints, or a .safetensors file")
  average = None if state.average is None else jax.tree.map(lambda x: x.copy(), params)
  return state._replace(params=params, rest=rest, average=average)


def _from_workdir(workdir: pathlib.Path, spec: StateSpec):
  directory = workdir / "checkpoints"
  if not directory.is_dir():
    raise ConfigError(f"config.init_from = {str(workdir)!r}: it has no folder checkpoints")
  with contextlib.closing(Checkpoints(directory, read_only=True)) as checkpoints:
    best = checkpoints.latest_record()["best_step"]
    step = checkpoints.steps()[-1] if best is None else best
    try:
      return checkpoints.restore_model(step, spec.abstract)
    except (ValueError, KeyError) as error:
      raise ConfigError(f"config.init_from = {str(workdir)!r} holds another model: {error}") from error


def _from_file(path: pathlib.Path, spec: StateSpec, state: TrainState):
  model = nnx.merge(spec.graphdef, state.params, state.rest, copy=True)
  try:
    convert.load_torch(model, path)
  except ValueError as error:
    raise ConfigError(f"config.init_from = {str(path)!r}: {error}") from error
  _, params, rest = split_model(model)
  place = lambda value, like: jax.device_put(value, like.sharding)  # noqa: E731
  return jax.tree.map(place, params, spec.abstract.params), jax.tree.map(place, rest, spec.abstract.rest)
