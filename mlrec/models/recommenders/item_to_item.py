"""What recommenders share that score an item by its weights from the items of the user's history."""

import numpy as np
import scipy.sparse

from mlrec.data.interactions import Rows
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.registry import OptionError


class ItemToItem(FittedRecommender):
  """Scores item j by the sum of d^s W[i, j] over the items i of the input, s steps back from its newest.

  An item that occurs twice in the input counts at both places.
  """

  def __init__(self, num_items: int, *, decay: float = 1.0, last: int = 0, popularity: float = 0.0):
    """Checks the options.

    Args:
      num_items: items that exist, padding not counted.
      decay: d, from 0 (the newest item alone) to 1 (a plain sum).
      last: items of the input that are read, the newest; 0 for all.
      popularity: what the most popular item's score is raised by, less popular ones' in proportion to their training
        interactions; a small value orders the items that the history says nothing of.

    Raises:
      OptionError: a value is out of range.
    """
    require("decay", decay, 0, 1)
    require("popularity", popularity, 0)
    self.num_items, self._decay, self._last, self._popularity = num_items, decay, last, popularity

  def weights(self, train: Rows) -> scipy.sparse.csr_array | np.ndarray:
    """W of users' training rows, `[num_items + 1, num_items + 1]` float32, a row for each item of an input.

    Raises:
      OptionError: an option does not fit the data.
    """
    raise NotImplementedError

  def fit(self, train: Rows) -> None:
    self._weights = self.weights(train)
    self._raise: np.ndarray | None = None
    if self._popularity:
      counts = np.bincount(train.values, minlength=self.num_items + 1)
      self._raise = (self._popularity / max(int(counts.max()), 1) * counts).astype(np.float32)

  def scores(self, histories: Rows, users: np.ndarray) -> np.ndarray:
    """`[B, num_items + 1]` float32."""
    del users
    read = histories.last(self._last) if self._last else histories
    steps = np.repeat(read.offsets[1:], read.lengths) - 1 - np.arange(len(read.values))
    weights = np.power(self._decay, steps, dtype=np.float32)
    history = scipy.sparse.csr_array(
      (weights, read.values, read.offsets), shape=(len(read), self._weights.shape[0])
    )  # fmt: skip
    scores = history @ self._weights
    scores = scores.toarray() if scipy.sparse.issparse(scores) else scores
    if self._raise is not None:
      scores += self._raise
    return scores


def require(name: str, value: float, low: float, high: float = np.inf, *, above: bool = False) -> None:
  """Nothing, if an option of that name lies within its bounds.

  Raises:
    OptionError: it does not, or is no number; or, where it must be `above` the lower one, is that.
  """
  # Written so that NaN fails.
  if not (low < value if above else low <= value) or not value <= high or value == np.inf:
    bound = f"{'above' if above else 'at least'} {low:g}" if high == np.inf else f"between {low:g} and {high:g}"
    raise OptionError(name, f"= {value} must be {bound}")
