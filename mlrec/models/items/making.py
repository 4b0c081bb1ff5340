"""Making what a section of `config.model` names, and what item towers may ask to know of the data."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models


def make_tower(
  section: str, item: Mapping[str, Any], num_items: int, dim: int, item_facts: Mapping[str, Any], *, rngs: nnx.Rngs
) -> nnx.Module:
  """An item tower, with what it asks for.

  Args:
    section: of `config.model`, for messages.
    item: `name` of the tower and its options.
    num_items: items that exist, padding not counted.
    dim: width of item vectors.
    item_facts: by the names of constructors' arguments; one that no tower asks for is not looked up. A tower of towers
      asks for all, as `item_facts`.
    rngs: random streams for the parameters.

  Raises:
    ValueError: the name is missing or unknown, or an option is wrong.
  """
  options = named(section, item)
  name = options.pop("name")
  asked = models.options(name, kind=ITEM_TOWER)
  facts = {fact: item_facts[fact] for fact in item_facts if fact in asked}
  if "item_facts" in asked:
    facts["item_facts"] = item_facts
  return models.create(name, num_items, dim, kind=ITEM_TOWER, rngs=rngs, **facts, **options)


def named(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """A copy of a section of `config.model` that chooses something by its `name`.

  Raises:
    ValueError: it has no name.
  """
  if "name" not in options:
    raise ValueError(f"config.model.{section} must have a name, not only {sorted(options)}")
  return dict(options)
