"""Dropout whose masks cost next to nothing and do not depend on how the array is sharded."""

from collections.abc import Sequence

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.registry import OptionError


class Dropout(nnx.Module):
  """Zeroes each element with probability `rate` and scales the others by 1 / (1 - rate).

  The mask is a hash of a key and the element's index, so it fuses into the surrounding arithmetic, and an array that is
  longer, or cut over devices, has the same mask where both exist. Threefry bits would take longer than the layer they
  mask on a CPU.
  """

  def __init__(self, rate: float, *, option: str = "dropout"):
    """`option` names the rate in the error for one that is not in [0, 1)."""
    if not 0 <= rate < 1:
      raise OptionError(option, f"= {rate} must be at least 0 and below 1")
    self.rate = rate

  def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
    """Without `rngs` (evaluation) the input is returned as it is."""
    if rngs is None or self.rate == 0:
      return x
    return jnp.where(self._stays(rngs, x.shape), x / (1 - self.rate), 0)

  def _stays(self, rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
    """bool of the given shape: what of this draw is not zeroed."""
    return uniform_bits(rngs.dropout(), shape) >= jnp.uint32(round(self.rate * 2**32))


class RowDropout(Dropout):
  """Zeroes whole vectors of the last axis with probability `rate`; the others stay as they are."""

  def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
    """`x [..., D]`; without `rngs` (evaluation) it is returned as it is."""
    if rngs is None or self.rate == 0:
      return x
    return jnp.where(self._stays(rngs, x.shape[:-1])[..., None], x, 0)


class DropPath(Dropout):
  """Zeroes whole examples with probability `rate` and scales the others by 1 / (1 - rate) (Huang et al., ECCV 2016).

  Beside a shortcut, an example then skips a layer.
  """

  def __init__(self, rate: float, *, option: str = "drop_path"):
    """As of `Dropout`."""
    super().__init__(rate, option=option)

  def __call__(self, x: Array, rngs: nnx.Rngs | None) -> Array:
    """`x [B, ...]`; without `rngs` (evaluation) it is returned as it is."""
    if rngs is None or self.rate == 0:
      return x
    return jnp.where(self._stays(rngs, (len(x), *[1] * (x.ndim - 1))), x / (1 - self.rate), 0)


def kept(present: Array, rates: Sequence[float], key: Array) -> Array:
  """What dropout leaves of what is there, `present [B, N]` bool; a row that would lose all loses nothing.

  Args:
    present: what is there.
    rates: the probability of being left out, at least 0 and below 1: one for all, or one for each of the N.
    key: of this draw.
  """
  least = jnp.asarray([round(rate * 2**32) for rate in rates], jnp.uint32)
  left = present & (uniform_bits(key, present.shape) >= least)
  return jnp.where(left.any(1, keepdims=True), left, present)


def uniform_bits(key: Array, shape: tuple[int, ...]) -> Array:
  """uint32 of the given shape, uniform: two rounds of a 32-bit avalanche hash over (key, index in C order)."""
  first, second = jax.random.bits(key, (2,), jnp.uint32)
  index = jnp.zeros(shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(len(shape))):
    index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
    stride *= shape[axis]
  return _avalanche(_avalanche(index ^ first) + second)


def _avalanche(x: Array) -> Array:
  # The multipliers are those of C. Wellons' lowbias32, found by search for the least bias of such a mixer.
  x ^= x >> 16
  x *= jnp.uint32(0x7FEB352D)
  x ^= x >> 15
  x *= jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)
