"""Clips and images cut into patches and positions of those, for transformers."""

from collections.abc import Sequence
import functools
from typing import Any

from einops import rearrange
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.initializers import truncated_normal
from mlrec.registry import OptionError

_INIT = truncated_normal(0.02)


class PatchEmbedding(Conv3D):
  """A convolution whose windows touch and do not overlap, `[B, T, H, W, 3]` to `[B, T / t, H / p, W / p, dim]`.

  It is computed as one product of matrices. Frames beyond the last whole window are not read.
  """

  def __init__(self, dim: int, frames: int, size: int, *, kernel_init: Any = _INIT, dtype: Any, rngs: nnx.Rngs):
    """A window is `frames` by `size` by `size`."""
    window = (frames, size, size)
    super().__init__(
      3, dim, window, stride=window, padding=(0, 0, 0), use_bias=True, kernel_init=kernel_init, dtype=dtype, rngs=rngs
    )

  def __call__(self, x: Array) -> Array:  # type: ignore[override]
    """Computes in `dtype` (the input's, where there is none).

    Raises:
      ValueError: `x` is no clip, is shorter than a window, or its height or width is no multiple of one.
    """
    kernel = self.kernel[...]
    frames, size = kernel.shape[:2]
    if x.ndim != 5 or x.shape[-1] != 3 or x.shape[1] < frames or 0 in x.shape or x.shape[2] % size or x.shape[3] % size:
      raise ValueError(
        f"expected clips [B, T, H, W, 3] of at least T = {frames} frames, H and W multiples of {size}, "
        f"not an array of shape {x.shape}"
      )
    whole = x[:, : x.shape[1] // frames * frames]
    patches = rearrange(whole, "b (t f) (h p) (w q) c -> b t h w (f p q c)", f=frames, p=size, q=size)
    return _projected(patches, rearrange(kernel, "f p q c d -> (f p q c) d"), self.bias, self.dtype)


class ImagePatches(nnx.Conv):
  """The same for images, `[B, H, W, 3]` to `[B, H / p, W / p, dim]`."""

  def __init__(
    self, dim: int, size: int, *, use_bias: bool = True, kernel_init: Any = _INIT, dtype: Any, rngs: nnx.Rngs
  ):
    """A window is `size` by `size`."""
    window = (size, size)
    super().__init__(
      3, dim, window, strides=window, padding="VALID", use_bias=use_bias, kernel_init=kernel_init, dtype=dtype,
      rngs=rngs,
    )  # fmt: skip

  def __call__(self, x: Array) -> Array:  # type: ignore[override]
    """Computes in `dtype` (the input's, where there is none).

    Raises:
      ValueError: `x` is no batch of images, or its height or width is no multiple of a window.
    """
    kernel = self.kernel[...]
    size = len(kernel)
    if x.ndim != 4 or x.shape[-1] != 3 or 0 in x.shape or x.shape[1] % size or x.shape[2] % size:
      raise ValueError(
        f"expected images [B, H, W, 3], H and W multiples of {size}, not an array of shape {tuple(x.shape)}"
      )
    patches = rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=size, q=size)
    return _projected(patches, rearrange(kernel, "p q c d -> (p q c) d"), self.bias, self.dtype)


def _projected(patches: Array, kernel: Array, bias: nnx.Param | None, dtype: Any) -> Array:
  """`patches [..., P]` through a linear layer of `kernel [P, D]`, in `dtype` or, where there is none, the patches'."""
  dtype = dtype or patches.dtype
  # Over one long list of patches the kernel's gradient is a plain product; over several axes a CPU copies for it.
  out = patches.reshape(-1, len(kernel)).astype(dtype) @ kernel.astype(dtype)
  out = out.reshape(*patches.shape[:-1], -1)
  return out if bias is None else out + bias[...].astype(dtype)


def whole_windows(x: Array, frames: int) -> Array:
  """A clip `[B, T, ...]` whose last frame is repeated until T is a multiple of `frames`."""
  missing = -x.shape[1] % frames if x.ndim > 1 and x.shape[1] else 0
  return jnp.concatenate([x, *[x[:, -1:]] * missing], axis=1) if missing else x


@functools.lru_cache(maxsize=32)
def sinusoids(length: int, dim: int) -> np.ndarray:
  """Fixed positions `[length, dim]`, float32: sines at even channels, cosines at odd ones (Vaswani et al., 2017)."""
  channel = np.arange(dim)
  angles = np.arange(length)[:, None] / np.power(10000.0, 2 * (channel // 2) / dim)
  return np.where(channel % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


@functools.lru_cache(maxsize=32)
def grid_sinusoids(height: int, width: int, dim: int) -> np.ndarray:
  """Fixed positions `[height * width, dim]`, float32, of a grid's places row by row, as ViT-MAE's code has them.

  The first half of the channels is of a place's column, the second of its row, each as sines of all frequencies and
  then cosines (He et al., CVPR 2022; in its code the two halves changed places).

  Raises:
    ValueError: `dim` is no multiple of 4.
  """
  if dim % 4:
    raise OptionError("dim", f"= {dim} must be a multiple of 4: the nearest is {4 * max(1, round(dim / 4))}")
  frequencies = 10000.0 ** -(np.arange(dim // 4) / (dim // 4))
  rows, columns = rearrange(np.indices((height, width)), "yx h w -> yx (h w) 1") * frequencies
  return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=1).astype(np.float32)


def resized(table: Array | np.ndarray, old: Sequence[int], new: Sequence[int], *, cubic: bool = False) -> Array:
  """A table of positions of a grid, for a grid of another size.

  Each axis is interpolated. Cells keep their extent: the ends of the two grids do not lie on each other, only
  their edges do, and beyond the first and last old centre the old value stays.

  Args:
    table: `[product of old, C]`.
    old: the sizes of the grid that it is for.
    new: the sizes wanted.
    cubic: takes four old cells for a new one in place of the two of a linear interpolation, as PyTorch does.

  Returns:
    float32 `[product of new, C]`; the table itself where the sizes are the same.
  """
  grid = jnp.asarray(table)
  if tuple(old) == tuple(new):
    return grid
  grid = grid.reshape(*old, -1)
  for axis, (before, after) in enumerate(zip(old, new)):
    if before != after:
      grid = jnp.moveaxis(grid, axis, 0)
      weights = _cubic_interpolation(before, after) if cubic else _interpolation(before, after)
      grid = jnp.tensordot(weights, grid, 1, precision=jax.lax.Precision.HIGHEST)
      grid = jnp.moveaxis(grid, 0, axis)
  return grid.reshape(-1, grid.shape[-1])


def _interpolation(old: int, new: int) -> np.ndarray:
  """`[new, old]`: how much of each old cell a new one takes."""
  place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
  return np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0).astype(np.float32)


def _cubic_interpolation(old: int, new: int) -> np.ndarray:
  """`[new, old]`, by Keys' kernel (1981) with the steepness -0.75 that PyTorch takes; ends are repeated."""
  place = (np.arange(new) + 0.5) * old / new - 0.5
  weights = np.zeros((new, old))
  for step in range(-1, 3):
    cell = np.floor(place) + step
    far = np.abs(place - cell)
    near_weight = 1.25 * far**3 - 2.25 * far**2 + 1
    far_weight = -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
    weight = np.where(far <= 1, near_weight, far_weight)
    np.add.at(weights, (np.arange(new), np.clip(cell, 0, old - 1).astype(int)), weight)
  return weights.astype(np.float32)
