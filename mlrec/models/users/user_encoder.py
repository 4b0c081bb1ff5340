"""What a recommender of sequences asks of a user encoder."""

from typing import ClassVar

from flax import nnx
from jax import Array


class UserEncoder(nnx.Module):
  """Built as `(dim, *, max_length, rngs, …options)`.

  Attributes:
    reads_padding: whether padding acts on the output; rows are then whole and left-padded, not packed.
  """

  reads_padding: ClassVar[bool] = False

  def __call__(self, x: Array, positions: Array, segments: Array, *, rngs: nnx.Rngs | None = None) -> Array:
    """States of rows of items.

    Args:
      x: `[R, W, D]`, the items' vectors.
      positions: `[R, W]` int, each place's number within its segment.
      segments: `[R, W]` int, whose history a place is of; 0 for padding.
      rngs: the stream `dropout`; None in evaluation.

    Returns:
      `[R, W, D]`, each state of its own segment's places up to there.
    """
    raise NotImplementedError

  def at(self, x: Array, positions: Array, segments: Array, places: Array) -> Array:
    """States `[B, D]` at some `places [B]` of the rows laid end to end, in evaluation; as of `__call__`.

    An encoder whose last layer mixes no places any more need not run that on all of them.
    """
    states = self(x, positions, segments)
    return states.reshape(-1, states.shape[-1])[places]
