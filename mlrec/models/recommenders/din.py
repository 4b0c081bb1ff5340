"""The Deep Interest Network: what of a history counts depends on the item that is shown."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dice import DiceLayers
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.recommenders.ranker import of_pairs
from mlrec.models.recommenders.ranker import Ranker
from mlrec.models.recommenders.ranker import Read
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least


@models.register("din", kind=RECOMMENDER)
class DIN(Ranker):
  """Deep Interest Network (Zhou et al., KDD 2018, arXiv 1706.06978, section 4.3), with Dice.

  The interest of a user in an item v is the sum of a(e_j, v) e_j over the items e_j of the history, whose weights a are
  not normalised (equation 3). The local activation unit a is a network of [e_j; v; e_j - v; e_j * v], as in the
  authors' code. The logit is a network of [interest; v]. Of users' and contexts' profiles there are none.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 64,
    item: Mapping[str, Any] = {"name": "id"},
    *,
    attention_hidden: Sequence[int] = (36,),
    hidden: Sequence[int] = (200, 80),
    dropout: float = 0.0,
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds the model.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      item: `name` of the item tower and its options.
      attention_hidden: widths of the activation unit's layers.
      hidden: widths of the layers above.
      dropout: of the input of each layer of `hidden`.
      item_data: what item towers may ask for, by name.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a name is unknown, or a value out of range.
    """
    at_least(1, dim=dim)
    self.make_items(item, num_items, dim, item_data=item_data, rngs=rngs)
    self.unit = DiceLayers(4 * dim, attention_hidden, option="attention_hidden", rngs=rngs)
    self.weight = nnx.Linear(self.unit.width, 1, kernel_init=xavier_normal, rngs=rngs)
    self.layers = DiceLayers(2 * dim, hidden, dropout=dropout, option="hidden", rngs=rngs)
    self.out = nnx.Linear(self.layers.width, 1, kernel_init=xavier_normal, rngs=rngs)

  def logits(self, history: Read, shown: Array, context: Context = EVALUATION) -> Array:
    """As of `Ranker`."""
    shape = (*shown.shape[:2], history.vectors.shape[1], shown.shape[-1])
    items, candidates = jnp.broadcast_to(history.vectors[:, None], shape), jnp.broadcast_to(shown[:, :, None], shape)
    there = jnp.broadcast_to(history.there[:, None], shape[:3])
    pairs = jnp.concatenate([items, candidates, items - candidates, items * candidates], axis=-1)
    hidden = self.unit(pairs.reshape(-1, pairs.shape[-1]), of_pairs(context, there))
    weights = jnp.where(there, self.weight(hidden).reshape(there.shape), 0)
    interest = jnp.einsum("bkl,bld->bkd", weights, history.vectors)
    x = jnp.concatenate([interest, shown], axis=-1)
    x = self.layers(x.reshape(-1, x.shape[-1]), of_pairs(context, jnp.ones(x.shape[:2], bool)))
    return self.out(x).reshape(shown.shape[:2])
