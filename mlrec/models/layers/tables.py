"""Learned tables with a row for each item or user; of an item table a training step reads the batch's items only."""

from collections.abc import Iterator
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.variables import hold_rows
from mlrec.models.layers.variables import ITEMS
from mlrec.models.layers.variables import read_in_batches
from mlrec.models.layers.variables import USERS


class ItemTable(nnx.Embed):
  """A row for each item: `[num_items + 1, dim]`.

  In a training step it is called with `batch.items` and nothing else. So the step may give it those rows in place of
  the table (`gathered`), and take a gradient the size of the batch, not of the catalogue.

  Attributes:
    gathered: whether the table has the batch's rows alone.
    parts: devices over which its rows are cut.
  """

  def __init__(self, num_embeddings: int, features: int, **options: Any):
    super().__init__(num_embeddings, features, **options)
    hold_rows(self.embedding, ITEMS)
    read_in_batches(self.embedding)
    self.gathered, self.parts = False, 1

  def __call__(self, items: Array) -> Array:  # type: ignore[override]
    """`items` int `[...]` to rows `[..., dim]`; an id beyond the table reads its last row."""
    table = self.embedding[...]
    if self.gathered:
      if items.shape != table.shape[:1]:
        raise ValueError(f"an item table reads the batch's {table.shape[0]} items in training, not ids {items.shape}")
      return table
    return jnp.take(table, items, axis=0, mode="clip")

  def whole(self) -> Array:
    """All rows, `[num_items + 1, dim]`, or more if they are cut; of a model that says its loss `scores_all_items`."""
    if self.gathered:
      raise ValueError("an item table has only the batch's rows in training: the model must say scores_all_items")
    return self.embedding[...]


class UserTable(nnx.Embed):
  """A row for each user: `[num_users, dim]`."""

  def __init__(self, num_embeddings: int, features: int, **options: Any):
    super().__init__(num_embeddings, features, **options)
    hold_rows(self.embedding, USERS)


def item_tables(model: nnx.Module) -> Iterator[tuple[str, ItemTable]]:
  """The item tables of a model, each with its parameter's path in the model's state, as `keystr` writes paths."""
  for path, module in nnx.iter_modules(model):
    if isinstance(module, ItemTable):
      yield ".".join(map(str, (*path, "embedding", "value"))), module
