"""EASE: the linear autoencoder of items whose weights have a closed form.

Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019 (arXiv 1905.03375).
"""

import numpy as np
import scipy.linalg.lapack

from mlrec.data.interactions import Rows
from mlrec.models.recommenders.item_knn import watched_items
from mlrec.models.recommenders.item_to_item import ItemToItem
from mlrec.models.recommenders.item_to_item import require
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import OptionError


@models.register("ease", kind=RECOMMENDER)
class EASE(ItemToItem):
  """Scores items by x B, x being the user's input and B the least-squares weights from all other items.

  B minimises |X - X B|² + λ |B|² with a diagonal of zeros, X `[users, items]` being 1 where the user's training row
  holds the item. With P = (XᵀX + λ I)⁻¹ (equation 8): B_ij = -P_ij / P_jj for i ≠ j.

  One dense float32 matrix, `[num_items + 1, num_items + 1]`, is all that is held: it is factorised, inverted and scaled
  in place.
  """

  def __init__(
    self,
    num_items: int,
    *,
    regularization: float = 500.0,
    decay: float = 1.0,
    max_items: int = 32_768,
    popularity: float = 0.0,
  ):
    """Checks the options.

    Args:
      num_items: items that exist, padding not counted.
      regularization: λ.
      decay: what an item counts for beside the one after it in the history; 1 is the paper's.
      max_items: refuse more items than these.
      popularity: as for `ItemToItem`.

    Raises:
      OptionError: a value is out of range, or there are too many items.
    """
    require("regularization", regularization, 0, above=True)
    require("max_items", max_items, 1)
    if num_items > max_items:
      raise OptionError(
        "max_items",
        f"= {max_items}: the data has {num_items} items, whose dense weights take "
        f"{4 * (num_items + 1) ** 2 / 2**30:.1f} GiB of memory; raise it if the machine has that, or use the model "
        "'item_knn', whose weights are sparse",
      )
    super().__init__(num_items, decay=decay, popularity=popularity)
    self._regularization = regularization

  def weights(self, train: Rows, *, at_a_time: int = 1024) -> np.ndarray:
    """As of `ItemToItem`; so many rows are mirrored, or scaled, at a time."""
    return _weights(train, self.num_items, self._regularization, at_a_time)


def _weights(train: Rows, num_items: int, regularization: float, at_a_time: int) -> np.ndarray:
  watched = watched_items(train, num_items)
  together = (watched.T @ watched).tocoo()
  # LAPACK works in place on columns.
  matrix = np.zeros((num_items + 1, num_items + 1), np.float32, order="F")
  matrix[together.coords] = together.data
  matrix[np.diag_indices_from(matrix)] += np.float32(regularization)
  matrix, failed = scipy.linalg.lapack.spotrf(matrix, lower=1, clean=0, overwrite_a=1)
  if not failed:
    matrix, failed = scipy.linalg.lapack.spotri(matrix, lower=1, overwrite_c=1)
  if failed:
    raise OptionError("regularization", f"= {regularization} is too small to invert XᵀX + λI in float32")
  # What LAPACK leaves below the diagonal of columns lies above that of rows.
  weights = matrix.T
  _mirror(weights, at_a_time)
  scale = -1 / weights.diagonal()
  for first in range(0, len(weights), at_a_time):
    weights[first : first + at_a_time] *= scale
  np.fill_diagonal(weights, 0)
  return weights


def _mirror(matrix: np.ndarray, at_a_time: int) -> None:
  """Copies what lies above the diagonal below it."""
  for first in range(0, len(matrix), at_a_time):
    last = first + at_a_time
    block = matrix[first:last, first:last]
    block[:] = np.triu(block) + np.triu(block, 1).T
    matrix[last:, first:last] = matrix[first:last, last:].T
