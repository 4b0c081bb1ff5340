"""GRCN: a graph whose edges are weighed by how well what an item shows fits the user, pruned and then convolved."""

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec import losses
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interactions import Rows
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.variables import rows_of_users
from mlrec.models.recommenders.graph_recommender import graph_of
from mlrec.models.recommenders.graph_recommender import GraphRecommender
from mlrec.models.recommenders.graph_recommender import ItemContent
from mlrec.models.recommenders.graph_recommender import node_rows
from mlrec.models.recommenders.graph_recommender import normalized_rows
from mlrec.models.recommenders.graph_recommender import pair_squares
from mlrec.models.recommenders.graph_recommender import pairwise_loss
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least


@models.register("grcn", kind=RECOMMENDER)
class Grcn(GraphRecommender):
  """GRCN of one modality (Wei et al., ACM MM 2020) in the form of MMRec (github.com/enoche/MMRec).

  v are items' vectors, E a table of users and items, P one of users, c a number for each user and item. With
  f = LeakyReLU(W v + b) and all rows of P, f and E divided by their norms:

  * Routing, several rounds: alpha is the softmax over a user's items of P_u · f_i, and
    P_u ← the sum P_u + sum_i alpha_ui f_i, divided by its norm.
  * Content: x = [P; f], alpha the softmax over a node's neighbours of x_i · x_j, and y_i = x_i + sum_j alpha_ij x_j.
  * Ids: the weight of an edge from j to i is w_ij = max(0, alpha_ij c_j); e⁰ = E, e¹_i = sum_j w_ij e⁰_j, e² likewise
    of e¹, and z = e⁰ + e¹ + e².

  [z; y] are scored by dot products. The loss is BPR's with λ times the mean of E_u² + E_i² over the batch's pairs, the
  mean of P² and the mean of P_u² over the batch's users.

  Without features it is GRCN on ids, as we define it (its source does not): items' vectors are one-hot, so W v is a
  learned row for each item, and b is left out.
  """

  def __init__(
    self,
    train: Rows,
    num_users: int,
    num_items: int,
    features: np.ndarray | None = None,
    dim: int = 64,
    latent: int = 64,
    routing: int = 3,
    reg: float = 1e-3,
    negatives: int = 1,
    with_features: bool = False,
    reference: bool = False,
    *,
    rngs: nnx.Rngs,
  ):
    """Weights and tables by Xavier's normal start, the bias as PyTorch's.

    Args:
      train: users' training rows, dense ids.
      num_users: rows of `train`.
      num_items: items that exist, padding not counted.
      features: `[num_items + 1, D]` items' vectors, which are not trained; None for ids alone.
      dim: width of E.
      latent: width of P and f.
      routing: rounds.
      reg: λ.
      negatives: items drawn for each interaction.
      with_features: refuses to do without them.
      reference: as MMRec's code is: the sums of the routing land on items and are dropped, so P is only normalised.
      rngs: random streams for the parameters.

    Raises:
      ValueError: an option out of range, features of another shape, not finite or missing, or rows that make no graph.
    """
    at_least(1, dim=dim, latent=latent, routing=routing, negatives=negatives)
    at_least(0, reg=reg)
    self.reg, self.negatives = reg, negatives
    self.routing = 0 if reference else routing
    self.graph = graph_of(train, num_users, num_items)
    self.user_ids, self.item_ids = node_rows(num_users, num_items, dim, rngs=rngs)
    self.preferences = rows_of_users(xavier_normal(rngs.params(), (num_users, latent)))
    self.user_confidence, self.item_confidence = node_rows(num_users, num_items, 1, rngs=rngs)
    required_by = "'grcn' with config.model.with_features = True" if with_features else ""
    self.content = ItemContent(features, num_items, latent, required_by=required_by, rngs=rngs)

  def propagated(self) -> tuple[Array, Array]:
    """The vectors of all users `[num_users, dim + latent]` and of all items `[num_items + 1, dim + latent]`."""
    graph = self.graph
    items = normalized_rows(nnx.leaky_relu(self.content()))
    users = normalized_rows(self.preferences[...])
    for _ in range(self.routing):
      attention = graph.softmax_by_user(graph.dots(users, items))
      users = normalized_rows(users + graph.to_users(items, attention))

    scores = graph.dots(users, items)
    to_users, to_items = graph.softmax_by_user(scores), graph.softmax_by_item(graph.by_item(scores))
    content = users + graph.to_users(items, to_users), items + graph.to_items(users, to_items)

    to_users = nnx.relu(to_users * graph.at_items(self.item_confidence[:, 0]))
    to_items = nnx.relu(to_items * graph.at_users(self.user_confidence[:, 0]))
    users, items = user_sum, item_sum = normalized_rows(self.user_ids[...]), normalized_rows(self.item_ids[...])
    for _ in range(2):
      users, items = graph.to_users(items, to_users), graph.to_items(users, to_items)
      user_sum, item_sum = user_sum + users, item_sum + items
    return jnp.concatenate([user_sum, content[0]], axis=-1), jnp.concatenate([item_sum, content[1]], axis=-1)

  def loss(self, batch: InteractionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The loss of a batch (scalar float32); nothing is dropped, so `rngs` do not matter."""
    preferences = self.preferences[...]
    squares = pair_squares(self.user_ids[...], self.item_ids[...], batch) + jnp.square(preferences).mean()
    squares += losses.weighted_mean(jnp.square(preferences[batch.users]).mean(-1), batch.weights)
    return pairwise_loss(*self.propagated(), batch) + self.reg * squares
