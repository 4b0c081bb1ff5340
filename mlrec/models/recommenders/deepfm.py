"""DeepFM (Guo et al., IJCAI 2017) over a user's items and a candidate, as MicroLens has it."""

from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.recommenders.row_model import Candidates
from mlrec.models.recommenders.row_model import RowModel
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import OptionError

# Channels whose pairs are summed in one pass.
_AT_ONCE = 16


class User(NamedTuple):
  """What is computed once for a user.

  Attributes:
    hidden: `[B, hidden]`, what the history gives to the hidden layer.
    total: `[B, D]`, the sum of the history's embeddings.
    products: `[B]`, the products within the history.
  """

  hidden: Array
  total: Array
  products: Array


@models.register("deepfm", kind=RECOMMENDER)
class DeepFM(RowModel):
  """A factorisation machine's products and a network over the same embeddings, added.

  y = sum over channels of b + w2 ReLU(W1 flat(e)) + b2, with b = ((sum of e)^2 - sum of e^2) / 2 over history and
  candidate (equations 2 and 4), and flat(e) the embeddings side by side, those of the history by their place in the
  left-padded row. There is no linear term, and W1 has no bias. Both parts fall into one of the user and one of the
  candidate, so that a pair costs a product of two vectors and the hidden layer's sum.

  A training step holds the hidden layer of all pairs, `[U, B, hidden]`: at MicroLens's size, 64 examples of at most 704
  distinct items and a width of 1024, 185 MB in float32.
  """

  def __init__(
    self,
    num_items: int,
    max_length: int = 10,
    dim: int = 1024,
    *,
    hidden: int = 0,
    dropout: float = 0.0,
    reference: bool = False,
    rngs: nnx.Rngs,
  ):
    """Builds the model.

    Args:
      num_items: items that exist, padding not counted.
      max_length: items of an input.
      dim: width of the embeddings.
      hidden: width of the hidden layer; 0 for `dim`.
      dropout: of the history's embeddings.
      reference: at evaluation the candidate's embedding in the factorisation machine's products is replaced by what
        it gives to the hidden layer, as in MicroLens's code; needs `hidden` to be `dim`.
      rngs: the stream `params`.

    Raises:
      ValueError: a size or the dropout is out of range.
    """
    super().__init__(num_items, max_length, dim, rngs=rngs)
    hidden = hidden or dim
    if hidden < 0:
      raise OptionError("hidden", f"= {hidden} must be at least 1, or 0 for dim")
    if reference and hidden != dim:
      raise OptionError("hidden", f"= {hidden} must be dim = {dim} with reference = True")
    self.dropout = Dropout(dropout)
    # One matrix W1, the history's slots first: its start has the variance of the whole.
    self.hidden = nnx.Linear((max_length + 1) * dim, hidden, use_bias=False, kernel_init=xavier_normal, rngs=rngs)
    self.out = nnx.Linear(hidden, 1, kernel_init=xavier_normal, rngs=rngs)
    self.reference = reference

  def features(self, vectors: Array) -> tuple[Array, Array]:
    """Embeddings `[U, D]`, and what an item as a candidate gives to the hidden layer, `[U, hidden]`."""
    return vectors, vectors @ self.hidden.kernel[...][-vectors.shape[1] :]

  def read(self, history: Array, *, among: Candidates | None = None, rngs: nnx.Rngs | None = None) -> User:
    """What is computed once for a user; `among` does not matter."""
    history = self.dropout(history, rngs)
    total = history.sum(1)
    products = (jnp.square(total).sum(1) - jnp.square(history).sum((1, 2))) / 2
    hidden = history.reshape(len(history), -1) @ self.hidden.kernel[...][: -history.shape[2]]
    return User(hidden, total, products)

  def pairs(self, states: User, items: tuple[Array, ...]) -> Array:
    """Scores `[T, B]` of T items for B users."""
    vectors, hidden = items
    # A product with w2, not a fused sum, which would be computed again for each of its uses.
    return self._added(states, vectors, self.out(nnx.relu(states.hidden + hidden[:, None]))[..., 0])

  def score(self, states: User, items: tuple[Array, ...]) -> Array:
    """Scores `[T, B]` at evaluation."""
    vectors, hidden = items
    deep = weighted_relus(states.hidden, hidden, self.out.kernel[...][:, 0]) + self.out.bias[...]  # type: ignore[index]
    return self._added(states, hidden if self.reference else vectors, deep)

  def _added(self, states: User, factors: Array, deep: Array) -> Array:
    return factors @ states.total.T + states.products + deep


def weighted_relus(users: Array, items: Array, weights: Array) -> Array:
  """The sums over channels of weights * ReLU(users + items), `[T, B]`.

  `users` are `[B, H]`, `items [T, H]`, `weights [H]`.

  Sixteen channels at a time, so that no array of all pairs and channels goes through memory: an evaluation on two CPU
  cores takes a third of the time of a product with the weights.
  """
  filler = -len(weights) % _AT_ONCE
  users, items, weights = (jnp.pad(x.T, [(0, filler)] + [(0, 0)] * (x.ndim - 1)) for x in (users, items, weights))

  def add(n: Array, total: Array) -> Array:
    part = [jax.lax.dynamic_slice_in_dim(x, n * _AT_ONCE, _AT_ONCE) for x in (users, items, weights)]
    for user, item, weight in zip(*part, strict=True):
      total += weight * nnx.relu(user + item[:, None])
    return total

  start = jnp.zeros((items.shape[1], users.shape[1]), jnp.result_type(users, items))
  return jax.lax.fori_loop(0, len(weights) // _AT_ONCE, add, start)
