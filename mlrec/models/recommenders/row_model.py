"""What models of a row's items as features have in common: they score a user's items together with a candidate."""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec import losses
from mlrec.data.batches import EvalBatch
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interaction_batches import INTERACTIONS
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.tables import ItemTable
from mlrec.models.recommenders.recommender import Recommender
from mlrec.registry import at_least


class Candidates(NamedTuple):
  """What a training step scores: each of B users with each of the batch's U distinct items.

  Attributes:
    vectors: `[U, D]` embeddings.
    counts: `[U]` float32, slots of the batch that hold the item; 0 on the padding and on filler.
    weights: `[B]` float32, 1 for real users, 0 for filler.
  """

  vectors: Array
  counts: Array
  weights: Array


class RowModel(Recommender):
  """A factorisation machine's setting: the features are a user's other items and one candidate.

  Trained as MicroLens's released code trains its NFM and DeepFM. An example is one item of a user's training row, the
  target, and the row without it, those after it too, as the input. Each example is scored with every distinct item of
  the batch, inputs and targets of all examples; the loss is the popularity-debiased softmax of
  `losses.scored_softmax_sums`, an item counting as often as the batch's slots hold it, the row's own items excluded. At
  evaluation the input is the history. The embedding of the padding, id 0, is zero.

  Pairs are scored by what is computed once for a user (`read`) and once for an item (`features`).
  """

  batches_of = INTERACTIONS
  reads_padding = True
  reads_inputs = True
  scores_by_dot = False

  def __init__(self, num_items: int, max_length: int, dim: int, *, rngs: nnx.Rngs):
    """Builds the embeddings.

    Args:
      num_items: items that exist, padding not counted.
      max_length: items of an input.
      dim: width of the embeddings.
      rngs: the stream `params`.

    Raises:
      ValueError: a size is below 1.
    """
    at_least(1, num_items=num_items, max_length=max_length, dim=dim)
    self.table = ItemTable(num_items + 1, dim, embedding_init=xavier_normal, rngs=rngs)

  def embeddings(self, items: Array) -> Array:
    """Item ids `[U]` to embeddings `[U, D]`; zeros for 0."""
    return jnp.where(items[:, None] == 0, 0.0, self.table(items))

  def features(self, vectors: Array) -> tuple[Array, ...]:
    """What is computed once for an item: its embedding `[U, D]`, and other arrays of U rows."""
    return (vectors,)

  def read(self, history: Array, *, among: Candidates | None = None, rngs: nnx.Rngs | None = None) -> Any:
    """What is computed once for a user, arrays of B rows.

    Args:
      history: `[B, L, D]` embeddings of the inputs, oldest first, left-padded with zeros.
      among: in training, what is scored.
      rngs: the stream `dropout`; None for evaluation.
    """
    raise NotImplementedError

  def pairs(self, states: Any, items: tuple[Array, ...]) -> Array:
    """Scores `[T, B]` float32 of T rows of `features` for B users of `read`, as training wants them."""
    raise NotImplementedError

  def item_vectors(
    self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION
  ) -> tuple[Array, ...]:
    """Item ids `[U]` to what `features` makes of them; `content` and `context` do not matter."""
    return self.features(self.embeddings(items))

  def states(self, table: tuple[Array, ...], users: Any, batch: EvalBatch) -> Any:
    """What `read` makes of the batch's histories, each a left-padded row."""
    histories = batch.history.tokens[batch.last // batch.history.tokens.shape[1]]
    return self.read(jnp.take(table[0], histories, axis=0, mode="clip"))

  def score(self, states: Any, items: tuple[Array, ...]) -> Array:
    """Scores `[T, B]` float32 at evaluation."""
    return self.pairs(states, items)

  def loss(self, batch: InteractionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The mean loss of a batch's real examples (scalar float32); without `rngs` as at evaluation."""
    vectors = self.embeddings(batch.items)
    history = jnp.take(vectors, batch.inputs, axis=0, mode="clip")
    among = Candidates(vectors, batch.counts.astype(jnp.float32), batch.weights) if rngs is not None else None
    scores = self.pairs(self.read(history, among=among, rngs=rngs), self.features(vectors)).T
    row = jnp.concatenate([batch.inputs, batch.targets[:, None]], axis=1)
    excluded = jnp.zeros(scores.shape, bool).at[jnp.arange(len(row))[:, None], row].set(True)
    total, weight = losses.scored_softmax_sums(
      scores, jnp.take_along_axis(scores, batch.targets[:, None], axis=1)[:, 0], targets=batch.targets,
      excluded=excluded, counts=batch.counts, log_popularity=batch.log_popularity, weights=batch.weights,
    )  # fmt: skip
    return total / jnp.maximum(weight, 1.0)
