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

# Rows that are mirrored, or scaled, at a time.
_BLOCK = 1024


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
    train: Rows,
    num_items: int,
    *,
    regularization: float = 500.0,
    decay: float = 1.0,
    max_items: int = 32_768,
    popularity: float = 0.0,
  ):
    """Computes the weights.

    Args:
      train: users' training rows, of dense ids 1 to `num_items`.
      num_items: items that exist.
      regularization: λ.
      decay: what an item counts for beside the one after it in the history; 1 is the paper's.
      max_items: refuse more items than these.
      popularity: as for `ItemToItem`.

    Raises:
      ValueError: a value is out of range, or there are too many items.
    """
    require("regularization", regularization, 0, above=True)
    require("max_items", max_items, 1)
    if num_items > max_items:
      raise ValueError(
        f"config.model.max_items = {max_items}: the data has {num_items} items, whose dense weights take "
        f"{4 * (num_items + 1) ** 2 / 2**30:.1f} GiB of memory; raise it if the machine has that, or use the model "
        "'item_knn', whose weights are sparse"
      )
    super().__init__(_weights(train, num_items, regularization), train, decay=decay, popularity=popularity)


def _weights(train: Rows, num_items: int, regularization: float) -> np.ndarray:
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
    raise ValueError(f"config.model.regularization = {regularization} is too small to invert XᵀX + λI in float32")
  # What LAPACK leaves below the diagonal of columns lies above that of rows.
  weights = matrix.T
  _mirror(weights)
  scale = -1 / weights.diagonal()
  for first in range(0, len(weights), _BLOCK):
    weights[first : first + _BLOCK] *= scale
  np.fill_diagonal(weights, 0)
  return weights


def _mirror(matrix: np.ndarray) -> None:
  """Copies what lies above the diagonal below it."""
  for first in range(0, len(matrix), _BLOCK):
    last = first + _BLOCK
    block = matrix[first:last, first:last]
    block[:] = np.triu(block) + np.triu(block, 1).T
    matrix[last:, first:last] = matrix[first:last, last:].T
