"""YouTube's recommender: a user is the mean of the items of the history."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec import losses
from mlrec.data.batches import EvalBatch
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interaction_batches import INTERACTIONS
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.perceptron import Perceptron
from mlrec.models.recommenders.tower_recommender import TowerRecommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.rows_in_lines import rows_of


@models.register("youtube", kind=RECOMMENDER)
class YouTube(TowerRecommender):
  """The candidate generation of Covington et al. (RecSys 2016, section 3), in MicroLens's setting.

  s(u, i) = MLP(mean of g(j) over the items j of the history) · g(i), with one item tower g for both, and ReLU layers,
  none by default. MicroLens released no code of its rows YouTube_ID and YouTube_ID+V; what follows is our definition.

  An example is an item of a user's training row, and its inputs are all other items of the row, those after it too. The
  loss is the in-batch softmax of the benchmark's other rows: candidates are the items of all examples, inputs and
  targets, each as often as it occurs, less those of the example's own row, plus its target; their logits are
  s - log p(i).
  """

  batches_of = INTERACTIONS
  reads_inputs = True
  reads_padding = True
  reads_lines = True

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    item: Mapping[str, Any] = {"name": "id"},
    *,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds the tower and the layers.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors and user states.
      item: `name` of the item tower and its options.
      hidden: widths of the user's layers; the last one must be `dim`.
      dropout: of the input of each of those layers.
      item_data: what item towers may ask for, by name.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a name is unknown, or a value out of range.
    """
    at_least(1, dim=dim)
    self.make_items(item, num_items, dim, item_data=item_data, rngs=rngs)
    self.layers = Perceptron(dim, hidden, activation=jax.nn.relu, batch_norm=False, dropout=dropout, rngs=rngs)
    if self.layers.width != dim:
      raise OptionError("hidden", f"= {tuple(hidden)} must end in dim = {dim}, the width of item vectors")

  def states(self, table: Array, users: Any, batch: EvalBatch) -> Array:
    """The states `[B, D]` of users by their histories, a left-padded row each."""
    del users
    tokens = batch.history.tokens
    return self._user_vectors(table, tokens[batch.last // tokens.shape[1]], EVALUATION)

  def loss(self, batch: InteractionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The mean loss of a batch's examples (scalar float32)."""
    train = rngs is not None
    vectors = self.item_vectors(batch.items, batch.content, Context(train, rngs, batch.items != 0))
    states = self._user_vectors(vectors, batch.inputs, Context(train, rngs, batch.weights))
    examples = jnp.arange(len(batch.targets))
    own = jnp.zeros((len(batch.targets), len(batch.items)), bool)
    own = own.at[examples[:, None], jnp.concatenate([batch.inputs, batch.targets[:, None]], axis=1)].set(True)
    return losses.in_batch_softmax(
      states, vectors, targets=batch.targets, users=examples, own=own, counts=batch.counts,
      log_popularity=batch.log_popularity, weights=batch.weights,
    )  # fmt: skip

  def _user_vectors(self, vectors: Array, tokens: Array, context: Context) -> Array:
    """`[B, D]` of users whose histories are rows of `vectors [U, D]`, by `tokens [B, L]`; 0 is no item."""
    there = tokens != 0
    total = jnp.where(there[..., None], rows_of(vectors, tokens), 0.0).sum(1)
    return self.layers(total / jnp.maximum(there.sum(1, keepdims=True), 1), context)
