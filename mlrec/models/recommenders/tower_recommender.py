"""What recommenders over any item tower share: how the tower is made, and what it reads."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax import Array

from mlrec.content.base import Need
from mlrec.models.items.recipe import Recipe
from mlrec.models.items.tower import create_tower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.recommenders.recommender import Recommender
from mlrec.registry import options_of


class TowerRecommender(Recommender):
  """A recommender whose items are what a tower, `items`, makes of them."""

  def make_items(
    self,
    item: Mapping[str, Any],
    num_items: int,
    dim: int,
    *,
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ) -> None:
    """Sets `items`.

    Args:
      item: `name` of the tower and its options.
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      item_data: what towers may ask for by name, as `Recommender` says.
      rngs: random streams for the parameters.

    Raises:
      OptionError: the name is missing or unknown, or an option is wrong.
    """
    with options_of("item"):
      self.items = create_tower(item, num_items, dim, item_data, rngs=rngs)

  @property
  def reads(self) -> Mapping[str, Need]:
    """What the item tower reads of each item beside its id."""
    return self.items.reads

  @property
  def recipes(self) -> Mapping[str, Recipe]:
    """Of what `reads` names, the encoders that it is read for, or made by."""
    return self.items.recipes

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Item ids `[U]`, and what `reads` names of each item, to vectors `[U, D]`."""
    return self.items(items, content, context)
