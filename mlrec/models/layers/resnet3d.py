"""Parts of the 3-D residual nets that PyTorchVideo publishes: stem, bottleneck, stage and head."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import average_pool
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.convolution import max_pool
from mlrec.models.layers.dropout import Dropout


class ResStem(nnx.Module):
  """A convolution that halves height and width, normalised, and where there is a pool halved once more."""

  def __init__(
    self,
    channels: int,
    kernel: Sequence[int] = (1, 7, 7),
    *,
    inputs: int = 3,
    pool: bool = True,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    self.pool = pool
    self.conv = Conv3D(inputs, channels, kernel, stride=(1, 2, 2), dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(channels)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, inputs]` to `[B, T, H / 4, W / 4, channels]`, or H / 2 and W / 2 without the pool."""
    x = nnx.relu(self.norm(self.conv(x), context))
    return max_pool(x, (1, 3, 3), (1, 2, 2), (0, 1, 1)) if self.pool else x


class FactorisedConv(nnx.Module):
  """A convolution over time, normalised, then one over height and width (Tran et al., CVPR 2018, reversed)."""

  def __init__(self, channels: int, *, stride: Sequence[int], dtype: Any = None, rngs: nnx.Rngs):
    self.conv_t = Conv3D(channels, channels, (3, 1, 1), stride=(stride[0], 1, 1), dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(channels)
    self.conv_xy = Conv3D(channels, channels, (1, 3, 3), stride=(1, *stride[1:]), dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, context: Context) -> Array:
    return self.conv_xy(nnx.relu(self.norm(self.conv_t(x), context)))


class Bottleneck(nnx.Module):
  """Three convolutions, narrow within, beside a shortcut (He et al., CVPR 2016); strides sit on the middle one.

  The last normalisation starts at weight 0, so that a block starts as its shortcut.
  """

  torch_names = ((r"^(conv|norm)_([abc])\.", r"branch2.\1_\2."),)

  def __init__(
    self,
    inputs: int,
    inner: int,
    outputs: int,
    *,
    time_kernel: int = 1,
    middle_kernel: Sequence[int] = (1, 3, 3),
    stride: Sequence[int] = (1, 1, 1),
    groups: int = 1,
    factorised: bool = False,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """Builds the block.

    Args:
      inputs: channels in.
      inner: channels of the first two convolutions.
      outputs: channels out; the shortcut has a convolution where they differ from `inputs`, or where a stride does
        from 1.
      time_kernel: frames that the first convolution, 1 by 1 in space, covers.
      middle_kernel: of the middle convolution; not read where it is factorised.
      stride: of the middle convolution and of the shortcut.
      groups: of the middle convolution; `inner` makes it one of each channel on its own.
      factorised: whether the middle convolution is one over time and one over space.
      dtype: of the computation (the input's, where there is none).
      rngs: the stream `params`.
    """
    moves = inputs != outputs or tuple(stride) != (1, 1, 1)
    point, stride = (1, 1, 1), tuple(stride)
    self.branch1_conv = Conv3D(inputs, outputs, point, stride=stride, dtype=dtype, rngs=rngs) if moves else None
    self.branch1_norm = BatchNorm(outputs) if moves else None
    self.conv_a = Conv3D(inputs, inner, (time_kernel, 1, 1), dtype=dtype, rngs=rngs)
    self.norm_a = BatchNorm(inner)
    self.factorised = factorised
    self.conv_b: Any
    if factorised:
      self.conv_b = FactorisedConv(inner, stride=stride, dtype=dtype, rngs=rngs)
    else:
      self.conv_b = Conv3D(inner, inner, middle_kernel, stride=stride, groups=groups, dtype=dtype, rngs=rngs)
    self.norm_b = BatchNorm(inner)
    self.conv_c = Conv3D(inner, outputs, point, dtype=dtype, rngs=rngs)
    self.norm_c = BatchNorm(outputs, scale=0.0)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, inputs]` to `[B, T / stride, H / stride, W / stride, outputs]`, rounded up."""
    inner = nnx.relu(self.norm_a(self.conv_a(x), context))
    inner = self.conv_b(inner, context) if self.factorised else self.conv_b(inner)
    inner = nnx.relu(self.norm_b(inner, context))
    inner = self.norm_c(self.conv_c(inner), context)
    if self.branch1_conv is not None and self.branch1_norm is not None:
      x = self.branch1_norm(self.branch1_conv(x), context)
    return nnx.relu(x + inner)


class ResStage(nnx.Module):
  """Bottlenecks in turn, of which the first takes the stride."""

  def __init__(
    self,
    inputs: int,
    inner: int,
    outputs: int,
    *,
    time_kernels: Sequence[int],
    stride: Sequence[int] = (1, 1, 1),
    rngs: nnx.Rngs,
    **options: Any,
  ):
    """`time_kernels` has an entry for each block; `options` are `Bottleneck`'s."""
    if not time_kernels:
      raise ValueError("a stage has at least one block: time_kernels is empty")
    self.res_blocks: nnx.List[Bottleneck] = nnx.List([])
    for n, time_kernel in enumerate(time_kernels):
      self.res_blocks.append(
        Bottleneck(
          outputs if n else inputs,
          inner,
          outputs,
          time_kernel=time_kernel,
          stride=(1, 1, 1) if n else stride,
          rngs=rngs,
          **options,
        )
      )

  def __call__(self, x: Array, context: Context) -> Array:
    for block in self.res_blocks:
      x = block(x, context)
    return x


class ResHead(nnx.Module):
  """Scores of classes at every position of a pooled map, then their mean over positions.

  Without classes it is the mean of the map itself.
  """

  def __init__(
    self,
    features: int,
    num_classes: int | None,
    *,
    dropout: float = 0.5,
    softmax: bool = False,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """`softmax`: whether probabilities are averaged in place of scores."""
    self.softmax = softmax
    self.dropout = Dropout(dropout)
    self.proj = (
      None
      if num_classes is None
      else nnx.Linear(features, num_classes, kernel_init=nnx.initializers.normal(0.01), dtype=dtype, rngs=rngs)
    )
    # A published file's classes are not used where there are none here.
    self.torch_dropped = (r"^proj\.",) if num_classes is None else ()

  def __call__(self, x: Array, context: Context) -> Array:
    """`x [B, T, H, W, features]`, already pooled, to float32 `[B, num_classes]` (or `[B, features]`)."""
    if self.proj is not None:
      x = self.proj(self.dropout(x, context.rngs)).astype(jnp.float32)
      if self.softmax:
        x = nnx.softmax(x)
    return x.mean((1, 2, 3), dtype=jnp.float32)


def spatial_pool(x: Array, frames: int = 1, size: int = 7) -> Array:
  """Means of windows of `frames` and of `size` by `size`, one step apart; of all that there is, where there is less."""
  return average_pool(x, tuple(min(window, length) for window, length in zip((frames, size, size), x.shape[1:4])))
