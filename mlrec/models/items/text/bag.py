"""A bag of tokens: no order, no attention, and so cheap that it is trained end to end on a CPU."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.text.encoder import ids_and_mask
from mlrec.models.items.text.encoder import MODEL_PREFIX
from mlrec.models.items.text.encoder import seen
from mlrec.models.items.text.encoder import Spec
from mlrec.models.items.text.encoder import TextEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.dropout import kept
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import models
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import OptionError

_EPSILON = 1e-6
# Odd and large: pairs of ids are spread over the buckets by their multiples.
_FIRST, _SECOND = 2_654_435_761, 2_246_822_519
_WORDS = "embeddings.word_embeddings.weight"


@models.register("bag_of_tokens", kind=TEXT_ENCODER)
class BagOfTokens(TextEncoder):
  """The weighted mean of a title's token embeddings, and of its bigrams', normalised.

  Names, tags and series, which say who will watch, are tokens that a general encoder has never seen watched. A deep
  averaging network (Iyyer et al., ACL 2015, sections 2 and 4.2) with fastText's hashed bigrams (Joulin et al., EACL
  2017, section 2.1) learns them from histories alone. Each token also learns a scalar, of which the weights are the
  softmax over the title; all start alike. It may start from the word embeddings of a published BERT. In training a
  token is left out with the probability `token_dropout`; a title that would lose all loses none.
  """

  def __init__(
    self,
    *,
    dim: int = 128,
    vocabulary: int = 30_522,
    bigrams: int = 0,
    token_dropout: float = 0.0,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the tables.

    Args:
      dim: width of the embeddings, and of the output.
      vocabulary: how many token ids there are.
      bigrams: buckets of the hashed pairs of neighbouring tokens; 0 for none.
      token_dropout: the share of tokens that a training step does not see.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: a number is out of range.
    """
    for name, value, least in (("dim", dim, 1), ("vocabulary", vocabulary, 1), ("bigrams", bigrams, 0)):
      if value < least:
        raise OptionError(name, f"= {value} must be at least {least}")
    if not 0 <= token_dropout < 1:
      raise OptionError("token_dropout", f"= {token_dropout} must be at least 0 and below 1")
    self.spec = Spec(
      vocabulary=vocabulary, features=dim, weights="", licence="", top="embeddings", source="arXiv 1607.01759"
    )
    self.stages = ("embeddings",)
    self.vocabulary, self.bigrams, self.token_dropout, self.dtype = vocabulary, bigrams, token_dropout, dtype
    self.embeddings = nnx.Embed(
      vocabulary + bigrams, dim, embedding_init=nnx.initializers.normal(dim**-0.5), dtype=dtype, rngs=rngs
    )
    self.emphasis = nnx.Param(jnp.zeros(vocabulary + bigrams))
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Takes titles `[B, 2, L]`; gives float32 `[B, dim]`."""
    del index
    ids, there = ids_and_mask(x)
    there = seen(there)
    if self.bigrams:
      first, second = ids[:, :-1].astype(jnp.uint32), ids[:, 1:].astype(jnp.uint32)
      # The high bits are the well-mixed ones.
      buckets = (first * jnp.uint32(_FIRST) + second * jnp.uint32(_SECOND) >> 8) % jnp.uint32(self.bigrams)
      ids = jnp.concatenate([ids, self.vocabulary + buckets.astype(ids.dtype)], axis=1)
      there = jnp.concatenate([there, there[:, :-1] & there[:, 1:]], axis=1)
    if self.token_dropout and context.rngs is not None:
      there = kept(there, [self.token_dropout], context.rngs.dropout())
    weights = jax.nn.softmax(jnp.where(there, self.emphasis[...][ids], -jnp.inf), axis=1)
    mean = jnp.einsum("bl,bld->bd", weights.astype(self.dtype), self.embeddings(ids))
    return self.norm(mean.astype(jnp.float32))

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Its own entries, or those that begin with a BERT's word embeddings, of which nothing else is taken.

    Their mean, which is far longer than what tells words apart, is taken off; all tokens weigh the same, and buckets of
    bigrams keep their start.
    """
    words = [name for name in entries if MODEL_PREFIX.sub("", name) == _WORDS]
    if not words:
      return dict(entries)
    table = np.asarray(entries[words[0]], np.float32)
    buckets = np.asarray(self.embeddings.embedding[...])[self.vocabulary :]
    if table.shape[1:] != buckets.shape[1:]:
      raise ValueError(f"entry {words[0]!r} has shape {table.shape}; options.dim of this encoder is {buckets.shape[1]}")
    return {
      "embeddings.weight": np.concatenate([table - table.mean(0), buckets]),
      "emphasis": np.zeros(self.emphasis.shape, np.float32),
      "norm.weight": np.ones(table.shape[1], np.float32),
      "norm.bias": np.zeros(table.shape[1], np.float32),
    }
