"""SASRec (Kang and McAuley, ICDM 2018), in the post-norm form of the MicroLens benchmark."""

from collections.abc import Callable
import math

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.registry import models
from mlrec.models.registry import USER_ENCODER

_EPSILON = 1e-6
_MASKED = -1e9


@models.register("sasrec", kind=USER_ENCODER)
class SASRec(nnx.Module):
  """A causal transformer over a history of item vectors; LayerNorm follows each residual sum."""

  # Padding is masked, so rows may be packed: several users in one row, told apart by their segment.
  reads_padding = False
  # What other transformers of this form change: whether places see earlier ones only, and the feed-forward activation.
  causal = True
  activation = staticmethod(nnx.relu)
  torch_names = (
    (r"^position\.", "transformer_encoder.position_embedding."),
    (r"^norm\.", "transformer_encoder.layer_norm."),
    (r"^blocks\.", "transformer_encoder.transformer_blocks."),
    (r"\.attention\.query\.", ".multi_head_attention.w_Q."),
    (r"\.attention\.key\.", ".multi_head_attention.w_K."),
    (r"\.attention\.value\.", ".multi_head_attention.w_V."),
    (r"\.attention\.out\.", ".multi_head_attention.fc."),
    (r"\.attention_norm\.", ".multi_head_attention.layer_norm."),
    (r"\.up\.", ".feed_forward.w_1."),
    (r"\.down\.", ".feed_forward.w_2."),
    (r"\.feed_forward_norm\.", ".feed_forward.layer_norm."),
  )

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
    if heads < 1 or blocks < 1 or dim % heads:
      raise ValueError(f"dim = {dim} must be a multiple of heads = {heads}, and blocks = {blocks} at least 1")
    self.position = nnx.Embed(max_length, dim, embedding_init=xavier_normal, rngs=rngs)
    self.norm = nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs)
    self.dropout = Dropout(dropout)
    self.blocks = nnx.List([Block(dim, heads, dropout, self.activation, rngs=rngs) for _ in range(blocks)])

  def __call__(self, x: Array, positions: Array, segments: Array, *, rngs: nnx.Rngs | None = None) -> Array:
    """Encodes rows of item vectors.

    Args:
      x: `[R, W, D]` item vectors, oldest first within a segment.
      positions: `[R, W]` int, the place of each item in its user's left-padded row, 0 to max_length - 1.
      segments: `[R, W]` int, 0 on padding; items see earlier items of their own segment only.
      rngs: the `dropout` stream; None for evaluation.

    Returns:
      `[R, W, D]` user states; those on padding mean nothing.
    """
    shape = x.shape
    # All layers but the attention see one long list of places: gradients of their kernels are then plain products,
    # which a compiler need not transpose for.
    x = (x + self.position(positions)).reshape(-1, shape[-1])
    x = self.dropout(self.norm(x), rngs)
    mask = attention_mask(segments, causal=self.causal)
    for block in self.blocks:
      x = block(x, mask, rngs)
    return x.reshape(shape)


def attention_mask(segments: Array, *, causal: bool) -> Array:
  """Additive float32 mask `[R, 1, W, W]`: 0 where the query may see the key, else a very negative number."""
  place = jnp.arange(segments.shape[1])
  visible = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] != 0)
  if causal:
    visible &= place[:, None] >= place[None, :]
  return jnp.where(visible, 0.0, _MASKED)[:, None]


class Block(nnx.Module):
  """Attention and a feed-forward layer four times as wide, each followed by dropout, a residual sum and LayerNorm."""

  def __init__(self, dim: int, heads: int, dropout: float, activation: Callable[[Array], Array], *, rngs: nnx.Rngs):
    self.activation = activation
    self.attention = Attention(dim, heads, dropout, rngs=rngs)
    self.attention_norm = nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs)
    self.up = nnx.Linear(dim, 4 * dim, kernel_init=xavier_normal, rngs=rngs)
    self.down = nnx.Linear(4 * dim, dim, kernel_init=xavier_normal, rngs=rngs)
    self.feed_forward_norm = nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs)
    self.dropout = Dropout(dropout)

  def __call__(self, x: Array, mask: Array, rngs: nnx.Rngs | None) -> Array:
    """`x [R * W, D]` and an additive `mask [R, 1, W, W]` to `[R * W, D]`."""
    x = self.attention_norm(x + self.dropout(self.attention(x, mask, rngs), rngs))
    return self.feed_forward_norm(x + self.dropout(self.down(self.activation(self.up(x))), rngs))


class Attention(nnx.Module):
  """Scaled dot-product attention of several heads, without biases."""

  def __init__(self, dim: int, heads: int, dropout: float, *, rngs: nnx.Rngs):
    def linear():
      return nnx.Linear(dim, dim, use_bias=False, kernel_init=xavier_normal, rngs=rngs)

    self.heads = heads
    self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
    self.dropout = Dropout(dropout)

  def __call__(self, x: Array, mask: Array, rngs: nnx.Rngs | None) -> Array:
    """`x [R * W, D]` and an additive `mask [R, 1, W, W]` to `[R * W, D]`."""
    rows, _, width, _ = mask.shape
    dim = x.shape[-1]

    # One product instead of three: on small models the number of operations is what costs.
    kernels = [layer.kernel[...].astype(x.dtype) for layer in (self.query, self.key, self.value)]
    projected = (x @ jnp.concatenate(kernels, axis=1)).reshape(rows, width, 3, self.heads, dim // self.heads)
    query, key, value = (projected[:, :, n] for n in range(3))
    scores = jnp.einsum("rqhd,rkhd->rhqk", query, key)
    weights = nnx.softmax(scores.astype(jnp.float32) / math.sqrt(dim // self.heads) + mask)
    weights = self.dropout(weights, rngs).astype(x.dtype)
    mixed = jnp.einsum("rhqk,rkhd->rqhd", weights, value)
    return self.out(mixed.reshape(-1, dim))
