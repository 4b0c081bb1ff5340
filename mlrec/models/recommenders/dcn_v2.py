"""DCN-V2: explicit crosses of features beside, or below, a network."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.perceptron import Perceptron
from mlrec.models.recommenders.ranker import of_pairs
from mlrec.models.recommenders.ranker import Ranker
from mlrec.models.recommenders.ranker import Read
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import at_least
from mlrec.registry import closest
from mlrec.registry import OptionError

PARALLEL, STACKED = "parallel", "stacked"
STRUCTURES = (PARALLEL, STACKED)


class Cross(nnx.Module):
  """x' = x_0 * (W x + b) + x (arXiv 2008.13535, equation 1), or of low rank x_0 * (U V x + b) + x."""

  def __init__(self, width: int, rank: int, *, rngs: nnx.Rngs):
    self.down = nnx.Linear(width, rank, use_bias=False, kernel_init=xavier_normal, rngs=rngs) if rank else None
    self.up = nnx.Linear(rank or width, width, kernel_init=xavier_normal, rngs=rngs)

  def __call__(self, first: Array, x: Array) -> Array:
    """`first [N, F]`, the input of the first layer, and `x [N, F]` to `[N, F]`."""
    return first * self.up(x if self.down is None else self.down(x)) + x


@models.register("dcn_v2", kind=RECOMMENDER)
class DCNv2(Ranker):
  """DCN-V2 (Wang et al., WWW 2021, arXiv 2008.13535) over the item shown and the mean of the history.

  Cross layers raise the degree of the features' products by one each, and ReLU layers are beside them (`parallel`) or
  above them (`stacked`; section 3 of the paper). The mixture of low-rank experts is not there.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 64,
    item: Mapping[str, Any] = {"name": "id"},
    *,
    cross_layers: int = 3,
    rank: int = 0,
    hidden: Sequence[int] = (256, 128),
    structure: str = PARALLEL,
    dropout: float = 0.0,
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds the model.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      item: `name` of the item tower and its options.
      cross_layers: how many there are.
      rank: of their matrices; 0 for full ones.
      hidden: widths of the ReLU layers.
      structure: one of `STRUCTURES`.
      dropout: of the input of each layer of `hidden`.
      item_data: what item towers may ask for, by name.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a name is unknown, or a value out of range.
    """
    at_least(1, dim=dim, cross_layers=cross_layers)
    at_least(0, rank=rank)
    if structure not in STRUCTURES:
      raise OptionError("structure", f"= {structure!r}: {closest(structure, STRUCTURES)}")
    self.make_items(item, num_items, dim, item_data=item_data, rngs=rngs)
    self.parallel = structure == PARALLEL
    self.crosses = nnx.List([Cross(2 * dim, rank, rngs=rngs) for _ in range(cross_layers)])
    self.layers = Perceptron(2 * dim, hidden, activation=jax.nn.relu, batch_norm=False, dropout=dropout, rngs=rngs)
    width = self.layers.width + (2 * dim if self.parallel else 0)
    self.out = nnx.Linear(width, 1, kernel_init=xavier_normal, rngs=rngs)

  def logits(self, history: Read, shown: Array, context: Context = EVALUATION) -> Array:
    """As of `Ranker`."""
    total = jnp.where(history.there[..., None], history.vectors, 0).sum(1)
    mean = total / jnp.maximum(history.there.sum(1, keepdims=True), 1)
    x = jnp.concatenate([shown, jnp.broadcast_to(mean[:, None], shown.shape)], axis=-1)
    first = x = x.reshape(-1, x.shape[-1])
    for cross in self.crosses:
      x = cross(first, x)
    deep = self.layers(first if self.parallel else x, of_pairs(context, jnp.ones(shown.shape[:2], bool)))
    return self.out(jnp.concatenate([x, deep], axis=-1) if self.parallel else deep).reshape(shown.shape[:2])
