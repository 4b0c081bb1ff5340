"""A tower over what is known of items by category: tags, levels of likes and of views."""

from collections.abc import Mapping

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.tower import ItemTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.variables import DataArray
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import at_least
from mlrec.registry import OptionError


@models.register("fields", kind=ITEM_TOWER)
class FieldTower(ItemTower):
  """A projection of an item's categories: of each field the mean of its values' embeddings, side by side.

  Which fields there are is for the data to say (`item_tags`, `likes_level` and `views_level` of the multimodal CTR
  challenge's files); a value of 0 is none, and an item without any has zeros.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    embedding: int = 16,
    item_fields: Mapping[str, np.ndarray] | None = None,
    rngs: nnx.Rngs,
  ):
    """Builds the tower.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      embedding: width of a value's embedding.
      item_fields: by name `[num_items + 1]` or `[num_items + 1, T]` int, at least 0.
      rngs: random streams for the parameters.

    Raises:
      OptionError: the data knows no fields of items, or a width is below 1.
    """
    at_least(1, embedding=embedding, dim=dim)
    if not item_fields:
      raise OptionError("name", "= 'fields' reads categories of items, and config.data.source has none")
    # By name: what order they come in depends on where they were kept.
    self.names = tuple(sorted(item_fields))
    values = {name: np.asarray(item_fields[name]).reshape(num_items + 1, -1) for name in self.names}
    self.values = nnx.Dict({name: DataArray(jnp.asarray(values[name], jnp.int32)) for name in self.names})
    self.tables = nnx.Dict({
      name: nnx.Embed(int(values[name].max()) + 1, embedding, embedding_init=xavier_normal, rngs=rngs)
      for name in self.names
    })  # fmt: skip
    self.projection = nnx.Linear(len(self.names) * embedding, dim, kernel_init=xavier_normal, rngs=rngs)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """`items` int `[U]` to vectors `[U, dim]`; `content` and `context` do not matter."""
    parts = []
    for name in self.names:
      values = jnp.take(self.values[name][...], items, axis=0, mode="clip")
      there = (values != 0)[..., None]
      total = jnp.where(there, self.tables[name](values), 0).sum(1)
      parts.append(total / jnp.maximum(there.sum(1), 1))
    return self.projection(jnp.concatenate(parts, axis=-1))
