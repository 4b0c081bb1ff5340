"""Convolutions over time, height and width, channels last."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.convolution_forms import convolve
from mlrec.models.layers.convolution_shifts import largest
from mlrec.models.layers.initializers import kaiming_normal_fan_out


class Conv3D(nnx.Conv):
  """A 3-D convolution with symmetric padding, `[B, T, H, W, C]` to `[B, T', H', W', O]`."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    kernel: Sequence[int],
    *,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] | None = None,
    groups: int = 1,
    use_bias: bool = False,
    kernel_init: Any = kaiming_normal_fan_out,
    dtype: Any = None,
    rngs: nnx.Rngs,
  ):
    """`padding` is k // 2 on both sides of each axis by default, whatever the stride (`SAME` would shift)."""
    kernel = tuple(kernel)
    padding = tuple(size // 2 for size in kernel) if padding is None else tuple(padding)
    super().__init__(
      in_features, out_features, kernel, strides=tuple(stride), padding=tuple((size, size) for size in padding),
      feature_group_count=groups, use_bias=use_bias, kernel_init=kernel_init, dtype=dtype, rngs=rngs,
    )  # fmt: skip
    self._geometry = tuple(stride), padding

  def __call__(self, x: Array) -> Array:  # type: ignore[override]
    """Computes in `dtype` (the input's, where there is none); see `convolution_forms.convolve`."""
    dtype = self.dtype or x.dtype
    out = convolve(x.astype(dtype), self.kernel[...].astype(dtype), *self._geometry, self.feature_group_count)
    return out if self.bias is None else out + self.bias[...].astype(dtype)


def max_pool(x: Array, window: Sequence[int], stride: Sequence[int], padding: Sequence[int] = (0, 0, 0)) -> Array:
  """The largest of each window of `x [B, T, H, W, C]`; padding never wins."""
  return largest(x, tuple(window), tuple(stride), tuple(padding))


def average_pool(x: Array, window: Sequence[int], stride: Sequence[int] = (1, 1, 1)) -> Array:
  """The mean of each window of `x [B, T, H, W, C]`, without padding, computed in float32."""
  dtype, sizes = x.dtype, x.shape[1:4]
  # A plain mean where a window is all there is: the gradient of a windowed sum is slow on a CPU.
  whole = [size == wide for size, wide in zip(sizes, window)]
  x = x.astype(jnp.float32).mean(tuple(axis + 1 for axis in range(3) if whole[axis]), keepdims=True)
  rest = [1 if full else wide for full, wide in zip(whole, window)]
  if any(size > 1 for size in (*rest, *[1 if full else step for full, step in zip(whole, stride)])):
    x = nnx.avg_pool(x, tuple(rest), tuple(stride), "VALID")
  return x.astype(dtype)
