"""What recommenders over any item tower share: the tower's making, and what it reads."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax import Array

from mlrec.data.content import Need
from mlrec.models.items.encoded import Recipe
from mlrec.models.items.making import make_tower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.recommenders.recommender import Recommender


class OverItems(Recommender):
  """A recommender whose items are what a tower, `items`, makes of them."""

  def make_items(
    self,
    item: Mapping[str, Any],
    num_items: int,
    dim: int,
    *,
    item_facts: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ) -> None:
    """Sets `items`.

    Args:
      item: `name` of the tower and its options.
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      item_facts: what towers may ask for by name, as `Recommender` says.
      rngs: random streams for the parameters.

    Raises:
      ValueError: the name is missing or unknown, or an option is wrong.
    """
    self.items = make_tower("item", item, num_items, dim, item_facts, rngs=rngs)

  @property
  def reads(self) -> Mapping[str, Need]:
    """What the item tower reads of each item beside its id."""
    return getattr(self.items, "reads", {})

  @property
  def recipes(self) -> Mapping[str, Recipe]:
    """Of what `reads` names, the encoders that it is for, or is made by."""
    return getattr(self.items, "recipes", {})

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Item ids `[U]`, and what `reads` names of each item, to vectors `[U, D]`."""
    return self.items(items, content, context)
