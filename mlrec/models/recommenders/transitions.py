"""What followed the items of a history in training, as a part of a model's distribution over the next item.

A factorised model knows which items are alike; that one clip came after another three times it has to spread over
vectors of some hundred numbers. Counts keep it. So the model's softmax over all items is mixed with a Markov chain's.
"""

from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec import losses
from mlrec.data.interactions import Rows
from mlrec.models.layers.variables import DataArray
from mlrec.registry import at_least
from mlrec.registry import OptionError

# Far below the log of any probability, and finite.
_NOTHING = -1e9


class Mixed(NamedTuple):
  """Of users, what scoring reads beside the states of the model itself.

  Attributes:
    states: `[B, D]` float32.
    log_total: `[B]` float32, the log of the sum over all items of exp(score).
    followers: `[B, K]` int32, distinct items that followed those of the history, ascending; 0 is filler, and last.
    log_shares: `[B, K]` float32, log of the share of the chain's mass that each has.
  """

  states: Array
  log_total: Array
  followers: Array
  log_shares: Array


class Transitions(nnx.Module):
  """A Markov chain that has a part in the distribution over the next item.

      p(j | history) = (1 - share) softmax_j(s) + share Σ_i d^i M[h_i, j] / Σ_i Σ_k d^i M[h_i, k]

  Here h_i is the history's item i places before its newest one, and M[a, b] the sum of 1 / distance over the places of
  training rows where b follows a (`Markov`). Both parts are over all items, those that the user has seen included.
  """

  def __init__(
    self,
    num_items: int,
    train: Rows,
    *,
    share: float = 0.2,
    window: int = 5,
    decay: float = 0.9,
    followers: int = 64,
  ):
    """Counts.

    Args:
      num_items: items that exist, padding not counted.
      train: users' training rows, oldest first.
      share: of the chain, above 0 and below 1.
      window: the largest distance at which an item still follows.
      decay: d, from 0 (the newest item alone) to 1.
      followers: of each item, those of the most weight that are kept: 8 bytes each. To count takes some bytes for each
        pair of training items within the window.

    Raises:
      OptionError: a value is out of range.
    """
    at_least(1, window=window, followers=followers)
    if not 0 < share < 1:
      raise OptionError("share", f"= {share} must be above 0 and below 1")
    if not 0 <= decay <= 1:
      raise OptionError("decay", f"= {decay} must be between 0 and 1")
    self.share, self.decay = share, decay
    ids, weights = _most_followed(train, num_items, window, followers)
    self.ids, self.weights = DataArray(jnp.asarray(ids)), DataArray(jnp.asarray(weights))

  def mixed(self, states: Array, vectors: Array, histories: Array) -> Mixed:
    """What scoring reads of users.

    Args:
      states: `[B, D]`.
      vectors: `[R, D]` of all items, the padding item first; rows that are nobody's may follow.
      histories: `[B, L]` int, dense ids of users' newest items, the newest last; 0 is filler.
    """
    length = histories.shape[1]
    ages = jnp.arange(length)[::-1]
    decays = jnp.where(histories != 0, jnp.float32(self.decay) ** ages, 0)
    ids = self.ids[...][histories].reshape(len(histories), -1)
    weights = (self.weights[...][histories] * decays[..., None]).reshape(ids.shape)
    ids, weights = _summed(ids, weights)
    total = weights.sum(1, keepdims=True)
    shares = jnp.where(ids != 0, weights / jnp.where(total > 0, total, 1), 0)
    log_shares = jnp.where(shares > 0, jnp.log(jnp.where(shares > 0, shares, 1)), _NOTHING)
    log_total = losses.log_partition(states, vectors, num_items=len(self.ids) - 1)
    return Mixed(states.astype(jnp.float32), log_total, ids, log_shares)

  def score(self, users: Mixed, vectors: Array, items: Array) -> Array:
    """Log probabilities `[T, B]` float32 of items `[T]`, 0 for nobody's, by their `vectors [T, D]`.

    A user whose history nothing followed has the model's own alone, less the log of its share.
    """
    own = vectors.astype(jnp.float32) @ users.states.T - users.log_total + jnp.log1p(-self.share)
    followed = self._log_shares(users, items) + jnp.log(self.share)
    return jnp.where(followed > _NOTHING / 2, jnp.logaddexp(own, followed), own)

  def _log_shares(self, users: Mixed, items: Array) -> Array:
    """`[T, B]`: the chain's, `_NOTHING` where it has none."""
    size, (number, _) = len(items), users.followers.shape
    columns = jnp.arange(number)

    def of_neighbours() -> Array:
      """Where items are T ids in a row, but for nobody's: what each user has among them is put in its place."""
      places = users.followers - items[0]
      places = jnp.where((users.followers != 0) & (places >= 0) & (places < size), places, size)
      out = jnp.full((size, number), _NOTHING, jnp.float32)
      return out.at[places.T, columns].set(users.log_shares.T, mode="drop")

    def of_any() -> Array:
      """Each item is sought in each user's ascending list."""
      ascending = jnp.where(users.followers == 0, jnp.iinfo(jnp.int32).max, users.followers)
      places = jax.vmap(lambda row: jnp.searchsorted(row, items))(ascending).T
      places = jnp.minimum(places, ascending.shape[1] - 1)
      found = ascending[columns, places] == items[:, None]
      return jnp.where(found, users.log_shares[columns, places], _NOTHING)

    in_a_row = jnp.all((items == items[0] + jnp.arange(size)) | (items == 0)) & (items[-1] != 0)
    return jax.lax.cond(in_a_row, of_neighbours, of_any)


def _most_followed(train: Rows, num_items: int, window: int, number: int) -> tuple[np.ndarray, np.ndarray]:
  """Ids int32 and weights float32 `[num_items + 1, number]` of what followed each item most; 0 is filler."""
  # SciPy is not for those that count nothing.
  from mlrec.models.recommenders.markov import Markov

  counts = Markov(num_items, window=window).weights(train).tocsr()
  rows = np.repeat(np.arange(num_items + 1), np.diff(counts.indptr))
  # Of equal weights the lowest id's comes first.
  order = np.lexsort((counts.indices, -counts.data, rows))
  places = np.arange(len(rows)) - counts.indptr[rows]
  kept = places < number
  ids, weights = np.zeros((num_items + 1, number), np.int32), np.zeros((num_items + 1, number), np.float32)
  ids[rows[kept], places[kept]] = counts.indices[order][kept]
  weights[rows[kept], places[kept]] = counts.data[order][kept]
  return ids, weights


def _summed(ids: Array, weights: Array) -> tuple[Array, Array]:
  """`ids [B, K]` ascending, each once and 0 in place of the others, which come last; and the sums of its weights."""
  order = jnp.argsort(ids, axis=1, stable=True)
  ids, weights = jnp.take_along_axis(ids, order, axis=1), jnp.take_along_axis(weights, order, axis=1)

  def joined(before: tuple[Array, Array], after: tuple[Array, Array]) -> tuple[Array, Array]:
    # Sums begin anew where an id begins.
    return before[0] | after[0], jnp.where(after[0], after[1], before[1] + after[1])

  begins = jnp.concatenate([jnp.ones_like(ids[:, :1], bool), ids[:, 1:] != ids[:, :-1]], axis=1)
  ends = jnp.concatenate([ids[:, 1:] != ids[:, :-1], jnp.ones_like(ids[:, :1], bool)], axis=1)
  _, sums = jax.lax.associative_scan(joined, (begins, weights), axis=1)
  counts = ends & (ids != 0)
  order = jnp.argsort(jnp.where(counts, ids, jnp.iinfo(jnp.int32).max), axis=1, stable=True)
  return (
    jnp.take_along_axis(jnp.where(counts, ids, 0), order, axis=1),
    jnp.take_along_axis(jnp.where(counts, sums, 0), order, axis=1),
  )
