"""The tower over codes of items (semantic IDs): what items of the same codes share."""

from collections.abc import Mapping

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.tower import ItemTower
from mlrec.models.layers.code_embedding import CodeEmbedding
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.variables import DataArray
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import closest
from mlrec.registry import OptionError

SUM, CONCAT = "sum", "concat"
COMBINATIONS = (SUM, CONCAT)


@models.register("codes", kind=ITEM_TOWER)
class CodesTower(ItemTower):
  """Embeddings of an item's codes, summed, or concatenated and projected.

  Semantic IDs as features of a ranking model (Singh et al., RecSys 2024, arXiv 2306.08121). With `prefixes` the table
  of a level has a row for each prefix of codes up to there, not for each code: their prefix n-grams. A row is then of
  items that are alike, at the last level of one alone. Beside a tower of IDs, in `fused`, rare and new items borrow
  from the items that share their codes. The code that only tells items of the same codes apart has no row.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    combination: str = SUM,
    prefixes: bool = False,
    dropout: float = 0.0,
    codes: np.ndarray | None = None,
    rngs: nnx.Rngs,
  ):
    """Builds the tables.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      combination: one of `COMBINATIONS`.
      prefixes: whether rows are of prefixes.
      dropout: of the vector.
      codes: `[num_items + 1, levels]` int, of `config.data.codes`.
      rngs: the stream `params`.

    Raises:
      ValueError: there are no codes, or an option is out of range.
    """
    if combination not in COMBINATIONS:
      raise OptionError("combination", f"= {combination!r}: {closest(combination, COMBINATIONS)}")
    if codes is None:
      raise OptionError("name", "= 'codes' needs codes of the items, which this recommender does not hand on")
    if len(codes) != num_items + 1 or codes.shape[1] < 2:
      raise ValueError(f"there are codes {codes.shape} of {num_items} items; expected two levels or more")
    read = codes[:, :-1]
    if prefixes:
      numbers = [np.unique(read[:, :end], axis=0, return_inverse=True)[1].ravel() for end in range(1, codes.shape[1])]
      # The padding's come first.
      read = np.stack(numbers, axis=1) - 1
    self.codes = DataArray(jnp.asarray(read, jnp.int32))
    self.embedding = CodeEmbedding((read.max(0) + 1).tolist(), dim, rngs=rngs)
    self.projection = (
      nnx.Linear(dim * read.shape[1], dim, use_bias=False, kernel_init=xavier_normal, rngs=rngs)
      if combination == CONCAT
      else None
    )
    self.dropout = Dropout(dropout)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """`items` int `[U]` to vectors `[U, dim]`, zeros for the padding; `content` does not matter."""
    vectors = self.embedding(jnp.take(self.codes[...], items, axis=0, mode="clip"))
    x = vectors.sum(1) if self.projection is None else self.projection(vectors.reshape(len(vectors), -1))
    return self.dropout(x, context.rngs)
