"""Dice, the activation of the Deep Interest Network that adapts to its input, and layers with it."""

from collections.abc import Sequence
import itertools

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.variables import Frozen
from mlrec.registry import OptionError

_EPSILON = 1e-8


class Dice(nnx.Module):
  """f(s) = p s + (1 - p) a s with p = sigmoid((s - E[s]) / sqrt(Var[s] + 1e-8)), a learned for each channel.

  (Zhou et al., KDD 2018, arXiv 1706.06978, section 5.2.) Mean and variance are those of the batch in training, and
  running ones in evaluation.
  """

  def __init__(self, channels: int):
    self.norm = BatchNorm(channels, epsilon=_EPSILON)
    # It normalises alone.
    self.norm.scale, self.norm.bias = Frozen(jnp.ones(channels)), Frozen(jnp.zeros(channels))  # type: ignore[assignment]
    self.slope = nnx.Param(jnp.zeros(channels))

  def __call__(self, x: Array, context: Context) -> Array:
    """`x [B, C]` to the same shape."""
    gate = jax.nn.sigmoid(self.norm(x, context))
    return (gate + (1 - gate) * self.slope[...]) * x


class DiceLayers(nnx.Module):
  """For each width: dropout, a linear layer, Dice.

  Attributes:
    width: of the output.
  """

  def __init__(self, inputs: int, hidden: Sequence[int], *, dropout: float = 0.0, option: str, rngs: nnx.Rngs):
    """Builds the layers.

    Args:
      inputs: width of the input.
      hidden: widths of the layers.
      dropout: of each layer's input.
      option: the name of `hidden` in errors.
      rngs: random streams for the parameters.

    Raises:
      OptionError: a width is below 1.
    """
    hidden = tuple(hidden)
    if any(not isinstance(width, int) or width < 1 for width in hidden):
      raise OptionError(option, f"= {hidden} must be widths of at least 1")
    widths = (inputs, *hidden)
    self.width, self.dropout = widths[-1], Dropout(dropout)
    self.layers = nnx.List(
      [nnx.Linear(*pair, kernel_init=xavier_normal, rngs=rngs) for pair in itertools.pairwise(widths)]
    )
    self.activations = nnx.List([Dice(width) for width in hidden])

  def __call__(self, x: Array, context: Context) -> Array:
    """`x [B, inputs]` to `[B, width]`."""
    for layer, activation in zip(self.layers, self.activations):
      x = activation(layer(self.dropout(x, context.rngs)), context)
    return x
