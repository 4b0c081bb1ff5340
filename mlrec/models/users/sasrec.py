"""SASRec (Kang and McAuley, ICDM 2018), in the post-norm form of the MicroLens benchmark."""

from collections.abc import Callable

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import Attention
from mlrec.models.layers.transformer import flattened
from mlrec.models.registry import models
from mlrec.models.registry import USER_ENCODER
from mlrec.models.users.user_encoder import UserEncoder
from mlrec.registry import at_least
from mlrec.registry import OptionError

_EPSILON = 1e-6


@models.register("sasrec", kind=USER_ENCODER)
class SASRec(UserEncoder):
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
    at_least(1, heads=heads, blocks=blocks)
    if dim % heads:
      raise OptionError("heads", f"= {heads}: dim = {dim} must be a multiple of heads = {heads}")
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
    x, mask = self._embedded(x, positions, segments, rngs)
    for block in self.blocks:
      x = block(x, mask, rngs)
    return x.reshape(shape)

  def at(self, x: Array, positions: Array, segments: Array, places: Array) -> Array:
    """States at some places, of which alone the last block runs its layers after the attention."""
    x, mask = self._embedded(x, positions, segments, None)
    *before, last = self.blocks
    for block in before:
      x = block(x, mask, None)
    return last(x, mask, None, places)

  def _embedded(self, x: Array, positions: Array, segments: Array, rngs: nnx.Rngs | None) -> tuple[Array, Array]:
    """What the first block gets, `[R * W, D]`, and the mask of all."""
    # All layers but the attention see one long list of places: gradients of their kernels are then plain products,
    # which a compiler need not transpose for.
    x = self.dropout(self.norm(flattened(x + self.position(positions))), rngs)
    return x, attention_mask(segments, causal=self.causal)


def attention_mask(segments: Array, *, causal: bool) -> Array:
  """`[R, 1, W, W]` bool: whether a query (last but one axis) sees a key."""
  place = jnp.arange(segments.shape[1])
  visible = (segments[:, :, None] == segments[:, None, :]) & (segments[:, None, :] != 0)
  if causal:
    visible &= place[:, None] >= place[None, :]
  return rearrange(visible, "r query key -> r 1 query key")


class Block(nnx.Module):
  """Attention and a feed-forward layer four times as wide, each followed by dropout, a residual sum and LayerNorm."""

  def __init__(self, dim: int, heads: int, dropout: float, activation: Callable[[Array], Array], *, rngs: nnx.Rngs):
    self.activation = activation
    self.attention = Attention(
      dim, heads, biases="", out_bias=False, dropout=dropout, kernel_init=xavier_normal, rngs=rngs
    )
    self.attention_norm = nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs)
    self.up = nnx.Linear(dim, 4 * dim, kernel_init=xavier_normal, rngs=rngs)
    self.down = nnx.Linear(4 * dim, dim, kernel_init=xavier_normal, rngs=rngs)
    self.feed_forward_norm = nnx.LayerNorm(dim, epsilon=_EPSILON, rngs=rngs)
    self.dropout = Dropout(dropout)

  def __call__(self, x: Array, mask: Array, rngs: nnx.Rngs | None, places: Array | None = None) -> Array:
    """`x [R * W, D]` and a bool `mask [R, 1, W, W]` to `[R * W, D]`; or to `[B, D]`, at `places [B]` alone."""
    rows = rearrange(x, "(r w) d -> r w d", r=len(mask))
    if places is None:
      mixed = flattened(self.attention(rows, mask, rngs))
    else:
      heads = attend(*self.attention.projected(rows), mask, dropout=self.attention.dropout, rngs=rngs)
      mixed, x = self.attention.joined(rearrange(heads, "r w h c -> (r w) h c")[places]), x[places]
    x = self.attention_norm(x + self.dropout(mixed, rngs))
    return self.feed_forward_norm(x + self.dropout(self.down(self.activation(self.up(x))), rngs))
