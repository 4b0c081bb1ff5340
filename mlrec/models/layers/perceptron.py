"""A multi-layer perceptron as two-tower recommenders have it."""

from collections.abc import Callable
from collections.abc import Sequence
import itertools

from flax import nnx
from jax import Array

from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.registry import OptionError


class Perceptron(nnx.Module):
  """For each width: dropout, a linear layer, batch normalisation where it is asked for, an activation.

  Attributes:
    width: of the output.
  """

  def __init__(
    self,
    inputs: int,
    hidden: Sequence[int] = (),
    *,
    activation: Callable[[Array], Array],
    batch_norm: bool,
    dropout: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Builds the layers.

    Args:
      inputs: width of the input.
      hidden: widths of the layers; without any the input is the output.
      activation: after every layer, the last one too.
      batch_norm: whether layers normalise, over the real examples of a batch.
      dropout: of each layer's input.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a width is below 1.
    """
    hidden = tuple(hidden)
    if any(not isinstance(width, int) or width < 1 for width in hidden):
      raise OptionError("hidden", f"= {hidden} must be widths of at least 1")
    widths = (inputs, *hidden)
    self.width, self.activation = widths[-1], activation
    self.dropout = Dropout(dropout)
    self.layers = nnx.List(
      [nnx.Linear(*pair, kernel_init=xavier_normal, rngs=rngs) for pair in itertools.pairwise(widths)]
    )
    self.norms = nnx.List([BatchNorm(width) for width in hidden]) if batch_norm else None

  def __call__(self, x: Array, context: Context) -> Array:
    """`x [B, inputs]` to `[B, width]`."""
    for index, layer in enumerate(self.layers):
      x = layer(self.dropout(x, context.rngs))
      if self.norms is not None:
        x = self.norms[index](x, context)
      x = self.activation(x)
    return x
