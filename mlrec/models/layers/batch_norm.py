"""Batch normalisation over the real examples of the global batch."""

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.context import Context


class BatchNorm(nnx.Module):
  """Normalises each channel (Ioffe and Szegedy, ICML 2015), in float32.

  In training the statistics are those of all real examples of the global batch (of its part, where batches are made
  in parts), whatever the number of devices, and
  the running ones move by `momentum` towards them; their variance is the unbiased one, as PyTorch keeps it.
  """

  # A counter of steps, which PyTorch needs where no momentum is given.
  torch_dropped = (r"^num_batches_tracked$",)

  def __init__(self, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.1, scale: float = 1.0):
    self.epsilon, self.momentum = epsilon, momentum
    self.scale = nnx.Param(jnp.full((channels,), scale, jnp.float32))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.mean = nnx.BatchStat(jnp.zeros(channels))
    self.var = nnx.BatchStat(jnp.ones(channels))

  def __call__(self, x: Array, context: Context) -> Array:
    """`x [B, ..., C]` to the same shape and dtype."""
    if context.train:
      scale, shift = self.affine(*self._batch_statistics(x.astype(jnp.float32), context.weights))
    else:
      scale, shift = self.affine()
    return (x.astype(jnp.float32) * scale + shift).astype(x.dtype)

  def affine(self, mean: Array | None = None, var: Array | None = None) -> tuple[Array, Array]:
    """What normalising multiplies by and then adds, `[C]` each; by the running statistics unless given others."""
    mean = self.mean[...] if mean is None else mean
    scale = self.scale[...] * jax.lax.rsqrt((self.var[...] if var is None else var) + self.epsilon)
    return scale, self.bias[...] - mean * scale

  def move(self, mean: Array, var: Array, number: Array) -> None:
    """Moves the running statistics towards those of `number` values; without any they stay.

    Args:
      mean: `[C]`.
      var: `[C]`, the mean square deviation.
      number: scalar float.
    """
    step = self.momentum * (number > 0)
    unbiased = var * (number / jnp.maximum(number - 1, 1.0))
    self.mean[...] += step * (jax.lax.stop_gradient(mean) - self.mean[...])
    self.var[...] += step * (jax.lax.stop_gradient(unbiased) - self.var[...])

  def _batch_statistics(self, x: Array, weights: Array | None) -> tuple[Array, Array]:
    axes = tuple(range(x.ndim - 1))
    weights = jnp.ones(x.shape[0]) if weights is None else weights.astype(jnp.float32)
    each = weights.reshape(-1, *[1] * (x.ndim - 1))
    number = weights.sum() * (x[0, ..., 0].size)
    mean = (x * each).sum(axes) / jnp.maximum(number, 1.0)
    var = (jnp.square(x - mean) * each).sum(axes) / jnp.maximum(number, 1.0)
    self.move(mean, var, number)
    return mean, var
