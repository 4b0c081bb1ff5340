"""Small recommenders of the sorts that a run tells apart, registered while tests need them."""

from collections.abc import Iterator
import contextlib
import inspect

import jax.numpy as jnp
import numpy as np

from mlrec import losses
from mlrec.content.base import Need
from mlrec.data.interaction_batches import INTERACTIONS
from mlrec.models.layers.tables import ItemTable
from mlrec.models.layers.tables import UserTable
from mlrec.models.layers.variables import DataArray
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER


@contextlib.contextmanager
def registered(**entries: type) -> Iterator[None]:
  """Registers recommenders by name, and forgets them again."""
  models.names()
  for name, entry in entries.items():
    models.register(name, kind=RECOMMENDER)(entry)
  try:
    yield
  finally:
    for name in entries:
      models.unregister(name)


class Factors(Recommender):
  """A vector for each user and item, and what the user's other items add, under BPR."""

  batches_of = INTERACTIONS
  reads_inputs = True

  def __init__(self, num_items: int, num_users: int, max_length: int, dim: int = 8, negatives: int = 3, *, rngs):
    self.negatives, self.length = negatives, max_length
    self.items = ItemTable(num_items + 1, dim, rngs=rngs)
    self.users = UserTable(num_users, dim, rngs=rngs)

  def item_vectors(self, items, content=None, context=None):
    return self.items(items)

  def states(self, table, users, batch):
    tokens, segments = batch.history.tokens.ravel(), batch.history.segments.ravel()
    place = batch.last[:, None] - jnp.arange(self.length)
    mine = (place >= 0) & (segments[place] == segments[batch.last][:, None])
    return self._state(batch.users, table[jnp.where(mine, tokens[place], 0)], mine)

  def loss(self, batch, *, rngs=None):
    vectors = self.item_vectors(batch.items)
    assert batch.inputs.shape[1] == self.length
    states = self._state(batch.users, vectors[batch.inputs], batch.inputs != 0)
    positive = jnp.sum(states * vectors[batch.targets], axis=-1)
    negative = jnp.einsum("bd,bkd->bk", states, vectors[batch.negatives])
    return losses.bpr(positive, negative, batch.weights)

  def _state(self, users, others, there):
    mean = (others * there[..., None]).sum(1) / jnp.maximum(there.sum(1), 1)[:, None]
    return self.users(users) + mean


class Straight(Factors):
  """A vector for each item, near to those of the user's other items: no dot products."""

  scores_by_dot = False

  def item_vectors(self, items, content=None, context=None):
    table = self.items(items)
    return {"place": table[:, 1:], "bias": table[:, 0]}

  def states(self, table, users, batch):
    return table["place"][batch.history.tokens.ravel()[batch.last]]

  def score(self, states, items):
    return items["bias"][:, None] - jnp.sum((items["place"][:, None] - states) ** 2, axis=-1)

  def loss(self, batch, *, rngs=None):
    vectors = self.item_vectors(batch.items)
    there = (batch.inputs != 0)[..., None]
    states = (vectors["place"][batch.inputs] * there).sum(1) / jnp.maximum(there.sum(1), 1)

    def scores(items):
      return vectors["bias"][items] - jnp.sum((vectors["place"][items] - states[:, None]) ** 2, axis=-1)

    return losses.bpr(scores(batch.targets[:, None])[:, 0], scores(batch.negatives), batch.weights)


class FromFeatures(Recommender):
  """Reads the vectors that `config.data.features` names, given to its constructor."""

  batches_of = INTERACTIONS
  negatives = 2

  def __init__(self, features: np.ndarray, num_users: int, *, rngs):
    self.features = DataArray(jnp.asarray(features))
    self.users = UserTable(num_users, features.shape[1], rngs=rngs)

  def item_vectors(self, items, content=None, context=None):
    return self.features[...][items]

  def states(self, table, users, batch):
    return self.users(batch.users)

  def loss(self, batch, *, rngs=None):
    vectors = self.item_vectors(batch.items)
    states = self.users(batch.users)
    positive = jnp.sum(states * vectors[batch.targets], axis=-1)
    return losses.bpr(positive, jnp.einsum("bd,bkd->bk", states, vectors[batch.negatives]), batch.weights)


class FromContent(FromFeatures):
  """Reads the same vectors of a batch's items, as content."""

  def __init__(self, feature_dim: int, num_users: int, *, rngs):
    self.width = feature_dim
    self.users = UserTable(num_users, feature_dim, rngs=rngs)

  @property
  def reads(self):
    return {"features": Need((self.width,), "float32")}

  def item_vectors(self, items, content=None, context=None):
    return content["features"]

  def loss(self, batch, *, rngs=None):
    vectors = self.item_vectors(batch.items, batch.content)
    states = self.users(batch.users)
    positive = jnp.sum(states * vectors[batch.targets], axis=-1)
    return losses.bpr(positive, jnp.einsum("bd,bkd->bk", states, vectors[batch.negatives]), batch.weights)


class LastAgain(FittedRecommender):
  """An item is scored by how near its id is to that of the newest; `shift` moves where, `scale` multiplies."""

  def __init__(self, num_items: int, shift: float = 1.0, scale: float = 1.0):
    self._num_items, self._shift, self._scale = num_items, shift, np.float32(scale)

  def fit(self, train):
    self._ids = np.arange(self._num_items + 1, dtype=np.float32)

  def scores(self, histories, users):
    newest = histories.values[histories.offsets[1:] - 1]
    with np.errstate(over="ignore"):
      return -self._scale * np.abs(self._ids - newest[:, None] - self._shift).astype(np.float32)


def noting(**defaults) -> tuple[type, list[dict]]:
  """A fitted recommender whose constructor takes these arguments, and the list of what it was given.

  An argument whose default is `inspect.Parameter.empty` has none.
  """
  seen: list[dict] = []
  named = inspect.Parameter.POSITIONAL_OR_KEYWORD
  arguments = [inspect.Parameter(name, named, default=default) for name, default in defaults.items()]
  signature = inspect.Signature([inspect.Parameter("self", named), *arguments])

  def init(self, *positional, **given):
    bound = signature.bind(self, *positional, **given)
    bound.apply_defaults()
    seen.append({name: value for name, value in bound.arguments.items() if name != "self"})

  init.__signature__ = signature
  return type("Noting", (FittedRecommender,), {"__init__": init}), seen
