"""ModernBERT (Warner et al., arXiv 2412.13663), as Hugging Face's library publishes it."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.text.encoder import check_feature
from mlrec.models.items.text.encoder import ids_and_mask
from mlrec.models.items.text.encoder import pooled
from mlrec.models.items.text.encoder import seen
from mlrec.models.items.text.encoder import Spec
from mlrec.models.items.text.encoder import TextEncoder
from mlrec.models.items.text.encoder import Tokens
from mlrec.models.layers.context import Context
from mlrec.models.layers.joint_attention import JointAttention
from mlrec.models.layers.rotary import angles
from mlrec.models.layers.rotary import HALVES
from mlrec.models.layers.rotary import turned
from mlrec.models.layers.transformer import flattened
from mlrec.models.layers.transformer import gelu
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import models
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-5
_INIT = nnx.initializers.truncated_normal(0.02)
# Every third block, from the first on, sees the whole text, the others a window.
_GLOBAL_EVERY = 3


class ModernBERT(TextEncoder):
  """Tokens through blocks whose norms come first, with rotary positions and gated MLPs; without any bias.

  Every third block sees all of a text, the others 64 tokens to either side. The output is the first token's vector, or
  a mean, after the last norm. There is no table of positions, so a text may have any length; the published weights
  were trained with up to 8,192 tokens. The heads of the pre-training are not used.
  """

  torch_names = (
    (r"^embedding\.", "embeddings.tok_embeddings."),
    (r"^embedding_norm\.", "embeddings.norm."),
    (r"^blocks\.", "layers."),
    (r"^norm\.", "final_norm."),
    (r"\.attention\.qkv\.", ".attn.Wqkv."),
    (r"\.attention\.out\.", ".attn.Wo."),
    (r"\.attention_norm\.", ".attn_norm."),
    (r"\.mlp\.up\.", ".mlp.Wi."),
    (r"\.mlp\.down\.", ".mlp.Wo."),
  )
  torch_dropped = (r"^(head|decoder|classifier)\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 22,
    heads: int = 12,
    hidden: int = 1152,
    vocabulary: int = 50_368,
    window: int = 128,
    global_base: float = 160_000.0,
    local_base: float = 10_000.0,
    feature: str = "mean",
    unit_length: bool = False,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention; each has an even number of channels.
      hidden: channels within the MLPs.
      vocabulary: how many token ids there are.
      window: tokens that a block with a window sees, half of them to either side.
      global_base: of the rotary frequencies in the blocks that see all.
      local_base: likewise in those with a window.
      feature: `cls` for the last vector of the first token, or `mean` for the mean of those of all tokens there are.
      unit_length: whether the output is divided by its length.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` and `heads` do not fit, `feature` is unknown, or a number is out of range.
    """
    check_feature(feature)
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, vocabulary=vocabulary, global_base=global_base)
    at_least(1, local_base=local_base)
    at_least(2, window=window)
    if dim % (2 * heads):
      raise OptionError("dim", f"= {dim} must give each of heads = {heads} the same even number of channels")
    self.spec = dataclasses.replace(
      spec, vocabulary=vocabulary, features=dim, top=f"layers.{max(depth - 2, 0)}", half=f"layers.{depth // 2}"
    )
    self.stages = ("embeddings", *(f"layers.{n}" for n in range(depth)), "final_norm")
    self.feature, self.unit_length = feature, unit_length
    self.embedding = nnx.Embed(vocabulary, dim, embedding_init=_INIT, dtype=dtype, rngs=rngs)
    self.embedding_norm = _norm(dim, rngs)
    self.blocks: Any = nnx.List([])
    for n in range(depth):
      sees = (None, global_base) if n % _GLOBAL_EVERY == 0 else (window, local_base)
      self.blocks.append(Block(dim, heads, hidden, *sees, first=n == 0, dtype=dtype, rngs=rngs))
    self.norm = _norm(dim, rngs)

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """Takes titles `[B, 2, L]` or `Tokens`; gives `Tokens`, or in the last stage float32 `[B, dim]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      ids, there = ids_and_mask(x)
      return Tokens(self.embedding_norm(self.embedding(ids)), there)
    if index <= len(self.blocks):
      return x._replace(x=self.blocks[index - 1](x.x, seen(x.there)))
    return pooled(x._replace(x=self.norm(x.x)), self.feature, unit_length=self.unit_length)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the prefix that those of a model with a head have."""
    return {name.removeprefix("model."): array for name, array in entries.items()}


class Block(nnx.Module):
  """Attention, then a gated MLP, each after a norm of its input and beside a shortcut."""

  def __init__(
    self,
    dim: int,
    heads: int,
    hidden: int,
    window: int | None,
    base: float,
    *,
    first: bool,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    """The `first` block has no norm before its attention: that of the embeddings comes right before it."""
    self.window, self.base = window, base
    self.attention_norm = None if first else _norm(dim, rngs)
    self.attention = JointAttention(dim, heads, use_bias=False, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.mlp_norm = _norm(dim, rngs)
    self.mlp = GatedMLP(dim, hidden, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, there: Array) -> Array:
    """`x [B, L, dim]` to the same shape; `there [B, L]` bool says which tokens are seen."""
    length, dim = x.shape[1:]
    mask = there[:, None, None, :]
    if self.window is not None and length > self.window // 2 + 1:
      places = np.arange(length)
      mask = mask & jnp.asarray(np.abs(places[:, None] - places) <= self.window // 2)
    by = angles(np.arange(length), dim // self.attention.heads // 2, self.base)
    turn = functools.partial(turned, angles=by, pairs=HALVES)
    x = x + self.attention(x if self.attention_norm is None else self.attention_norm(x), mask, turn=turn)
    return x + self.mlp(self.mlp_norm(x))


class GatedMLP(nnx.Module):
  """A linear layer whose output, after a GELU, is multiplied by that of another; then a third (Shazeer, 2020)."""

  def __init__(self, dim: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs):
    options: dict[str, Any] = {"use_bias": False, "kernel_init": _INIT, "dtype": dtype, "rngs": rngs}
    # The first two in one.
    self.up = nnx.Linear(dim, 2 * hidden, **options)
    self.down = nnx.Linear(hidden, dim, **options)

  def __call__(self, x: Array) -> Array:
    """`x [..., dim]` to the same shape."""
    value, gate = jnp.split(self.up(flattened(x)), 2, axis=-1)
    return self.down(gelu(value) * gate).reshape(x.shape)


def _norm(dim: int, rngs: nnx.Rngs) -> LayerNorm:
  return LayerNorm(dim, _EPSILON, use_bias=False, rngs=rngs)


def _spec(source: str) -> Spec:
  """Without what the options say: the net fills it in."""
  return Spec(vocabulary=0, features=0, weights="model.safetensors", licence="Apache-2.0", top="", source=source)


# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "modernbert_base": (_spec("answerdotai/ModernBERT-base"), {}),
  "modernbert_large": (
    _spec("answerdotai/ModernBERT-large"), {"dim": 1024, "depth": 28, "heads": 16, "hidden": 2624},
  ),
  # Trained for sentences, on the first token's vector, which is compared by its direction.
  "gte_modernbert_base": (_spec("Alibaba-NLP/gte-modernbert-base"), {"feature": "cls", "unit_length": True}),
}  # fmt: skip


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=TEXT_ENCODER)(variant(ModernBERT, spec=_published, **_options))
