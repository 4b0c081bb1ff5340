"""A Markov chain over the history: what follows an item is recommended after it.

The chain of items of Rendle, Freudenthaler and Schmidt-Thieme, "Factorizing personalized Markov chains for
next-basket recommendation", WWW 2010, section 4, one for all users and not factorised; with followers further off, as
in the sequential rules of Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", UMUAI 2018,
section 3.1, which weigh them by the inverse of their distance.
"""

import numpy as np
import scipy.sparse

from mlrec.data.interactions import Rows
from mlrec.models.recommenders.item_to_item import ItemToItem
from mlrec.models.recommenders.item_to_item import require
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER


@models.register("markov", kind=RECOMMENDER)
class Markov(ItemToItem):
  """Scores item j by M[i, j] = Σ 1 / distance, over the places where j follows i in a training row.

  Summed over the items i of the history, of which older ones count for less. No item follows itself.
  """

  def __init__(
    self,
    num_items: int,
    *,
    window: int = 1,
    decay: float = 1.0,
    popularity: float = 0.0,
  ):
    """Checks the options.

    Args:
      num_items: items that exist, padding not counted.
      window: the largest distance at which an item still follows.
      decay: what an item counts for beside the one after it in the history; 0 for the newest item alone.
      popularity: as for `ItemToItem`.

    Raises:
      OptionError: a value is out of range.
    """
    require("window", window, 1)
    super().__init__(num_items, decay=decay, popularity=popularity)
    self._window = window

  def weights(self, train: Rows) -> scipy.sparse.csr_array:
    shape = self.num_items + 1, self.num_items + 1
    rows = np.repeat(np.arange(len(train)), train.lengths)
    weights = scipy.sparse.csr_array(shape, dtype=np.float32)
    longest = int(train.lengths.max(initial=0))
    for distance in range(1, min(self._window, longest - 1) + 1):
      leads, follows = train.values[:-distance], train.values[distance:]
      kept = (rows[:-distance] == rows[distance:]) & (leads != follows)
      values = np.full(int(kept.sum()), 1 / distance, np.float32)
      weights = weights + scipy.sparse.csr_array((values, (leads[kept], follows[kept])), shape=shape)
    return weights
