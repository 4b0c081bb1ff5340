"""How a module is passed through: for evaluation, or for training, and over which of the batch's examples."""

from typing import NamedTuple

from flax import nnx
from jax import Array


class Context(NamedTuple):
  """What a layer that acts otherwise in training is told.

  Attributes:
    train: batch normalisation takes the batch's statistics and moves its running ones; else it uses those.
    rngs: the streams `dropout` and `drop_path`; None where nothing is drawn.
    weights: `[B]` float, 1 for real examples and 0 for filler, which enters no statistic; None where all are real.
  """

  train: bool = False
  rngs: nnx.Rngs | None = None
  weights: Array | None = None


EVALUATION = Context()
