"""Item towers: what turns items into vectors, by their ids, their content or both."""

from collections.abc import Mapping
from typing import Any
from typing import ClassVar

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.models.items.recipe import Recipe
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.registry import choose
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models

# The argument under which a tower of towers is handed all that towers may ask to know of the data.
ITEM_DATA = "item_data"


class ItemTower(nnx.Module):
  """The vectors of items; a tower is built as `(num_items, dim, *, rngs, …options)`.

  Attributes:
    by_id: whether an item that training never names is unknown to it: its row would be its random start.
  """

  by_id: ClassVar[bool] = False

  @property
  def reads(self) -> Mapping[str, Need]:
    """What is read of each item beside its id, by name."""
    return {}

  @property
  def recipes(self) -> Mapping[str, Recipe]:
    """Of what `reads` names, the encoders that it is read for, or made by."""
    return {}

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Vectors of items.

    Args:
      items: `[U]` int, dense ids.
      content: what `reads` names, `[U, ...]` each.
      context: for evaluation or training.

    Returns:
      `[U, dim]` float32.
    """
    raise NotImplementedError

  def all_vectors(self, num_items: int, context: Context = EVALUATION) -> Array:
    """Vectors `[num_items + 1, dim]` of all items, the padding first, of a tower that `reads` nothing of them.

    Rows beyond may follow, which are nobody's.
    """
    return self(jnp.arange(num_items + 1), {}, context)


def create_tower(
  item: Mapping[str, Any], num_items: int, dim: int, item_data: Mapping[str, Any], *, rngs: nnx.Rngs
) -> ItemTower:
  """An item tower, with what it asks to know of the data.

  Args:
    item: `name` of the tower and its options.
    num_items: items that exist, padding not counted.
    dim: width of item vectors.
    item_data: by the names of constructors' arguments; one that no tower asks for is not looked up. A tower of towers
      asks for all, as `item_data`.
    rngs: random streams for the parameters.

  Raises:
    OptionError: the name is missing or unknown, or an option is wrong.
  """
  name, options = choose(item, ITEM_TOWER)
  asked = models.options(name, kind=ITEM_TOWER)
  known = {data: item_data[data] for data in item_data if data in asked}
  if ITEM_DATA in asked:
    known[ITEM_DATA] = item_data
  return models.create(name, num_items, dim, kind=ITEM_TOWER, section=options, rngs=rngs, **known)
