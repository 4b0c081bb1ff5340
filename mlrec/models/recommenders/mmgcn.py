"""MMGCN: a graph convolution network over what items show, with an id vector added at each layer."""

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interactions import Rows
from mlrec.models.layers.graph import Graph
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.variables import freeze
from mlrec.models.layers.variables import rows_of_users
from mlrec.models.recommenders.graph_recommender import graph_of
from mlrec.models.recommenders.graph_recommender import GraphRecommender
from mlrec.models.recommenders.graph_recommender import ItemContent
from mlrec.models.recommenders.graph_recommender import linear
from mlrec.models.recommenders.graph_recommender import node_rows
from mlrec.models.recommenders.graph_recommender import normalized_rows
from mlrec.models.recommenders.graph_recommender import pair_squares
from mlrec.models.recommenders.graph_recommender import pairwise_loss
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least
from mlrec.registry import OptionError

_LAYERS = 3


@models.register("mmgcn", kind=RECOMMENDER)
class Mmgcn(GraphRecommender):
  """MMGCN of one modality (Wei et al., ACM MM 2019) in the form of MMRec (github.com/enoche/MMRec).

  v are items' vectors, E a table of users and items, P one of users. x⁰ are the rows of [P; W v + b], each divided by
  its norm. Layer l has

    h = LeakyReLU(mean over neighbours of x W_l),  x̂ = LeakyReLU(L_l x + c_l) + E,
    x ← LeakyReLU(G_l [h; x̂] + g_l),

  where the mean of a node without neighbours is 0. The last x are scored by dot products.

  The loss is BPR's with λ times the mean of E_u² + E_i² over the batch's pairs and the mean of P².

  Without features it is MMGCN on ids, as we define it (its source does not): items' vectors are one-hot, so W v is a
  learned row for each item, and b is left out.
  """

  def __init__(
    self,
    train: Rows,
    num_users: int,
    num_items: int,
    features: np.ndarray | None = None,
    dim: int = 64,
    latent: int = 256,
    layers: int = _LAYERS,
    reg: float = 1e-3,
    negatives: int = 1,
    with_features: bool = False,
    reference: bool = False,
    *,
    rngs: nnx.Rngs,
  ):
    """Weights and tables by Xavier's normal start, biases as PyTorch's.

    Args:
      train: users' training rows, dense ids.
      num_users: rows of `train`.
      num_items: items that exist, padding not counted.
      features: `[num_items + 1, D]` items' vectors, which are not trained; None for ids alone.
      dim: width of E and of the vectors scored.
      latent: width of P and W v.
      layers: of the graph.
      reg: λ.
      negatives: items drawn for each interaction.
      with_features: refuses to do without them.
      reference: as MMRec's code is: E and P stay as they start, and there are three layers whatever its option says.
      rngs: random streams for the parameters.

    Raises:
      ValueError: an option out of range, features of another shape, not finite or missing, or rows that make no graph.
    """
    at_least(1, dim=dim, latent=latent, layers=layers, negatives=negatives)
    at_least(0, reg=reg)
    if reference and layers != _LAYERS:
      raise OptionError("layers", f"= {layers} must be {_LAYERS} with reference = True")
    self.reg, self.negatives = reg, negatives
    self.graph = graph_of(train, num_users, num_items)
    self.user_ids, self.item_ids = node_rows(num_users, num_items, dim, rngs=rngs)
    self.preferences = rows_of_users(xavier_normal(rngs.params(), (num_users, latent)))
    if reference:
      freeze(self, [("user_ids",), ("item_ids",), ("preferences",)])
    required_by = "'mmgcn' with config.model.with_features = True" if with_features else ""
    self.content = ItemContent(features, num_items, latent, required_by=required_by, rngs=rngs)
    self.layers = nnx.List([Layer(latent if not n else dim, dim, rngs=rngs) for n in range(layers)])

  def propagated(self) -> tuple[Array, Array]:
    """The vectors of all users `[num_users, dim]` and of all items `[num_items + 1, dim]`."""
    ids = self.user_ids[...], self.item_ids[...]
    x = normalized_rows(self.preferences[...]), normalized_rows(self.content())
    for layer in self.layers:
      x = layer(self.graph, x, ids)
    return x

  def loss(self, batch: InteractionBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The loss of a batch (scalar float32); nothing is dropped, so `rngs` do not matter."""
    squares = pair_squares(self.user_ids[...], self.item_ids[...], batch)
    squares += jnp.square(self.preferences[...]).mean()
    return pairwise_loss(*self.propagated(), batch) + self.reg * squares


class Layer(nnx.Module):
  """One layer: `(graph, (users, items) of width width_in, (users, items) of E) → (users, items)` of width `width`."""

  def __init__(self, width_in: int, width: int, *, rngs: nnx.Rngs):
    self.neighbours = nnx.Param(xavier_normal(rngs.params(), (width_in, width_in)))
    self.own = linear(width_in, width, rngs=rngs)
    self.joined = linear(width_in + width, width, rngs=rngs)

  def __call__(self, graph: Graph, x: tuple[Array, Array], ids: tuple[Array, Array]) -> tuple[Array, Array]:
    users, items = (part @ self.neighbours[...] for part in x)
    sums = graph.to_users(items), graph.to_items(users)

    def one(total: Array, degrees: Array, x: Array, ids: Array) -> Array:
      h = nnx.leaky_relu(total / jnp.maximum(degrees, 1.0)[:, None])
      own = nnx.leaky_relu(self.own(x)) + ids
      return nnx.leaky_relu(self.joined(jnp.concatenate([h, own], axis=-1)))

    degrees = graph.user_degrees, graph.item_degrees
    users, items = (one(*parts) for parts in zip(sums, degrees, x, ids))
    return users, items
