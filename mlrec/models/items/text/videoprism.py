"""The text half of VideoPrism LvT (Zhao et al., ICML 2024).

Files of both its publishers are read, under the names of Hugging Face's library.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from einops import repeat
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.convert import from_flax
from mlrec.models.items.encoder import of_unit_length
from mlrec.models.items.hugging_face import prefixed
from mlrec.models.items.text.encoder import ids_and_mask
from mlrec.models.items.text.encoder import Spec
from mlrec.models.items.text.encoder import TextEncoder
from mlrec.models.items.text.encoder import Tokens
from mlrec.models.items.video.videoprism import Block
from mlrec.models.items.video.videoprism import flax_blocks
from mlrec.models.items.video.videoprism import flax_entries
from mlrec.models.items.video.videoprism import OffsetNorm
from mlrec.models.layers.context import Context
from mlrec.models.registry import models
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

# Google's file beside the blocks: name and axes there, name and axes here.
_FLAX = (
  ("token_emb/emb_var", "tokens dim", "text_model.embeddings.token_embedding.weight", "tokens dim"),
  ("cls_emb", "one last dim", "text_model.embeddings.cls_emb", "one last dim"),
  ("unimodal_ln/scale", "dim", "text_model.layernorm.weight", "dim"),
  ("unimodal_ln/bias", "dim", "text_model.layernorm.bias", "dim"),
)
_FLAX_DROPPED = r"^params/(vision_encoder|auxiliary_encoder|contrastive_vision_pooler)/"


class VideoPrismText(TextEncoder):
  """A transformer in which a token sees those before it; its own last token's vector, of length 1, is the output.

  It lies in the space that texts share with the videos of the encoder without `_text` in its name. Positions are fixed,
  so a text may have any length; the published weights were trained with up to 64 tokens. A text without any is that
  last token alone.
  """

  torch_names = (
    (r"^embedding\.tokens\.", "text_model.embeddings.token_embedding."),
    (r"^embedding\.last$", "text_model.embeddings.cls_emb"),
    (r"^blocks\.", "text_model.layers."),
    (r"^norm\.", "text_model.layernorm."),
  )
  # The half that sees videos, and what is computed here.
  torch_dropped = (r"^video_model\.|\.embeddings\.(position_embedding|position_ids)$",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    vocabulary: int = 32_000,
    cap: float = 50.0,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels, an even number, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained, and the norm.
      heads: of the attention.
      hidden: channels within the MLPs.
      vocabulary: how many token ids there are.
      cap: scores of the attention stay below it.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` and `heads` do not fit, or a number is out of range.
    """
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, vocabulary=vocabulary)
    if cap <= 0:
      raise OptionError("cap", f"= {cap} must be above 0")
    if dim % 2:
      raise OptionError("dim", f"= {dim} must be even")
    layer = "text_model.layers"
    self.spec = dataclasses.replace(
      spec, vocabulary=vocabulary, features=dim, top=f"{layer}.{max(depth - 2, 0)}", half=f"{layer}.{depth // 2}"
    )
    self.stages = ("text_model.embeddings", *(f"{layer}.{n}" for n in range(depth)), "text_model.layernorm")
    self.embedding = Embeddings(dim, vocabulary, dtype=dtype, rngs=rngs)
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(Block(dim, heads, hidden, cap, activation=jax.nn.relu, dtype=dtype, rngs=rngs))
    self.norm = OffsetNorm(dim)

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """Takes titles `[B, 2, L]` or `Tokens` of one more; gives `Tokens`, or in the last stage float32 `[B, dim]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      ids, there = ids_and_mask(x)
      return Tokens(self.embedding(ids), jnp.pad(there, ((0, 0), (0, 1)), constant_values=True))
    if index <= len(self.blocks):
      length = x.x.shape[1]
      mask = x.there[:, None, None, :] & jnp.tri(length, dtype=bool)
      return x._replace(x=self.blocks[index - 1](x.x, mask))
    return of_unit_length(self.norm(x.x[:, -1]).astype(jnp.float32))

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries, under the prefix of a whole model's, which the text half alone may not have; Google's renamed.

    Raises:
      ValueError: the file is Google's, and an entry is missing, unused or wrongly shaped.
    """
    if not any(name.startswith("params/") for name in entries):
      return prefixed(entries, "text_model.")
    table = self.embedding.tokens
    sizes = {"tokens": table.num_embeddings, "dim": table.features, "one": 1, "last": 1}
    prefix = "params/text_encoder/"
    blocks = flax_blocks(f"{prefix}unimodal_transformer/", self.blocks, "text_model.layers")
    return from_flax(entries, [*flax_entries(prefix, _FLAX, sizes), *blocks], _FLAX_DROPPED)


class Embeddings(nnx.Module):
  """What a token is, and where it stands; behind all of them a learned one, which stands nowhere."""

  def __init__(self, dim: int, vocabulary: int, *, dtype: Any, rngs: nnx.Rngs):
    self.tokens = nnx.Embed(
      vocabulary, dim, embedding_init=nnx.initializers.normal(dim**-0.5), dtype=dtype, rngs=rngs
    )  # fmt: skip
    self.last = nnx.Param(nnx.initializers.normal(dim**-0.5)(rngs.params(), (1, 1, dim)))

  def __call__(self, ids: Array) -> Array:
    """`ids [B, L]` to `[B, L + 1, dim]`."""
    x = self.tokens(ids)
    dim = x.shape[-1]
    x = x * dim**0.5 + jnp.asarray(_positions(ids.shape[1], dim)).astype(x.dtype)
    last = repeat(self.last[...].astype(x.dtype) * dim**0.5, "1 1 d -> b 1 d", b=len(x))
    return jnp.concatenate([x, last], axis=1)


@functools.lru_cache(maxsize=32)
def _positions(length: int, dim: int) -> np.ndarray:
  """`[length, dim]` float32: sines of all frequencies, then cosines (Vaswani et al., 2017, in another order)."""
  by = np.arange(length)[:, None] * 10000.0 ** -(np.arange(0, dim, 2) / dim)
  return np.concatenate([np.sin(by), np.cos(by)], axis=1).astype(np.float32)


def _spec(name: str) -> Spec:
  """Without what the options say: the net fills it in."""
  return Spec(
    vocabulary=0, length=64, bare=True, features=0, weights="model.safetensors", licence="Apache-2.0", top="",
    source=f"google/{name}",
  )  # fmt: skip


# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "videoprism_lvt_b_text": (_spec("videoprism-lvt-base-f16r288"), {}),
  "videoprism_lvt_l_text": (
    _spec("videoprism-lvt-large-f8r288"), {"dim": 1024, "heads": 16, "hidden": 4096},
  ),
}  # fmt: skip


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=TEXT_ENCODER)(variant(VideoPrismText, spec=_published, **_options))
