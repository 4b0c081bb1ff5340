"""BERT (Devlin et al., NAACL 2019) and what shares its architecture, as Hugging Face's library publishes them."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Any

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.text.encoder import check_feature
from mlrec.models.items.text.encoder import ids_and_mask
from mlrec.models.items.text.encoder import MODEL_PREFIX
from mlrec.models.items.text.encoder import pooled
from mlrec.models.items.text.encoder import seen
from mlrec.models.items.text.encoder import Spec
from mlrec.models.items.text.encoder import TextEncoder
from mlrec.models.items.text.encoder import Tokens
from mlrec.models.layers.context import Context
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.transformer import Attention
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import MLP
from mlrec.models.registry import models
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import OptionError
from mlrec.registry import variant

_INIT = nnx.initializers.normal(0.02)
_OLDER = {"gamma": "weight", "beta": "bias"}


class BERT(TextEncoder):
  """Sums of three embeddings through blocks whose norms come last; the first token's vector, or a mean, is the output.

  The pooler and the heads of the pre-training are not used.
  """

  torch_names = (
    (r"^embeddings\.norm\.", "embeddings.LayerNorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.attention\.out\.", ".attention.output.dense."),
    (r"\.attention_norm\.", ".attention.output.LayerNorm."),
    (r"\.mlp\.up\.", ".intermediate.dense."),
    (r"\.mlp\.down\.", ".output.dense."),
    (r"\.mlp_norm\.", ".output.LayerNorm."),
  )
  torch_dropped = (r"^(pooler|cls|lm_head|classifier)\.", r"^embeddings\.(position_ids|token_type_ids)$")

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    vocabulary: int = 30_522,
    positions: int = 512,
    first_position: int = 0,
    token_types: int = 2,
    eps: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    feature: str = "cls",
    unit_length: bool = False,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention.
      hidden: channels within the MLPs.
      vocabulary: how many token ids there are.
      positions: rows of the table of positions.
      first_position: the row of the first token.
      token_types: rows of the table of token types, of which a title has the first.
      eps: of the norms.
      dropout: in training, of the embeddings and of what each half of a block adds.
      attention_dropout: in training, of the attention's weights.
      feature: `cls` for the last vector of the first token, or `mean` for the mean of those of all tokens there are.
      unit_length: whether the output is divided by its length.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` is no multiple of `heads`, `feature` is unknown, or a number is out of range.
    """
    check_feature(feature)
    for name, value, least in (
      ("dim", dim, 1), ("depth", depth, 1), ("heads", heads, 1), ("hidden", hidden, 1),
      ("vocabulary", vocabulary, 1), ("token_types", token_types, 1),
      ("first_position", first_position, 0), ("positions", positions, first_position + 1),
    ):  # fmt: skip
      if value < least:
        raise OptionError(name, f"= {value} must be at least {least}")
    self.spec = dataclasses.replace(
      spec, vocabulary=vocabulary, features=dim,
      top=f"encoder.layer.{max(depth - 2, 0)}", half=f"encoder.layer.{depth // 2}",
    )  # fmt: skip
    self.stages = ("embeddings", *(f"encoder.layer.{n}" for n in range(depth)))
    self.feature, self.unit_length = feature, unit_length
    options: dict[str, Any] = {"eps": eps, "dropout": dropout, "dtype": dtype, "rngs": rngs}
    self.embeddings = Embeddings(dim, vocabulary, positions, first_position, token_types, **options)
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(Block(dim, heads, hidden, attention_dropout=attention_dropout, **options))

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """Takes titles `[B, 2, L]` or `Tokens`; gives `Tokens`, or in the last stage float32 `[B, dim]`."""
    if index == 0:
      ids, there = ids_and_mask(x)
      return Tokens(self.embeddings(ids, context.rngs), there)
    x = x._replace(x=self.blocks[index - 1](x.x, rearrange(seen(x.there), "b key -> b 1 1 key"), context.rngs))
    return x if index < len(self.blocks) else pooled(x, self.feature, unit_length=self.unit_length)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the prefix that those of a whole model have, and norms in their newer spelling.

    Raises:
      ValueError: two spellings of one parameter are there, and differ.
    """
    prepared: dict[str, Any] = {}
    for name, array in entries.items():
      name = MODEL_PREFIX.sub("", name)
      name = re.sub(r"(?<=\.LayerNorm\.)(gamma|beta)$", lambda match: _OLDER[match[0]], name)
      if name in prepared and not np.array_equal(np.asarray(prepared[name]), np.asarray(array)):
        raise ValueError(f"two spellings of the entry {name!r} are there, but differ")
      prepared[name] = array
    return prepared


class Embeddings(nnx.Module):
  """What a token is, where it stands, and the kind of text it stands in."""

  def __init__(
    self,
    dim: int,
    vocabulary: int,
    positions: int,
    first_position: int,
    token_types: int,
    *,
    eps: float,
    dropout: float,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    def table(rows: int) -> nnx.Embed:
      return nnx.Embed(rows, dim, embedding_init=_INIT, dtype=dtype, rngs=rngs)

    self.first_position, self.positions = first_position, positions
    self.word_embeddings = table(vocabulary)
    self.position_embeddings = table(positions)
    self.token_type_embeddings = table(token_types)
    self.norm = LayerNorm(dim, eps, rngs=rngs)
    self.dropout = Dropout(dropout)

  def __call__(self, ids: Array, rngs: nnx.Rngs | None) -> Array:
    """`ids [B, L]` int to `[B, L, dim]`."""
    first, last = self.first_position, self.first_position + ids.shape[1]
    if last > self.positions:
      raise ValueError(
        f"titles of {ids.shape[1]} tokens were given; positions = {self.positions} and first_position = {first} have "
        f"places for {self.positions - first}"
      )
    # Padding follows the tokens, so a place is an index.
    places = self.position_embeddings(jnp.arange(first, last))
    x = self.word_embeddings(ids) + places + self.token_type_embeddings(jnp.zeros((1,), jnp.int32))
    return self.dropout(self.norm(x), rngs)


class Block(nnx.Module):
  """Attention, then an MLP, each beside a shortcut and before a norm of the sum."""

  def __init__(
    self,
    dim: int,
    heads: int,
    hidden: int,
    *,
    eps: float,
    dropout: float,
    attention_dropout: float,
    dtype: Any,
    rngs: nnx.Rngs,
  ):
    options: dict[str, Any] = {"kernel_init": _INIT, "dtype": dtype, "rngs": rngs}
    self.attention = Attention(dim, heads, dropout=attention_dropout, **options)
    self.attention_norm = LayerNorm(dim, eps, rngs=rngs)
    self.mlp = MLP(dim, hidden, **options)
    self.mlp_norm = LayerNorm(dim, eps, rngs=rngs)
    self.dropout = Dropout(dropout)

  def __call__(self, x: Array, mask: Array, rngs: nnx.Rngs | None) -> Array:
    """`x [B, L, dim]` to the same shape; `mask [B, 1, 1, L]` bool says which tokens are seen."""
    x = self.attention_norm(x + self.dropout(self.attention(x, mask, rngs), rngs))
    return self.mlp_norm(x + self.dropout(self.mlp(x), rngs))


def _spec(source: str, weights: str = "model.safetensors", licence: str = "Apache-2.0") -> Spec:
  """Without what the options say: the net fills it in."""
  return Spec(vocabulary=0, features=0, weights=weights, licence=licence, top="", source=source)


def _size(depth: int, dim: int, heads: int) -> dict[str, Any]:
  return {"depth": depth, "dim": dim, "heads": heads, "hidden": 4 * dim}


_BASE = _size(12, 768, 12)
_TORCH = "pytorch_model.bin"
# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "bert_tiny": (_spec("google/bert_uncased_L-2_H-128_A-2", _TORCH), _size(2, 128, 2)),
  "bert_mini": (_spec("google/bert_uncased_L-4_H-256_A-4", _TORCH), _size(4, 256, 4)),
  "bert_small": (_spec("google/bert_uncased_L-4_H-512_A-8", _TORCH), _size(4, 512, 8)),
  "bert_medium": (_spec("google/bert_uncased_L-8_H-512_A-8", _TORCH), _size(8, 512, 8)),
  "bert_base": (_spec("google-bert/bert-base-uncased"), _BASE),
  "bert_large": (_spec("google-bert/bert-large-uncased"), _size(24, 1024, 16)),
  "minilm_l6": (
    _spec("sentence-transformers/all-MiniLM-L6-v2"),
    _size(6, 384, 12) | {"feature": "mean", "unit_length": True},
  ),
  # XLM-RoBERTa's vocabulary of 250,002 pieces, and places of special tokens; 50 languages and more.
  "multilingual_minilm_l12": (
    _spec("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"),
    _size(12, 384, 12) | {"vocabulary": 250_037, "feature": "mean"},
  ),
  "roberta_base": (
    _spec("FacebookAI/roberta-base", licence="MIT"),
    _BASE | {"vocabulary": 50_265, "positions": 514, "first_position": 2, "token_types": 1, "eps": 1e-5},
  ),
  "chinese_roberta_wwm_ext": (_spec("hfl/chinese-roberta-wwm-ext", _TORCH), _BASE | {"vocabulary": 21_128}),
}


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=TEXT_ENCODER)(variant(BERT, spec=_published, **_options))
