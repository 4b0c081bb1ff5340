"""What recommenders over the graph of training interactions share: one pass gives all users' and items' vectors."""

from collections.abc import Mapping

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec import losses
from mlrec.data.batches import EvalBatch
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interaction_batches import INTERACTIONS
from mlrec.data.interactions import Rows
from mlrec.models.items.features import require_vectors
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.graph import Graph
from mlrec.models.layers.initializers import uniform
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.variables import DataArray
from mlrec.models.layers.variables import rows_of_items
from mlrec.models.layers.variables import rows_of_users
from mlrec.models.recommenders.recommender import Recommender

# The least norm that a row is divided by.
_EPS = 1e-12


class GraphRecommender(Recommender):
  """Users and items scored by dot products of vectors that all come from one pass over the graph."""

  batches_of = INTERACTIONS
  by_user = True
  reads_lines = True

  def propagated(self) -> tuple[Array, Array]:
    """The vectors of all users `[num_users, D]` and of all items `[num_items + 1, D]`, the padding item first."""
    raise NotImplementedError

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Item ids `[U]` to vectors `[U, D]`, after a whole pass over the graph: ask for all at once."""
    return self.propagated()[1][items]

  def user_table(self) -> Array:
    """The vectors `[num_users, D]` of all users."""
    return self.propagated()[0]

  def states(self, table: Array, users: Array, batch: EvalBatch) -> Array:
    """The rows `[B, D]` of `user_table` of a batch's users; their histories are in the graph."""
    return users[batch.users]


def graph_of(train: Rows, num_users: int, num_items: int) -> Graph:
  """The graph of training rows.

  Raises:
    ValueError: the rows are not those of so many users and items, or hold nothing.
  """
  if len(train) != num_users:
    raise ValueError(f"a graph of {num_users} users needs as many training rows, not {len(train)}")
  return Graph(train.lengths, train.values, num_items)


def pairwise_loss(users: Array, items: Array, batch: InteractionBatch) -> Array:
  """BPR's loss of a batch (`losses.bpr`) by dot products of `users [num_users, D]` and `items [num_items + 1, D]`."""
  columns = items[batch.items]
  whom = users[batch.users]
  positive = jnp.sum(whom * columns[batch.targets], axis=-1)
  negative = jnp.einsum("bd,bkd->bk", whom, columns[batch.negatives])
  return losses.bpr(positive, negative, batch.weights)


def pair_squares(users: Array, items: Array, batch: InteractionBatch) -> Array:
  """The mean of E_u² + E_i² over the pairs of a batch, each interaction and each drawn one, and over D (scalar).

  Args:
    users: `[num_users, D]`, the vectors themselves, not propagated.
    items: `[num_items + 1, D]`, alike.
    batch: the pairs; filler does not count.
  """
  columns = jnp.square(items[batch.items]).mean(-1)
  pairs = jnp.concatenate([columns[batch.targets][:, None], columns[batch.negatives]], axis=1)
  return losses.weighted_mean(jnp.square(users[batch.users]).mean(-1) + pairs.mean(-1), batch.weights)


def normalized_rows(x: Array) -> Array:
  """Rows `[..., D]` divided by their L2 norm; a row of zeros stays so."""
  return x / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), _EPS**2))


class ItemContent(nnx.Module):
  """What items show, at the width of a model: W v + b of their vectors v, which are not trained.

  Without vectors each item has a learned row, as if v were one-hot, and no b.
  """

  def __init__(self, features: np.ndarray | None, num_items: int, width: int, *, required_by: str = "", rngs: nnx.Rngs):
    """W by Xavier's normal start, b as PyTorch's.

    Args:
      features: v, `[num_items + 1, D]`, the padding item first; or None.
      num_items: items that exist, padding not counted.
      width: of the result.
      required_by: the model that cannot do without vectors, for the message; empty where they may be missing.
      rngs: random streams for the parameters.

    Raises:
      ValueError: `features` is missing where it is required, has another shape, or a row is not finite (its dense id
        is named).
    """
    if features is None:
      if required_by:
        require_vectors(0, required_by)
      self.rows = rows_of_items(xavier_normal(rngs.params(), (num_items + 1, width)))
      return
    if features.ndim != 2 or features.shape[0] != num_items + 1:
      raise ValueError(
        f"features must be [{num_items + 1}, D], a row an item and one for padding, not {features.shape}"
      )
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
      raise ValueError(f"the features of item {int(np.argmin(finite))} (dense id) hold NaN or infinity")
    self.features = DataArray(jnp.asarray(features, jnp.float32))
    self.linear = linear(features.shape[1], width, rngs=rngs)

  def __call__(self) -> Array:
    """`[num_items + 1, width]` float32."""
    return self.linear(self.features[...]) if hasattr(self, "features") else self.rows[...]


def linear(width_in: int, width: int, *, rngs: nnx.Rngs) -> nnx.Linear:
  """A linear layer whose weights have Xavier's normal start, and its biases PyTorch's."""
  return nnx.Linear(width_in, width, kernel_init=xavier_normal, bias_init=uniform(width_in**-0.5), rngs=rngs)


def node_rows(num_users: int, num_items: int, width: int, *, rngs: nnx.Rngs) -> tuple[nnx.Param, nnx.Param]:
  """Rows `[num_users, width]` and `[num_items + 1, width]` of the nodes, by Xavier's start of both as one table."""
  users, items = jnp.split(xavier_normal(rngs.params(), (num_users + num_items + 1, width)), [num_users])
  return rows_of_users(users), rows_of_items(items)
