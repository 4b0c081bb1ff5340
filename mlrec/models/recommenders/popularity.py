"""Popularity: every user is recommended the items with the most training interactions."""

import numpy as np

from mlrec.data.interactions import Rows
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER


@models.register("popularity", kind=RECOMMENDER)
class Popularity(FittedRecommender):
  """Scores an item by how often it occurs in the training rows."""

  def __init__(self, num_items: int):
    """`num_items`: items that exist, padding not counted."""
    self._num_items = num_items

  def fit(self, train: Rows) -> None:
    self._counts = np.bincount(train.values, minlength=self._num_items + 1).astype(np.float32)

  def scores(self, histories: Rows, users: np.ndarray) -> np.ndarray:
    """`[B, num_items + 1]` float32, the same for all users."""
    return np.tile(self._counts, (len(users), 1))
