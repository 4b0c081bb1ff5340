"""The ID tower: each item is a row of a learned table."""

from collections.abc import Mapping

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.tower import ItemTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.tables import ItemTable
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models


@models.register("id", kind=ITEM_TOWER)
class IdTower(ItemTower):
  """A table `[num_items + 1, dim]` with Glorot's normal start.

  Row 0, the padding item, is a fixed random vector: it takes no gradient (only weight decay moves it), and user
  encoders that read the padding read it (arXiv 2309.15379, released code).
  """

  by_id = True
  torch_names = ((r"^table\.", "id_encoder."),)

  def __init__(self, num_items: int, dim: int = 512, *, rngs: nnx.Rngs):
    """Builds the table.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      rngs: the stream `params`.
    """
    self.table = ItemTable(num_items + 1, dim, embedding_init=xavier_normal, rngs=rngs)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """`items` int `[...]` to vectors `[..., dim]`; `content` and `context` do not matter."""
    vectors = self.table(items)
    return jnp.where(items[..., None] == 0, jax.lax.stop_gradient(vectors), vectors)

  def all_vectors(self, num_items: int, context: Context = EVALUATION) -> Array:
    """The table itself, not a copy; row 0 is the padding's."""
    return self.table.whole()
