"""LightGCN: vectors smoothed over the graph of training interactions, without weights of its own."""

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec import losses
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interactions import Rows
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.variables import rows_of_items
from mlrec.models.layers.variables import rows_of_users
from mlrec.models.recommenders.graph_recommender import graph_of
from mlrec.models.recommenders.graph_recommender import GraphRecommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least


@models.register("lightgcn", kind=RECOMMENDER)
class LightGcn(GraphRecommender):
  """LightGCN (He et al., SIGIR 2020, equations 7 and 8), trained as in MicroLens's released code.

  E⁰ are a vector for each user and item. Each layer is E^(l+1) = Â E^l, where Â has 1 / sqrt(deg(u) deg(i)) for each
  edge between user u and item i, in both directions, and degrees are numbers of edges (a node without any divides by
  1). The vectors scored are the mean of all layers, E⁰ included.

  The loss is the in-batch, popularity-debiased softmax over the batch's items (arXiv 2309.15379, released code; Yi et
  al., RecSys 2019): an interaction's item among those of all interactions of the batch, less the same item elsewhere
  in it. Other items of the user stay.
  """

  def __init__(self, train: Rows, num_users: int, num_items: int, dim: int = 512, layers: int = 1, *, rngs: nnx.Rngs):
    """Tables by Xavier's normal start.

    Args:
      train: users' training rows, dense ids.
      num_users: rows of `train`.
      num_items: items that exist, padding not counted.
      dim: width of the vectors.
      layers: products by Â.
      rngs: random streams for the parameters.

    Raises:
      ValueError: an option out of range, or rows that make no graph.
    """
    at_least(1, dim=dim, layers=layers)
    self.layers = layers
    self.graph = graph_of(train, num_users, num_items)
    self.users = rows_of_users(xavier_normal(rngs.params(), (num_users, dim)))
    self.items = rows_of_items(xavier_normal(rngs.params(), (num_items + 1, dim)))

  def propagated(self) -> tuple[Array, Array]:
    """The means over layers of all users `[num_users, D]` and of all items `[num_items + 1, D]`."""
    # Â as a product of diagonals and 0-1 edges: no weight an edge is kept.
    user_scale = 1 / jnp.sqrt(jnp.maximum(self.graph.user_degrees, 1.0))[:, None]
    item_scale = 1 / jnp.sqrt(jnp.maximum(self.graph.item_degrees, 1.0))[:, None]
    users, items = self.users[...], self.items[...]
    user_sum, item_sum = users, items
    for _ in range(self.layers):
      users, items = (
        user_scale * self.graph.to_users(item_scale * items),
        item_scale * self.graph.to_items(user_scale * users),
      )
      user_sum, item_sum = user_sum + users, item_sum + items
    return user_sum / (self.layers + 1), item_sum / (self.layers + 1)

  def loss(self, batch: InteractionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The loss of a batch (scalar float32); nothing is dropped, so `rngs` do not matter."""
    users, items = self.propagated()
    states, columns = users[batch.users], items[batch.items]
    total, weight = losses.scored_softmax_sums(
      states @ columns.T,
      jnp.sum(states * columns[batch.targets], axis=-1),
      targets=batch.targets,
      excluded=batch.targets[:, None] == jnp.arange(batch.items.shape[0]),
      counts=batch.counts,
      log_popularity=batch.log_popularity,
      weights=batch.weights,
    )
    return total / jnp.maximum(weight, 1.0)
