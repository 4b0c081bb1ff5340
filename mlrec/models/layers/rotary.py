"""Rotary positions: channels of queries and keys, in pairs, turned by angles that a token's place gives (Su et al.,
RoFormer, 2021, section 3.2).
"""

from collections.abc import Sequence

from einops import rearrange
from jax import Array
import jax.numpy as jnp
import numpy as np

# Which two channels of C are a pair: c and c + C / 2, or 2 c and 2 c + 1.
HALVES, NEIGHBOURS = "pair c", "c pair"


def frequencies(pairs: int, base: float) -> np.ndarray:
  """`[pairs]` radians by which one step turns each pair of channels: powers of `base` from 1 downwards."""
  return base ** -(np.arange(pairs) / pairs)


def angles(places: Sequence[float] | np.ndarray, pairs: int, base: float) -> np.ndarray:
  """`[N, pairs]` radians by which tokens at the N `places` turn each pair of channels."""
  return np.asarray(places, np.float64)[:, None] * frequencies(pairs, base)


def turned(x: Array, angles: np.ndarray, pairs: str) -> Array:
  """Channels turned in pairs, in float32.

  Args:
    x: `[..., N, H, C]`.
    angles: `[N, P]` radians of the first P pairs; channels beyond those 2 P are left as they are.
    pairs: which channels are a pair, `HALVES` or `NEIGHBOURS` of the first 2 P.

  Returns:
    The same shape and dtype.
  """
  cosines, sines = (jnp.asarray(of(angles), jnp.float32)[:, None] for of in (np.cos, np.sin))
  turns = 2 * angles.shape[1]
  first, second = rearrange(x[..., :turns].astype(jnp.float32), f"... ({pairs}) -> pair ... c", pair=2)
  both = jnp.stack([first * cosines - second * sines, second * cosines + first * sines])
  out = rearrange(both, f"pair ... c -> ... ({pairs})").astype(x.dtype)
  return out if turns == x.shape[-1] else jnp.concatenate([out, x[..., turns:]], axis=-1)
