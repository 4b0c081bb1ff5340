"""Published weights for the encoders inside a model."""

import pathlib

from flax import nnx
import jax

from mlrec.config import ConfigError
from mlrec.models import convert
from mlrec.models.items.encoded import EncodedTower
from mlrec.train.state import split_model
from mlrec.train.state import StateSpec
from mlrec.train.state import TrainState


def load(spec: StateSpec, state: TrainState) -> TrainState:
  """`state` with the weights that modules of the model ask for: those with a file's name in their `weights`.

  Raises:
    ConfigError: a file cannot be read, or holds other entries than the encoder's.
  """
  model = nnx.merge(spec.graphdef, state.params, state.rest, copy=True)
  asking = [
    (path, module) for path, module in nnx.iter_modules(model) if isinstance(module, EncodedTower) and module.weights
  ]
  if not asking:
    return state
  for path, module in asking:
    try:
      convert.load_torch(module.encoder, pathlib.Path(module.weights).expanduser())
    except (OSError, ValueError) as error:
      # A tower is the `items` of its recommender, or of a member of it, or among the towers of that.
      below = path[path.index("items") + 1 :]
      option = ".".join(["config.model.item", *map(str, below), "weights"])
      raise ConfigError(f"{option} = {module.weights!r}: {error}") from error
  _, params, rest = split_model(model)
  place = lambda value, like: jax.device_put(value, like.sharding)  # noqa: E731
  params = jax.tree.map(place, params, spec.abstract.params)
  rest = jax.tree.map(place, rest, spec.abstract.rest)
  average = None if state.average is None else jax.tree.map(lambda x: x.copy(), params)
  return state._replace(params=params, rest=rest, average=average)
