"""Items drawn at random of those that a user has not."""

import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows


class Negatives:
  """Draws items that users' rows have not, uniformly or by shares."""

  def __init__(self, rows: Rows, num_items: int, shares: np.ndarray | None = None):
    """Looks at what each user has.

    Args:
      rows: dense ids, 1 to `num_items`, a row for each user.
      num_items: items that exist, padding not counted.
      shares: `[num_items + 1]` float, the chance of each item, 0 for the padding; None for uniformly.

    Raises:
      DataError: a user's row has every item that can be drawn, and so no negative.
    """
    self._num_items = num_items
    users = np.repeat(np.arange(len(rows)), rows.lengths)
    # Pairs of user and item as one number, sorted: what a user has is found by bisection.
    self._had = np.unique(self._pairs(users, rows.values))
    self._reach = None if shares is None else np.cumsum(shares)
    drawable = num_items if shares is None else int((shares > 0).sum())
    owners, items = np.divmod(self._had, num_items + 1)
    has = np.bincount(owners if shares is None else owners[shares[items] > 0], minlength=1)
    if has.max() >= drawable:
      what = "items" if drawable == num_items else f"of {num_items} items that can be drawn"
      raise DataError(f"a user has all {drawable} {what}: there is none left to draw as a negative")

  def drawn(self, users: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """`[B, number]` int64 dense ids for `users [B]`, rows; an item may come twice."""
    drawn = self._draw((len(users), number), rng)
    whose = np.broadcast_to(users[:, None], drawn.shape)
    while drawn.size:
      pairs = self._pairs(whose, drawn)
      again = self._had[np.searchsorted(self._had, pairs).clip(max=len(self._had) - 1)] == pairs
      if not again.any():
        break
      drawn[again] = self._draw(int(again.sum()), rng)
    return drawn

  def _draw(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if self._reach is None:
      return rng.integers(1, self._num_items + 1, shape)
    return np.searchsorted(self._reach, rng.random(shape) * self._reach[-1], side="right")

  def _pairs(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    return users.astype(np.int64) * (self._num_items + 1) + items
