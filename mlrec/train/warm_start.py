"""Starting from parameters that another run, or a published file, has found."""

import contextlib
import pathlib

from flax import nnx
import jax

from mlrec.config import ConfigError
from mlrec.models import convert
from mlrec.models.layers.graph import Constant
from mlrec.train.checkpoint import Checkpoints
from mlrec.train.checkpoint import model_shapes
from mlrec.train.state import split_model
from mlrec.train.state import StateSpec
from mlrec.train.state import TrainState


def load(source: str, spec: StateSpec, state: TrainState) -> TrainState:
  """`state` with the best parameters of a workdir, or those of a file under PyTorch's names, of safetensors or
  `torch.save`.

  Raises:
    ConfigError: there is nothing to read, it is damaged, or names or shapes differ; the first difference is named.
  """
  path = pathlib.Path(source).expanduser()
  if path.is_dir():
    params, rest = _from_workdir(path, spec)
  elif path.is_file():
    params, rest = _from_file(path, spec, state)
  else:
    raise ConfigError(
      f"config.init_from = {source!r}: expected a workdir with checkpoints, or a file of safetensors or torch.save "
      "(.safetensors, .pt, .pth, .pyth, .bin)"
    )
  # What comes with the data, a graph or features, is this run's own.
  _, others = nnx.split_state(rest, Constant, ...)
  rest = nnx.merge_state(others, nnx.filter_state(state.rest, Constant))
  average = None if state.average is None else jax.tree.map(lambda x: x.copy(), params)
  return state._replace(params=params, rest=rest, average=average)


def _from_workdir(workdir: pathlib.Path, spec: StateSpec):
  directory = workdir / "checkpoints"
  if not directory.is_dir():
    raise ConfigError(f"config.init_from = {str(workdir)!r}: it has no folder checkpoints")
  with contextlib.closing(Checkpoints(directory, read_only=True)) as checkpoints:
    best = checkpoints.latest_record()["best_step"]
    step = checkpoints.steps()[-1] if best is None else best
    # Before it is read: a restoration that Orbax breaks off leaves reads under way, which end in a closed event loop.
    difference = _difference(checkpoints, step, spec)
    if difference:
      raise ConfigError(f"config.init_from = {str(workdir)!r} holds another model: {difference}")
    try:
      return checkpoints.restore_model(step, spec.abstract)
    except Exception as error:  # Orbax raises anything
      reason = " ".join(str(error).split())[:500]
      raise ConfigError(f"config.init_from = {str(workdir)!r}: checkpoint {step} cannot be read: {reason}") from error


def _difference(checkpoints: Checkpoints, step: int, spec: StateSpec) -> str | None:
  """The first array that a checkpoint has and the model has not, or in another shape; None if it cannot be said."""
  try:
    saved = checkpoints.model_shapes(step)
  except Exception:  # of a damaged checkpoint nothing can be said
    return None
  ours = model_shapes(spec.abstract)
  for name in sorted(ours.keys() | saved.keys()):
    if ours.get(name) != saved.get(name):
      there, here = (str(shapes.get(name, "missing")) for shapes in (saved, ours))
      return f"{name} is {there} there, and {here} in this model"
  return None


def _from_file(path: pathlib.Path, spec: StateSpec, state: TrainState):
  model = nnx.merge(spec.graphdef, state.params, state.rest, copy=True)
  try:
    convert.load_torch(model, path)
  except (ValueError, OSError) as error:
    raise ConfigError(f"config.init_from = {str(path)!r}: {error}") from error
  _, params, rest = split_model(model)
  place = lambda value, like: jax.device_put(value, like.sharding)  # noqa: E731
  return jax.tree.map(place, params, spec.abstract.params), jax.tree.map(place, rest, spec.abstract.rest)
