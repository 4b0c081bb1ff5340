"""VBPR: matrix factorisation with a visual part, trained to rank pairs."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec import losses
from mlrec.content.base import Need
from mlrec.data.batches import EvalBatch
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interaction_batches import INTERACTIONS
from mlrec.models.items.features import require_vectors
from mlrec.models.items.features import vectors_read
from mlrec.models.items.id import IdTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.tables import ItemTable
from mlrec.models.layers.tables import UserTable
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least


@models.register("vbpr", kind=RECOMMENDER)
class VBPR(Recommender):
  """Visual BPR (He and McAuley, AAAI 2016, equation 4). What MicroLens's code calls so is `dssm` with vectors.

  s(u, i) = b_i + g_u · g_i + t_u · (E v_i) + b · v_i, where v are the items' vectors; what depends on the user alone is
  left out, as it ranks nothing. The loss of an interaction is -log sigmoid(s(u, i) - s(u, j)), a mean over items j that
  are drawn of those that the user has not. The score is one dot product, of [g_u; t_u; 1] and
  [g_i; E v_i; b_i + b · v_i].
  """

  batches_of = INTERACTIONS
  by_user = True
  reads_lines = True

  def __init__(
    self,
    num_items: int,
    num_users: int,
    dim: int = 64,
    *,
    visual_dim: int = 64,
    negatives: int = 1,
    feature_dim: int = 0,
    rngs: nnx.Rngs,
  ):
    """Builds the tables.

    Args:
      num_items: items that exist, padding not counted.
      num_users: rows of the split.
      dim: width of g.
      visual_dim: width of t.
      negatives: items j of an interaction.
      feature_dim: width of the vectors that `config.data.features` names.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a value is out of range, or there are no vectors.
    """
    at_least(1, dim=dim, visual_dim=visual_dim, negatives=negatives)
    require_vectors(feature_dim, "'vbpr'")
    self.negatives, self.feature_dim = negatives, feature_dim
    self.users = UserTable(num_users, dim, embedding_init=xavier_normal, rngs=rngs)
    self.tastes = UserTable(num_users, visual_dim, embedding_init=xavier_normal, rngs=rngs)
    self.items = IdTower(num_items, dim, rngs=rngs)
    self.bias = ItemTable(num_items + 1, 1, embedding_init=nnx.initializers.zeros, rngs=rngs)
    self.projection = nnx.Linear(feature_dim, visual_dim, use_bias=False, kernel_init=xavier_normal, rngs=rngs)
    self.visual_bias = nnx.Linear(feature_dim, 1, use_bias=False, kernel_init=xavier_normal, rngs=rngs)

  @property
  def reads(self) -> Mapping[str, Need]:
    """The items' vectors."""
    return vectors_read(self.feature_dim)

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """[g_i; E v_i; b_i + b · v_i] of item ids `[U]` and `features [U, feature_dim]`, `[U, D]`."""
    del context  # nothing is dropped or normalised
    features = content["features"].astype(jnp.float32)
    bias = self.bias(items) + self.visual_bias(features)
    return jnp.concatenate([self.items(items), self.projection(features), bias], axis=-1)

  def states(self, table: Any, users: Any, batch: EvalBatch) -> Array:
    """[g_u; t_u; 1] of a batch's users, `[B, D]`."""
    del table, users  # a user is no more than a row of the tables
    return self._user_vectors(batch.users)

  def folded(self, table: Array, histories: Array) -> Array:
    """[g; t; 1], g and t those of the mean of the history's items."""
    return super().folded(table, histories).at[:, -1].set(1.0)

  def loss(self, batch: InteractionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The mean loss of a batch's interactions (scalar float32)."""
    del rngs
    vectors = self.item_vectors(batch.items, batch.content)
    states = self._user_vectors(batch.users)
    positive = jnp.sum(states * vectors[batch.targets], axis=-1)
    negative = jnp.sum(states[:, None] * vectors[batch.negatives], axis=-1)
    return losses.bpr(positive, negative, batch.weights)

  def _user_vectors(self, users: Array) -> Array:
    vectors = jnp.concatenate([self.users(users), self.tastes(users)], axis=-1)
    return jnp.pad(vectors, ((0, 0), (0, 1)), constant_values=1.0)
