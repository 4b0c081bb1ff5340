"""BERT4Rec (Sun et al., CIKM 2019): a transformer that sees both ways restores the items masked in a row."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.data.batches import Batch
from mlrec.data.batches import EvalBatch
from mlrec.models.layers.context import Context
from mlrec.models.layers.dropout import uniform_bits
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.recommenders.sequential import in_batch_sums
from mlrec.models.recommenders.tower_recommender import TowerRecommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.models.users.sasrec import SASRec
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.rows_in_lines import rows_of

_EPSILON = 1e-6


class Bidirectional(SASRec):
  """SASRec's layers, each place seeing all others of its segment, with GELU in the feed-forward (sections 3.3, 3.4)."""

  causal = False
  activation = staticmethod(nnx.gelu)


@models.register("bert4rec", kind=RECOMMENDER)
class BERT4Rec(TowerRecommender):
  """Items of a training row are replaced by the vector [MASK] and predicted from all others, over any item tower.

  In training each item of a row is masked with `mask_probability` (section 3.6, the cloze task); a row of which none is
  drawn has its last one masked. With `last_probability` a row has its last item masked alone: the paper mixes in such
  rows, since that is what is asked at evaluation, where [MASK] follows the history. Draws are new at each step.

  The state of a masked place is GELU(h W + b), normalised as in the authors' released code, and its score for an item
  the dot product with the item's vector (equation 7). The paper's loss is a softmax over all items with a learned bias
  for each. Here it is, as for the other sequential models, to be comparable and to allow any item tower: the
  popularity-debiased softmax over the items of the batch, those of the row excluded; its popularity term stands for the
  bias.
  """

  reads_padding = True
  reads_lines = True

  def __init__(
    self,
    num_items: int,
    max_length: int = 10,
    dim: int = 64,
    item: Mapping[str, Any] = {"name": "id"},
    *,
    heads: int = 2,
    blocks: int = 2,
    dropout: float = 0.1,
    mask_probability: float = 0.4,
    last_probability: float = 0.2,
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds the tower and the transformer.

    Args:
      num_items: items that exist, padding not counted.
      max_length: the longest history.
      dim: width of item vectors and states.
      item: `name` of the item tower and its options.
      heads: of the attention.
      blocks: layers.
      dropout: of the inputs, the attention weights and the layers' outputs.
      mask_probability: of each item in training.
      last_probability: of a row, that its last item is masked alone.
      item_data: what item towers may ask for, by name.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a name is unknown, or a value out of range.
    """
    at_least(1, num_items=num_items, max_length=max_length, dim=dim)
    for name, value in {"mask_probability": mask_probability, "last_probability": last_probability}.items():
      if not 0 <= value <= 1:
        raise OptionError(name, f"= {value} must be between 0 and 1")
    self.mask_probability, self.last_probability = mask_probability, last_probability
    self.make_items(item, num_items, dim, item_data=item_data, rngs=rngs)
    self.layers = Bidirectional(dim, max_length=max_length + 1, heads=heads, blocks=blocks, dropout=dropout, rngs=rngs)
    self.mask = nnx.Param(jax.nn.initializers.normal(0.02)(rngs.params(), (dim,)))
    self.out = nnx.Linear(dim, dim, kernel_init=xavier_normal, rngs=rngs)
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def row_states(self, vectors: Array, tokens: Array, masked: Array, *, rngs: nnx.Rngs | None = None) -> Array:
    """States of left-padded rows.

    Args:
      vectors: `[U, D]`.
      tokens: `[R, S]` int, rows of `vectors`, S being `max_length` + 1; 0 on padding, unless it is masked.
      masked: `[R, S]` bool, the places that [MASK] takes.
      rngs: the `dropout` stream; None for evaluation.

    Returns:
      `[R, S, D]`, to be multiplied with item vectors; those on padding mean nothing.
    """
    return self._scored(self.layers(*self._rows(vectors, tokens, masked), rngs=rngs))

  def _rows(self, vectors: Array, tokens: Array, masked: Array) -> tuple[Array, Array, Array]:
    """What the layers read: vectors, positions and segments."""
    x = rows_of(vectors, tokens)
    x = jnp.where(masked[..., None], self.mask[...].astype(x.dtype), x)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return x, positions, ((tokens != 0) | masked).astype(jnp.int32)

  def _scored(self, x: Array) -> Array:
    return self.norm(nnx.gelu(self.out(x)))

  def states(self, table: Array, users: Any, batch: EvalBatch) -> Array:
    """The states `[B, D]` of [MASK] after users' histories."""
    tokens = batch.history.tokens[batch.last // batch.history.tokens.shape[1]]
    tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
    masked = jnp.broadcast_to(jnp.arange(tokens.shape[1]) == tokens.shape[1] - 1, tokens.shape)
    last = (jnp.arange(len(tokens)) + 1) * tokens.shape[1] - 1
    return self._scored(self.layers.at(*self._rows(table, tokens, masked), last))

  def loss_sums(self, batch: Batch, *, rngs: nnx.Rngs | None = None) -> tuple[Array, Array]:
    """The sum of losses over a batch's masked items, and their number; without `rngs` those are the rows' last."""
    context = Context(train=rngs is not None, rngs=rngs, weights=batch.items != 0)
    vectors = self.item_vectors(batch.items, batch.content, context)
    # A group's users are every G-th row of `slots`; the loss wants each group's together.
    number = batch.slots.shape[0]
    users = jnp.arange(number).reshape(-1, batch.counts.shape[0]).T.ravel()
    tokens = jnp.take(batch.slots, users, axis=0)
    masked = self.masked_places(tokens, rngs)
    states = self.row_states(vectors, tokens, masked, rngs=rngs)
    places = batch._replace(
      targets=tokens,
      users=jnp.broadcast_to(users[:, None], tokens.shape),
      weights=masked.astype(jnp.float32),
    )
    return in_batch_sums(states, vectors, places)

  def masked_places(self, tokens: Array, rngs: nnx.Rngs | None) -> Array:
    """`[R, S]` bool, the places of rows `tokens [R, S]` to be predicted: real ones, of each real row at least one."""
    real = tokens != 0
    last = real & (jnp.arange(tokens.shape[1]) == tokens.shape[1] - 1)
    if rngs is None:
      return last
    drawn = real & (_uniform(rngs, tokens.shape) < self.mask_probability)
    alone = _uniform(rngs, (tokens.shape[0], 1)) < self.last_probability
    return jnp.where(alone | ~drawn.any(1, keepdims=True), last, drawn)


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...]) -> Array:
  """float32 in [0, 1), of 24 bits each."""
  return (uniform_bits(rngs.dropout(), shape) >> 8).astype(jnp.float32) * 2.0**-24
