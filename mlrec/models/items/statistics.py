"""What training says of an item beside whose it was: how old it is, and how often it was watched."""

from collections.abc import Mapping

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.tower import ItemTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import MLP
from mlrec.models.layers.variables import DataArray
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import OptionError


@models.register("statistics", kind=ITEM_TOWER)
class StatisticsTower(ItemTower):
  """An MLP of an item's age and of its logarithmic training count.

  Micro-videos live for days: what a user watches next is about as old as what it watched last. A user encoder that
  reads ages can tell when it is, and its state can ask for items of that age, those that training hardly names
  included. Ages are those of `mlrec.data.item_ages`, made of the order in training rows alone. An age t goes in as t
  and as bumps exp(-(t - c)^2 / (2 w^2)) around evenly spaced centres c, w apart.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    hidden: int = 64,
    bumps: int = 12,
    counted: bool = True,
    train_counts: np.ndarray | None = None,
    item_ages: np.ndarray | None = None,
    rngs: nnx.Rngs,
  ):
    """Builds the tower.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      hidden: width of the hidden layer.
      bumps: how many centres there are, from -3 to 3 standard deviations.
      counted: whether counts are read.
      train_counts: `[num_items + 1]` int, how often training names each item.
      item_ages: `[num_items + 1]` float, of mean 0 and variance 1 over the interactions.
      rngs: the stream `params`.

    Raises:
      ValueError: ages or counts are not known, or a size is out of range.
    """
    if train_counts is None or item_ages is None:
      raise OptionError("name", "= 'statistics' needs the training rows, which this recommender does not hand on")
    for name, value, least in (("hidden", hidden, 1), ("bumps", bumps, 2)):
      if value < least:
        raise OptionError(name, f"= {value} must be at least {least}")
    if len(item_ages) != num_items + 1 or len(train_counts) != num_items + 1:
      raise ValueError(f"there are {len(item_ages)} ages and {len(train_counts)} counts of {num_items} items")
    self.ages = DataArray(jnp.asarray(item_ages, jnp.float32))
    self.counts = DataArray(jnp.asarray(train_counts, jnp.int32)) if counted else None
    self.centres = tuple(np.linspace(-3, 3, bumps).tolist())
    self.mlp = MLP(bumps + 1 + counted, hidden, dim, kernel_init=xavier_normal, rngs=rngs)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """`items` int `[U]` to vectors `[U, dim]`; `content` and `context` do not matter."""
    ages = jnp.take(self.ages[...], items, mode="clip")[:, None]
    width = self.centres[1] - self.centres[0]
    parts = [ages, jnp.exp(-jnp.square((ages - jnp.asarray(self.centres)) / width) / 2)]
    if self.counts is not None:
      parts.append(jnp.log1p(jnp.take(self.counts[...], items, mode="clip").astype(jnp.float32))[:, None])
    return self.mlp(jnp.concatenate(parts, axis=1))
