"""What item towers may ask to know of the data, by the names of their constructors' arguments."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models


def make_tower(
  name: str, num_items: int, dim: int, item_facts: Mapping[str, Any], options: Mapping[str, Any], *, rngs: nnx.Rngs
) -> nnx.Module:
  """An item tower, with what it asks for.

  Args:
    name: of the tower.
    num_items: items that exist, padding not counted.
    dim: width of item vectors.
    item_facts: by name; one that no tower asks for is not looked up. A tower of towers asks for all, as `item_facts`.
    options: of the tower.
    rngs: random streams for the parameters.

  Raises:
    ValueError: the name is unknown, or an option is wrong.
  """
  asked = models.options(name, kind=ITEM_TOWER)
  facts = {fact: item_facts[fact] for fact in item_facts if fact in asked}
  if "item_facts" in asked:
    facts["item_facts"] = item_facts
  return models.create(name, num_items, dim, kind=ITEM_TOWER, rngs=rngs, **facts, **options)
