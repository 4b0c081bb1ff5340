"""NextItNet (Yuan et al., WSDM 2019), in the form of the MicroLens benchmark."""

import math

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import uniform
from mlrec.models.registry import models
from mlrec.models.registry import USER_ENCODER
from mlrec.models.users.user_encoder import UserEncoder
from mlrec.registry import at_least

_TAPS = 3
_EPSILON = 1e-8


@models.register("nextitnet", kind=USER_ENCODER)
class NextItNet(UserEncoder):
  """Residual blocks of dilated causal convolutions over the left-padded history; `2 * blocks` of them."""

  # Convolutions see the padding item's vectors to the left of the history.
  reads_padding = True
  torch_names = ((r"^blocks\.", "residual_blocks."),)
  # The reference holds a last linear layer that neither training nor evaluation uses.
  torch_dropped = (r"^final_layer\.",)

  def __init__(self, dim: int = 512, *, max_length: int = 10, blocks: int = 2, dropout: float = 0.0, rngs: nnx.Rngs):
    """`dropout` acts on the input vectors; the published network has none."""
    at_least(1, blocks=blocks)
    del max_length  # convolutions know no longest history
    self.dropout = Dropout(dropout)
    self.blocks = nnx.List([Block(dim, dilation, rngs=rngs) for dilation in [1, 4] * blocks])

  def __call__(self, x: Array, positions: Array, segments: Array, *, rngs: nnx.Rngs | None = None) -> Array:
    """`x [R, W, D]`, left-padded with the padding item's vector, to states `[R, W, D]`."""
    del positions, segments
    x = self.dropout(x, rngs)
    for block in self.blocks:
      x = block(x)
    return x


class Block(nnx.Module):
  """Two causal convolutions, dilated by `dilation` and twice that, each under LayerNorm and ReLU, and a residual."""

  def __init__(self, dim: int, dilation: int, *, rngs: nnx.Rngs):
    self.conv1, self.conv2 = (CausalConv(dim, dilation * factor, rngs=rngs) for factor in (1, 2))
    self.ln1, self.ln2 = (nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs) for _ in range(2))

  def __call__(self, x: Array) -> Array:
    """`x [R, W, D]` to `[R, W, D]`."""
    y = nnx.relu(self.ln1(self.conv1(x)))
    return x + nnx.relu(self.ln2(self.conv2(y)))


class CausalConv(nnx.Conv):
  """A dilated convolution over the present and two past places, with zeros before the first.

  Its kernel is `[1, 3, D, D]`, as the published weights lay it out. It is computed as one product over the shifted
  inputs side by side, which any backend does well: within a loop of steps, XLA's convolution takes fourteen times as
  long on a CPU.
  """

  def __init__(self, dim: int, dilation: int, *, rngs: nnx.Rngs):
    init = uniform(1 / math.sqrt(_TAPS * dim))
    super().__init__(dim, dim, (1, _TAPS), kernel_init=init, bias_init=init, rngs=rngs)
    self.dilation = dilation

  def __call__(self, x: Array) -> Array:  # type: ignore[override]
    """`x [R, W, D]` to `[R, W, D]`."""
    width = x.shape[1]
    shifts = [self.dilation * past for past in reversed(range(_TAPS))]
    taps = [jnp.pad(x, ((0, 0), (shift, 0), (0, 0)))[:, :width] for shift in shifts]
    kernel = rearrange(self.kernel[...], "1 tap d out -> (tap d) out").astype(x.dtype)
    y = rearrange(jnp.concatenate(taps, axis=-1), "r w taps -> (r w) taps") @ kernel
    return (y + self.bias[...].astype(x.dtype)).reshape(x.shape)  # type: ignore[index]
