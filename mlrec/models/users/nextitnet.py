"""NextItNet (Yuan et al., WSDM 2019), in the form of the MicroLens benchmark."""

import math

from flax import nnx
from jax import Array

from mlrec.models.layers.initializers import uniform
from mlrec.models.registry import models
from mlrec.models.registry import USER_ENCODER

_TAPS = 3
_EPSILON = 1e-8


@models.register("nextitnet", kind=USER_ENCODER)
class NextItNet(nnx.Module):
  """Residual blocks of dilated causal convolutions over the left-padded history; `2 * blocks` of them."""

  # Convolutions see the padding item's vectors to the left of the history.
  reads_padding = True
  torch_names = ((r"^blocks\.", "residual_blocks."),)
  # The reference holds a last linear layer that neither training nor evaluation uses.
  torch_dropped = (r"^final_layer\.",)

  def __init__(self, dim: int = 512, *, max_length: int = 10, blocks: int = 2, rngs: nnx.Rngs):
    if blocks < 1:
      raise ValueError(f"blocks must be at least 1, not {blocks}")
    del max_length  # convolutions know no longest history
    self.blocks = nnx.List([Block(dim, dilation, rngs=rngs) for dilation in [1, 4] * blocks])

  def __call__(self, x: Array, positions: Array, segments: Array, *, rngs: nnx.Rngs | None = None) -> Array:
    """`x [R, W, D]`, left-padded with the padding item's vector, to states `[R, W, D]`."""
    del positions, segments, rngs
    for block in self.blocks:
      x = block(x)
    return x


class Block(nnx.Module):
  """Two causal convolutions, dilated by `dilation` and twice that, each under LayerNorm and ReLU, and a residual."""

  def __init__(self, dim: int, dilation: int, *, rngs: nnx.Rngs):
    init = uniform(1 / math.sqrt(_TAPS * dim))

    def convolution(dilation: int):
      # Kernel (1, 3) over [R, 1, W, D]: the layout in which the published weights are stored.
      return nnx.Conv(
        dim, dim, (1, _TAPS), kernel_dilation=(1, dilation), padding=((0, 0), ((_TAPS - 1) * dilation, 0)),
        kernel_init=init, bias_init=init, rngs=rngs,
      )  # fmt: skip

    self.conv1, self.conv2 = convolution(dilation), convolution(2 * dilation)
    self.ln1, self.ln2 = (nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs) for _ in range(2))

  def __call__(self, x: Array) -> Array:
    """`x [R, W, D]` to `[R, W, D]`."""
    y = nnx.relu(self.ln1(self.conv1(x[:, None])))
    y = nnx.relu(self.ln2(self.conv2(y)))
    return x + y[:, 0]
