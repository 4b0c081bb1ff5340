"""What recommenders over any item tower share: the tower's making, and what it reads."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jax import Array
import numpy as np

from mlrec.data.content import Need
from mlrec.models.items.encoded import Recipe
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models


class OverItems(Recommender):
  """A recommender whose items are what a tower, `items`, makes of them."""

  def make_items(
    self,
    item: Mapping[str, Any],
    num_items: int,
    dim: int,
    *,
    feature_dim: int = 0,
    train_counts: np.ndarray | None = None,
    rngs: nnx.Rngs,
  ) -> None:
    """Sets `items`.

    Args:
      item: `name` of the tower and its options.
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      feature_dim: width of the vectors that `config.data.features` names, for towers that read them.
      train_counts: `[num_items + 1]` int, how often training names each item, for towers that ask; None for unknown.
      rngs: random streams for the parameters.

    Raises:
      ValueError: the name is missing or unknown, or an option is wrong.
    """
    options = named("item", item)
    name = options.pop("name")
    known = {"feature_dim": feature_dim, "train_counts": train_counts}
    asked = models.options(name, kind=ITEM_TOWER)
    options |= {fact: value for fact, value in known.items() if fact in asked}
    self.items = models.create(name, num_items, dim, kind=ITEM_TOWER, rngs=rngs, **options)

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


def named(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """A copy of a section of `config.model` that chooses something by its `name`.

  Raises:
    ValueError: it has no name.
  """
  if "name" not in options:
    raise ValueError(f"config.model.{section} must have a name, not only {sorted(options)}")
  return dict(options)
