"""Embeddings of codes: a table for each level, side by side."""

from collections.abc import Sequence
import math

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np


class CodeEmbedding(nnx.Module):
  """A row for each code of each level."""

  def __init__(self, sizes: Sequence[int], dim: int, *, deviation: float = 0.0, rngs: nnx.Rngs):
    """Builds the tables.

    Args:
      sizes: codes of each level.
      dim: width of a row.
      deviation: the standard deviation that the sum over levels starts with; 0 for that of a row of an ID table of as
        many rows, the root of 2 / (rows + dim).
      rngs: the stream `params`.
    """
    rows = sum(sizes)
    self.starts = tuple((np.cumsum(sizes) - np.asarray(sizes)).tolist())
    scale = deviation or math.sqrt(2 / (rows + dim))
    self.table = nnx.Param(scale / math.sqrt(len(sizes)) * jax.random.normal(rngs.params(), (rows, dim)))

  def __call__(self, codes: Array) -> Array:
    """`codes [..., levels]` int to `[..., levels, dim]`; zeros for codes below 0, which are the padding's."""
    rows = jnp.take(self.table[...], jnp.maximum(codes, 0) + jnp.asarray(self.starts), axis=0, mode="clip")
    return jnp.where(codes[..., None] < 0, 0, rows)
