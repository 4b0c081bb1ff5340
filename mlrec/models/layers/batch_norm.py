"""Batch normalisation over the real examples of the global batch."""

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.context import Context


class BatchNorm(nnx.Module):
  """Normalises each channel (Ioffe and Szegedy, ICML 2015), in float32.

  In training the statistics are those of all real examples of the global batch, whatever the number of devices, and
  the running ones move by `momentum` towards them; their variance is the unbiased one, as PyTorch keeps it.
  """

  # A counter of steps, which PyTorch needs where no momentum is given.
  torch_dropped = (r"^num_batches_tracked$",)

  def __init__(self, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.1, scale: float = 1.0):
    self.epsilon, self.momentum = epsilon, momentum
    self.scale = nnx.Param(jnp.full((channels,), scale))
    self.bias = nnx.Param(jnp.zeros(channels))
    self.mean = nnx.BatchStat(jnp.zeros(channels))
    self.var = nnx.BatchStat(jnp.ones(channels))

  def __call__(self, x: Array, context: Context) -> Array:
    """`x [B, ..., C]` to the same shape and dtype."""
    mean, var = self.mean[...], self.var[...]
    if context.train:
      mean, var = self._batch_statistics(x.astype(jnp.float32), context.weights)
    scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
    shift = self.bias[...] - mean * scale
    return (x.astype(jnp.float32) * scale + shift).astype(x.dtype)

  def _batch_statistics(self, x: Array, weights: Array | None) -> tuple[Array, Array]:
    axes = tuple(range(x.ndim - 1))
    weights = jnp.ones(x.shape[0]) if weights is None else weights.astype(jnp.float32)
    each = weights.reshape(-1, *[1] * (x.ndim - 1))
    number = jnp.maximum(weights.sum() * (x[0, ..., 0].size), 1.0)
    mean = (x * each).sum(axes) / number
    var = (jnp.square(x - mean) * each).sum(axes) / number
    # A batch of filler alone moves nothing.
    step = self.momentum * (weights.sum() > 0)
    unbiased = var * (number / jnp.maximum(number - 1, 1.0))
    self.mean[...] += step * (jax.lax.stop_gradient(mean) - self.mean[...])
    self.var[...] += step * (jax.lax.stop_gradient(unbiased) - self.var[...])
    return mean, var
