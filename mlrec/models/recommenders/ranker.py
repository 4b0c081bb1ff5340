"""What models that predict clicks share: a history and items that are shown after it, each pair scored by itself."""

from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec import losses
from mlrec.data.batches import EvalBatch
from mlrec.data.impression_batches import ImpressionBatch
from mlrec.data.impression_batches import IMPRESSIONS
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.recommenders.tower_recommender import TowerRecommender


class Read(NamedTuple):
  """Histories, each a left-padded row.

  Attributes:
    vectors: `[B, L, D]` of the items, oldest first.
    there: `[B, L]` bool, false on padding.
  """

  vectors: Array
  there: Array


class Ranker(TowerRecommender):
  """The logit of a click on an item that is shown after a history.

  Learned from impressions by cross-entropy: sigmoid(logit) is the chance of a click, as they show it. Items, those of
  the history and those shown, are what one tower makes of them. A ranker knows no users but by their histories.
  """

  batches_of = IMPRESSIONS
  reads_padding = True
  scores_by_dot = False

  def logits(self, history: Read, shown: Array, context: Context = EVALUATION) -> Array:
    """Logits `[B, K]` float32.

    Args:
      history: of B users.
      shown: `[B, K, D]` vectors of the items shown to each.
      context: for evaluation or training; its weights are `[B]`.
    """
    raise NotImplementedError

  def read(self, vectors: Array, histories: Array) -> Read:
    """Histories whose items are rows of `vectors [U, D]`, by `histories [B, L]` int, 0 for none."""
    return Read(jnp.take(vectors, histories, axis=0, mode="clip"), histories != 0)

  def states(self, table: Array, users: Any, batch: EvalBatch) -> Read:
    """The histories of a batch's users, as `score` takes them."""
    del users
    tokens = batch.history.tokens
    return self.read(table, tokens[batch.last // tokens.shape[1]])

  def score(self, states: Read, items: Array) -> Array:
    """Logits `[T, B]` of T item vectors for B users."""

    # User by user: pairs of all at once, with all that is between, would not fit a cache.
    def of_user(history: Read) -> Array:
      return self.logits(jax.tree.map(lambda x: x[None], history), items[None])[0]

    return jax.lax.map(of_user, states).T

  def loss(self, batch: ImpressionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The mean cross-entropy of a batch's real impressions (scalar float32); without `rngs` as at evaluation."""
    train = rngs is not None
    vectors = self.item_vectors(batch.items, batch.content, Context(train, rngs, batch.items != 0))
    shown = jnp.take(vectors, batch.targets, axis=0, mode="clip")
    logits = self.logits(self.read(vectors, batch.inputs), shown, Context(train, rngs, batch.weights))
    return losses.binary_cross_entropy(logits, batch.labels, batch.weights)


def of_pairs(context: Context, there: Array) -> Context:
  """The context of arrays that have a row for each of `there [B, ...]` bool, of real rows alone."""
  if context.weights is None:
    return context._replace(weights=there.reshape(-1).astype(jnp.float32))
  weights = context.weights.reshape(-1, *[1] * (there.ndim - 1))
  return context._replace(weights=(weights * there).reshape(-1))
