"""DSSM: a tower for users and one for items, over IDs and, as DSSM_ID+V, over vectors of the items."""

from collections.abc import Mapping
from collections.abc import Sequence
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
from mlrec.models.layers.perceptron import Perceptron
from mlrec.models.layers.tables import UserTable
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import Frozen
from mlrec.models.layers.variables import put_in_group
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least
from mlrec.registry import OptionError


@models.register("dssm", kind=RECOMMENDER)
class DSSM(Recommender):
  """Two towers and their dot product (Huang et al., CIKM 2013), as the MicroLens benchmark has them.

  s(u, i) = f(u) · g(i), where f and g are rows of a table for users and of one for items, each through a perceptron of
  tanh layers with batch normalisation (none in the published run: matrix factorisation). With `visual_dim` it is the
  benchmark's DSSM_ID+V: f(u) = [user; taste of user], g(i) = [item; W v_i] of the items' vectors v, perceptrons acting
  on the parts from IDs.

  Trained on single interactions (u_a, i_a) of a batch by the in-batch softmax over logits
  f(u_a) · g(i_b) - log p(i_b) with label a (Yi et al., RecSys 2019); places b of the same item as a's are excluded,
  other items of the user are not (arXiv 2309.15379, released code).
  """

  batches_of = INTERACTIONS
  by_user = True
  reads_lines = True

  def __init__(
    self,
    num_items: int,
    num_users: int,
    dim: int = 512,
    *,
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    visual_dim: int = 0,
    reference: bool = False,
    feature_dim: int = 0,
    rngs: nnx.Rngs,
  ):
    """Builds both towers.

    Args:
      num_items: items that exist, padding not counted.
      num_users: rows of the split.
      dim: width of the ID tables.
      hidden: widths of the layers above them, in both towers.
      dropout: of the input of each of those layers.
      visual_dim: width of the parts from vectors, beside those from IDs; 0 for none.
      reference: adds a projection of v_i at random, which is not in the training score and so never trained, to the
        scores in evaluation, as the released DSSM_ID+V does.
      feature_dim: width of the vectors that `config.data.features` names.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a value is out of range, or there are no vectors where they are read.
    """
    at_least(1, dim=dim)
    at_least(0, visual_dim=visual_dim)
    if reference and not visual_dim:
      raise OptionError("reference", "= True adds a term of the items' vectors: it needs visual_dim above 0")
    layers: dict[str, Any] = {"activation": jnp.tanh, "batch_norm": True, "dropout": dropout, "rngs": rngs}
    self.users = UserTable(num_users, dim, embedding_init=xavier_normal, rngs=rngs)
    self.items = IdTower(num_items, dim, rngs=rngs)
    self.user_layers = Perceptron(dim, hidden, **layers)
    self.item_layers = Perceptron(dim, hidden, **layers)
    self.visual_dim, self.reference, self.feature_dim = visual_dim, reference, feature_dim
    if visual_dim:
      require_vectors(feature_dim, f"'dssm' with config.model.visual_dim = {visual_dim}")
      self.tastes = UserTable(num_users, visual_dim, embedding_init=xavier_normal, rngs=rngs)
      self.projection = nnx.Linear(feature_dim, visual_dim, use_bias=False, kernel_init=xavier_normal, rngs=rngs)
      # The published DSSM_ID+V trains it at a rate of its own (released code).
      put_in_group(self.projection, ENCODER)
    if reference:
      self.visual_bias = Frozen(xavier_normal(rngs.params(), (feature_dim, 1)))

  @property
  def reads(self) -> Mapping[str, Need]:
    """The items' vectors, where they have a part in the score."""
    return vectors_read(self.feature_dim) if self.visual_dim else {}

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """g of item ids `[U]` (and `features [U, feature_dim]`), `[U, D]`; one column more for the term of `reference`."""
    vectors = self._item_vectors(items, content, context)
    if self.reference:
      vectors = jnp.concatenate([vectors, content["features"].astype(jnp.float32) @ self.visual_bias[...]], axis=-1)
    return vectors

  def states(self, table: Any, users: Any, batch: EvalBatch) -> Array:
    """f of a batch's users, `[B, D]`; one column more for the term of `reference`."""
    del table, users  # a user is no more than a row of the tables
    states = self._user_vectors(batch.users, EVALUATION)
    return jnp.pad(states, ((0, 0), (0, 1)), constant_values=1.0) if self.reference else states

  def folded(self, table: Array, histories: Array) -> Array:
    """The mean of the history's items; one column more for the term of `reference`."""
    states = super().folded(table, histories)
    return states.at[:, -1].set(1.0) if self.reference else states

  def loss(self, batch: InteractionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The mean loss of a batch's interactions (scalar float32)."""
    train = rngs is not None
    # An item counts in the statistics of batch normalisation as often as interactions name it.
    vectors = self._item_vectors(batch.items, batch.content, Context(train, rngs, batch.counts))
    states = self._user_vectors(batch.users, Context(train, rngs, batch.weights))
    return losses.in_batch_softmax(
      states, vectors, targets=batch.targets, users=jnp.arange(len(batch.targets)),
      own=batch.targets[:, None] == jnp.arange(len(batch.items)), counts=batch.counts,
      log_popularity=batch.log_popularity, weights=batch.weights,
    )  # fmt: skip

  def _item_vectors(self, items: Array, content: Mapping[str, Array], context: Context) -> Array:
    vectors = self.item_layers(self.items(items), context)
    if self.visual_dim:
      vectors = jnp.concatenate([vectors, self.projection(content["features"].astype(jnp.float32))], axis=-1)
    return vectors

  def _user_vectors(self, users: Array, context: Context) -> Array:
    vectors = self.user_layers(self.users(users), context)
    if self.visual_dim:
      vectors = jnp.concatenate([vectors, self.tastes(users)], axis=-1)
    return vectors
