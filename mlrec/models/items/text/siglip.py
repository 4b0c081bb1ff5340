"""SigLIP 2's text encoder (Tschannen et al., arXiv 2502.14786), as Hugging Face's library publishes it.

It was trained on lower-cased text of many languages: `config.model.item.lower = True` makes titles so.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.hugging_face import clip_layers
from mlrec.models.items.hugging_face import prefixed
from mlrec.models.items.text.encoder import ids_and_mask
from mlrec.models.items.text.encoder import places
from mlrec.models.items.text.encoder import Spec
from mlrec.models.items.text.encoder import TextEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import tanh_gelu
from mlrec.models.registry import models
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import at_least
from mlrec.registry import variant

_EPSILON = 1e-6
_INIT = nnx.initializers.glorot_uniform()
# Stands in the places that a text does not fill, which the encoder was trained to see.
_PAD = 0


class SigLIPText(TextEncoder):
  """A transformer over a text filled up to all of its places; a linear layer of the last one's vector is the output.

  It lies in the space that texts share with the images of the encoder without `_text` in its name. What a text does not
  fill it fills itself, so that any number of places may be given, up to all.
  """

  torch_names = (
    (r"^embedding\.tokens\.", "text_model.embeddings.token_embedding."),
    (r"^embedding\.positions\.", "text_model.embeddings.position_embedding."),
    (r"^norm\.", "text_model.final_layer_norm."),
    (r"^head\.", "text_model.head."),
    *clip_layers("text_model"),
  )
  # The half that sees images. Older files list the numbers of positions.
  torch_dropped = (r"^(vision_model\.|logit_scale$|logit_bias$)|\.position_ids$",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    vocabulary: int = 256_000,
    positions: int = 64,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained, and what follows them.
      heads: of the attention.
      hidden: channels within the MLPs.
      vocabulary: how many token ids there are.
      positions: rows of the table of positions, the places of a text.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` is no multiple of `heads`, or a number is out of range.
    """
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, vocabulary=vocabulary, positions=positions)
    blocks = [f"text_model.encoder.layers.{n}" for n in range(depth)]
    self.spec = dataclasses.replace(
      spec, vocabulary=vocabulary, features=dim, length=positions,
      top=blocks[max(depth - 2, 0)], half=blocks[depth // 2],
    )  # fmt: skip
    self.stages = ("text_model.embeddings", *blocks, "text_model.final_layer_norm", "text_model.head")
    options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
    self.embedding = Embeddings(dim, vocabulary, positions, **options)
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(
        Block(dim, heads, hidden=hidden, epsilon=_EPSILON, activation=tanh_gelu, kernel_init=_INIT, **options)
      )
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.head = nnx.Linear(dim, dim, **options)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Takes titles `[B, 2, L]`; tokens are `[B, positions, D]`; the last stage's result is float32 `[B, dim]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      return self.embedding(*ids_and_mask(x))
    if index <= len(self.blocks):
      return self.blocks[index - 1](x)
    return self.norm(x[:, -1]) if index == len(self.blocks) + 1 else self.head(x).astype(jnp.float32)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries, under the prefix of a whole model's, which the text half alone may not have."""
    return prefixed(entries, "text_model.")


class Embeddings(nnx.Module):
  """What a token is, and where it stands."""

  def __init__(self, dim: int, vocabulary: int, positions: int, *, dtype: Any, rngs: nnx.Rngs):
    start = nnx.initializers.normal(dim**-0.5)
    self.tokens = nnx.Embed(vocabulary, dim, embedding_init=start, dtype=dtype, rngs=rngs)
    self.positions = nnx.Embed(positions, dim, embedding_init=start, dtype=dtype, rngs=rngs)

  def __call__(self, ids: Array, there: Array) -> Array:
    """`ids [B, L]`, of which those that are `there` are read, to `[B, positions, dim]`."""
    table = self.positions.embedding[...]
    places(table, ids.shape[1])
    ids = jnp.pad(jnp.where(there, ids, _PAD), ((0, 0), (0, len(table) - ids.shape[1])), constant_values=_PAD)
    x = self.tokens(ids)
    return x + table.astype(x.dtype)


def _spec(name: str) -> Spec:
  """Without what the options say: the net fills it in."""
  return Spec(
    vocabulary=0, length=64, features=0, weights="model.safetensors", licence="Apache-2.0", top="",
    source=f"google/{name}",
  )  # fmt: skip


# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "siglip2_b_16_text": (_spec("siglip2-base-patch16-224"), {}),
  "siglip2_l_16_text": (
    _spec("siglip2-large-patch16-256"), {"dim": 1024, "depth": 24, "heads": 16, "hidden": 4096},
  ),
  "siglip2_so400m_16_text": (
    _spec("siglip2-so400m-patch16-384"), {"dim": 1152, "depth": 27, "heads": 16, "hidden": 4304},
  ),
}  # fmt: skip


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=TEXT_ENCODER)(variant(SigLIPText, spec=_published, **_options))
