"""Random starts by the names that the recommendation literature and PyTorch give them."""

from collections.abc import Callable
import math
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp

# Of a key, a shape and a dtype.
Initializer = Callable[..., Array]


def xavier_normal(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
  """Normal with variance 2 / (sum of the two sizes); not truncated (Glorot and Bengio, 2010)."""
  return math.sqrt(2 / (shape[0] + shape[1])) * jax.random.normal(key, shape, dtype)


def xavier_uniform(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
  """Uniform within sqrt(6 / (sum of the two sizes)) of 0."""
  bound = math.sqrt(6 / (shape[0] + shape[1]))
  return jax.random.uniform(key, shape, dtype, -bound, bound)


def uniform(bound: float) -> Initializer:
  """Uniform within `bound` of 0."""

  def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def kaiming_normal_fan_out(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
  """Normal with variance 2 / (outputs times kernel size) for kernels `[..., I, O]` (He et al., ICCV 2015)."""
  return math.sqrt(2 / (shape[-1] * math.prod(shape[:-2]))) * jax.random.normal(key, shape, dtype)


def truncated_normal(deviation: float) -> Initializer:
  """Normal of that standard deviation, drawn again beyond 2 (not 2 deviations), as timm and PyTorch cut it."""

  def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    bound = 2 / deviation
    if bound > 6:
      # A float32 normal ends before; the truncated one would put what underflows, one in 10 million, at the cut itself.
      return deviation * jax.random.normal(key, shape, dtype)
    return deviation * jax.random.truncated_normal(key, -bound, bound, shape, dtype)

  return init
