"""HSTU, the hierarchical sequential transduction unit (Zhai et al., ICML 2024, arXiv 2402.17152)."""

import math

from einops import rearrange
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.registry import models
from mlrec.models.registry import USER_ENCODER
from mlrec.models.users.user_encoder import UserEncoder
from mlrec.registry import at_least
from mlrec.registry import OptionError

_EPSILON = 1e-6
# As the authors' released code starts the projection and the biases.
_INIT = jax.nn.initializers.normal(0.02)


@models.register("hstu", kind=USER_ENCODER)
class HSTU(UserEncoder):
  """Layers of gated attention whose weights are no softmax: how many items agree counts, not their share alone.

  A layer (section 3, equations 1 to 3), with a norm of its input and a residual sum as in the authors' released code:

      U, V, Q, K = split(SiLU(W1 norm(X)))
      A = SiLU(Q K^T + rab) / n, over the places that a query may see
      Y = X + W2 dropout(norm(A V) * U) + b2

  in several heads, which share the relative attention bias rab; n is `max_length`. Both norms are LayerNorm without
  parameters. As there, the input is sqrt(D) times the item's vector plus a learned vector of its place, under dropout.

  Two differences. The paper's rab has a term of the place and one of the time between two interactions; sequences here
  carry no times, so it has the first alone. The released code scales states and items to length 1 and scores them at a
  temperature; here the last layer is followed by a LayerNorm, and scores are dot products.
  """

  # Padding is masked, so rows may be packed: several users in one row, told apart by their segment.
  reads_padding = False

  def __init__(
    self,
    dim: int = 512,
    *,
    max_length: int = 10,
    heads: int = 2,
    blocks: int = 2,
    dropout: float = 0.1,
    rngs: nnx.Rngs,
  ):
    at_least(1, heads=heads, blocks=blocks)
    if dim % heads:
      raise OptionError("heads", f"= {heads}: dim = {dim} must be a multiple of heads = {heads}")
    init = jax.nn.initializers.normal(1 / math.sqrt(dim))
    self.position = nnx.Embed(max_length, dim, embedding_init=init, rngs=rngs)
    self.dropout = Dropout(dropout)
    self.blocks = nnx.List([Block(dim, heads, max_length, dropout, rngs=rngs) for _ in range(blocks)])
    self.norm = nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs)

  def __call__(self, x: Array, positions: Array, segments: Array, *, rngs: nnx.Rngs | None = None) -> Array:
    """Encodes rows of item vectors.

    Args:
      x: `[R, W, D]` item vectors, oldest first within a segment.
      positions: `[R, W]` int, the place of each item in its user's left-padded row, 0 to max_length - 1.
      segments: `[R, W]` int, 0 on padding; items see themselves and earlier items of their own segment only.
      rngs: the `dropout` stream; None for evaluation.

    Returns:
      `[R, W, D]` user states; those on padding mean nothing.
    """
    x = self.dropout(x * math.sqrt(x.shape[-1]) + self.position(positions), rngs)
    ago = positions[:, :, None] - positions[:, None, :]
    visible = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] != 0) & (ago >= 0)
    for block in self.blocks:
      x = block(x, ago, visible, rngs)
    return self.norm(x)


class Block(nnx.Module):
  """One layer of HSTU."""

  def __init__(self, dim: int, heads: int, max_length: int, dropout: float, *, rngs: nnx.Rngs):
    self.heads, self.max_length = heads, max_length
    self.project = nnx.Linear(dim, 4 * dim, use_bias=False, kernel_init=_INIT, rngs=rngs)
    # By how many places the key is older than the query.
    self.bias = nnx.Param(_INIT(rngs.params(), (max_length,)))
    self.out = nnx.Linear(dim, dim, kernel_init=xavier_normal, rngs=rngs)
    self.dropout = Dropout(dropout)

  def __call__(self, x: Array, ago: Array, visible: Array, rngs: nnx.Rngs | None) -> Array:
    """`x [R, W, D]` to the same shape.

    Args:
      x: `[R, W, D]`.
      ago: `[R, W, W]` int, the places by which a key (last axis) is older than a query.
      visible: `[R, W, W]` bool, whether the query may see the key.
      rngs: the `dropout` stream.
    """
    gate, value, query, key = jnp.split(nnx.silu(self.project(_normed(x))), 4, axis=-1)
    query, key, value = (rearrange(part, "r w (h d) -> r w h d", h=self.heads) for part in (query, key, value))
    scores = jnp.einsum("rqhd,rkhd->rhqk", query, key).astype(jnp.float32)
    # One gather serves all heads; keys that are hidden may lie on either side of the table.
    scores += self.bias[...][jnp.clip(ago, 0, self.max_length - 1)][:, None]
    weights = jnp.where(visible[:, None], nnx.silu(scores) / self.max_length, 0.0).astype(x.dtype)
    mixed = rearrange(jnp.einsum("rhqk,rkhd->rqhd", weights, value), "r q h d -> r q (h d)")
    return x + self.out(self.dropout(_normed(mixed) * gate, rngs))


def _normed(x: Array) -> Array:
  """LayerNorm of the last axis without parameters, in float32; to the dtype of `x`."""
  wide = x.astype(jnp.float32)
  centred = wide - wide.mean(-1, keepdims=True)
  return (centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _EPSILON)).astype(x.dtype)
