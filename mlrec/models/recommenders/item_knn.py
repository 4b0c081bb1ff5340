"""Nearest neighbours of items: items are alike that the same users watched.

Sarwar, Karypis, Konstan and Riedl, "Item-based collaborative filtering recommendation algorithms", WWW 2001; Deshpande
and Karypis, "Item-based top-N recommendation algorithms", TOIS 2004, for the model of k neighbours an item.
"""

import numpy as np
import scipy.sparse

from mlrec.data.interactions import Rows
from mlrec.models.recommenders.item_to_item import ItemToItem
from mlrec.models.recommenders.item_to_item import require
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import closest
from mlrec.registry import OptionError

COSINE, BM25 = "cosine", "bm25"
SIMILARITIES = (COSINE, BM25)


@models.register("item_knn", kind=RECOMMENDER)
class ItemKNN(ItemToItem):
  """Scores an item by its similarity to the items of the history, of which older ones count for less.

  With X `[users, items]`, 1 where the training row of the user holds the item, and n_i the users of item i:

  * `cosine`: sim(i, j) = (XᵀX)_ij / (sqrt(n_i n_j) + shrink).
  * `bm25`: sim(i, j) = Σ_u w_ui w_uj, the items being documents and the users their terms (Robertson and Zaragoza, "The
    probabilistic relevance framework: BM25 and beyond", 2009, section 3.3, with the terms of a document once each):
    w_ui = ln(U / (1 + n_u)) (k1 + 1) / (k1 (1 - b + b n_i / n̄) + 1), U users, n_u items of user u, n̄ the mean of
    the n_i above 0.

  No item is its own neighbour.
  """

  def __init__(
    self,
    num_items: int,
    similarity: str = COSINE,
    *,
    shrink: float = 0.0,
    k1: float = 1.2,
    b: float = 0.75,
    neighbours: int = 0,
    decay: float = 1.0,
    window: int = 0,
    popularity: float = 0.0,
  ):
    """Checks the options.

    Args:
      num_items: items that exist, padding not counted.
      similarity: one of `SIMILARITIES`.
      shrink: of the cosine; lowers the similarity of items that few users watched.
      k1: of BM25, as is `b`.
      b: from 0 to 1, how much of the items' popularity is evened out.
      neighbours: of each item, kept are so many items most similar to it, of equal ones the lowest ids; it is scored by
        those of them that the history holds. 0 for all.
      decay: what an item counts for beside the one after it in the history.
      window: items of the history that are read, the newest; 0 for all.
      popularity: as for `ItemToItem`.

    Raises:
      OptionError: a name is unknown, or a value out of range.
    """
    if similarity not in SIMILARITIES:
      raise OptionError("similarity", f"= {similarity!r}: {closest(similarity, SIMILARITIES)}")
    require("shrink", shrink, 0)
    require("k1", k1, 0)
    require("b", b, 0, 1)
    require("neighbours", neighbours, 0)
    require("window", window, 0)
    super().__init__(num_items, decay=decay, last=window, popularity=popularity)
    self._similarity, self._shrink, self._k1, self._b, self._neighbours = similarity, shrink, k1, b, neighbours

  def weights(self, train: Rows, *, at_a_time: int = 4096) -> scipy.sparse.csr_array:
    """As of `ItemToItem`; so many items' similarities exist at once, before only those of kept neighbours are left."""
    watched = watched_items(train, self.num_items)
    counts = np.bincount(watched.indices, minlength=self.num_items + 1).astype(np.float32)
    if self._similarity == BM25:
      watched = _bm25(watched, counts, self._k1, self._b)
    items = watched.T.tocsr()
    parts = []
    for first in range(0, self.num_items + 1, at_a_time):
      part = (items[first : first + at_a_time] @ watched).tocoo()
      row, col = part.coords
      values = part.data
      if self._similarity == COSINE:
        values = values / (np.sqrt(counts[first + row] * counts[col]) + np.float32(self._shrink))
      kept = (first + row != col) & (values != 0)
      part = scipy.sparse.csr_array((values[kept], (row[kept], col[kept])), shape=part.shape)
      parts.append(nearest(part, self._neighbours) if self._neighbours else part)
    # Rows are now the items that are scored; they are to be those of the history.
    return scipy.sparse.vstack(parts).T.tocsr()


def watched_items(train: Rows, num_items: int) -> scipy.sparse.csr_array:
  """X, `[users, num_items + 1]` float32: 1 where the training row of the user holds the item, however often."""
  shape = len(train), num_items + 1
  watched = scipy.sparse.csr_array((np.ones(len(train.values), np.float32), train.values, train.offsets), shape=shape)
  watched = watched.copy()
  watched.sum_duplicates()
  watched.data[:] = 1
  return watched


def _bm25(watched: scipy.sparse.csr_array, counts: np.ndarray, k1: float, b: float) -> scipy.sparse.csr_array:
  sizes = np.diff(watched.indptr)
  rarity = np.log(len(sizes)) - np.log1p(sizes)
  length = 1 - b + b * counts / max(counts[counts > 0].mean(), 1)
  weights = np.repeat(rarity, sizes) * (k1 + 1) / (k1 * length[watched.indices] + 1)
  return scipy.sparse.csr_array((weights.astype(np.float32), watched.indices, watched.indptr), shape=watched.shape)


def nearest(matrix: scipy.sparse.csr_array, count: int) -> scipy.sparse.csr_array:
  """Of each row the `count` largest values, of equal ones those of the lowest columns."""
  row, col = matrix.tocoo().coords
  order = np.lexsort((col, -matrix.data, row))
  place = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
  kept = order[place < count]
  return scipy.sparse.csr_array((matrix.data[kept], (row[kept], col[kept])), shape=matrix.shape)
