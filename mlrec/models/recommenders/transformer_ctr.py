"""A transformer over the history with the item that is shown at its end."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from einops import rearrange
from einops import repeat
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.perceptron import Perceptron
from mlrec.models.layers.transformer import flattened
from mlrec.models.recommenders.ranker import of_pairs
from mlrec.models.recommenders.ranker import Ranker
from mlrec.models.recommenders.ranker import Read
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.models.users.sasrec import attention_mask
from mlrec.models.users.sasrec import Block
from mlrec.registry import at_least
from mlrec.registry import OptionError


@models.register("transformer_ctr", kind=RECOMMENDER)
class TransformerCTR(Ranker):
  """Behavior Sequence Transformer (Chen et al., DLP-KDD 2019, arXiv 1905.06874, section 2).

  The item shown follows the history, places see each other, and what comes out of all of them, side by side, goes
  through LeakyReLU layers. Where the paper embeds the time that has passed since an item and puts it beside the item's
  vector, this one adds an embedding of how many items there are between: impressions have no times.
  """

  def __init__(
    self,
    num_items: int,
    max_length: int = 10,
    dim: int = 64,
    item: Mapping[str, Any] = {"name": "id"},
    *,
    heads: int = 2,
    blocks: int = 1,
    hidden: Sequence[int] = (256, 128, 64),
    dropout: float = 0.1,
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds the model.

    Args:
      num_items: items that exist, padding not counted.
      max_length: items of a history.
      dim: width of item vectors, a multiple of `heads`.
      item: `name` of the item tower and its options.
      heads: of the attention.
      blocks: of the transformer.
      hidden: widths of the layers above it.
      dropout: within the blocks, of their input, and of the input of each layer of `hidden`.
      item_data: what item towers may ask for, by name.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a name is unknown, or a value out of range.
    """
    at_least(1, dim=dim, max_length=max_length, heads=heads, blocks=blocks)
    if dim % heads:
      raise OptionError("heads", f"= {heads}: dim = {dim} must be a multiple of heads = {heads}")
    self.make_items(item, num_items, dim, item_data=item_data, rngs=rngs)
    self.position = nnx.Embed(max_length + 1, dim, embedding_init=xavier_normal, rngs=rngs)
    self.dropout = Dropout(dropout)
    self.blocks = nnx.List([Block(dim, heads, dropout, jax.nn.leaky_relu, rngs=rngs) for _ in range(blocks)])
    self.layers = Perceptron(
      (max_length + 1) * dim, hidden, activation=jax.nn.leaky_relu, batch_norm=False, dropout=dropout, rngs=rngs
    )
    self.out = nnx.Linear(self.layers.width, 1, kernel_init=xavier_normal, rngs=rngs)

  def logits(self, history: Read, shown: Array, context: Context = EVALUATION) -> Array:
    """As of `Ranker`."""
    number = shown.shape[1]
    items = repeat(history.vectors, "b l d -> (b k) l d", k=number)
    there = jnp.pad(repeat(history.there, "b l -> (b k) l", k=number), ((0, 0), (0, 1)), constant_values=True)
    x = jnp.concatenate([items, rearrange(shown, "b k d -> (b k) 1 d")], axis=1)
    # Rows are left-padded: how far a place is from the end is the place itself.
    shape, x = x.shape, self.dropout(flattened(x + self.position.embedding[...]), context.rngs)
    mask = attention_mask(there.astype(jnp.int32), causal=False)
    for block in self.blocks:
      x = block(x, mask, context.rngs)
    x = jnp.where(there[..., None], x.reshape(shape), 0).reshape(len(there), -1)
    x = self.layers(x, of_pairs(context, jnp.ones(shown.shape[:2], bool)))
    return self.out(x).reshape(shown.shape[:2])
