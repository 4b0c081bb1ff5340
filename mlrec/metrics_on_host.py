"""The ranking of `mlrec.metrics`, by the same rule, of scores that exist as a matrix on the host."""

import math

import numpy as np

from mlrec.metrics import LIST_LENGTH
from mlrec.metrics import MISS
from mlrec.metrics import ScoresNotFinite

# Rows that are no longer than this are sorted to find the best.
_SORTED = 64


def best_of_scores(scores: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
  """The items of the highest scores of each row.

  Args:
    scores: `[B, N + 1]` float, -inf for items that are not for the user; column 0 is the padding.
    length: how many items.

  Returns:
    As `mlrec.metrics.best_items`.
  """
  places = _best_places(scores, length)
  best, found = np.full((len(scores), length), -np.inf, np.float32), np.zeros((len(scores), length), np.int32)
  best[:, : places.shape[1]] = np.take_along_axis(scores, places, axis=1)
  found[:, : places.shape[1]] = places
  return best, np.where(best > -np.inf, found, 0)


def rank_scores(
  scores: np.ndarray, targets: np.ndarray, seen: np.ndarray, *, length: int = LIST_LENGTH
) -> tuple[np.ndarray, np.ndarray]:
  """Ranks and recommendations.

  Args:
    scores: `[B, N + 1]` float; column 0 is the padding and never a candidate. Overwritten.
    targets: `[B]` int in 1..N.
    seen: `[B, H]` int, items excluded from the user's ranking; 0 is filler.
    length: how many items to recommend.

  Returns:
    The ranks, int32 `[B]`, `MISS` where the target is among the seen items; and the best items, best first and of equal
    ones the lowest id, int32 `[B, length]` (0 where there are too few).

  Raises:
    ScoresNotFinite: a score is NaN or infinite.
  """
  require_finite(scores[:, 1:])
  users = np.arange(len(scores))
  threshold = scores[users, targets]
  scores[:, 0] = -np.inf
  scores[users[:, None], seen] = -np.inf
  # The target is among those that reach its score.
  ranks = (scores >= threshold[:, None]).sum(axis=1, dtype=np.int32)
  ranks[(seen == targets[:, None]).any(axis=1)] = MISS
  places = _best_places(scores, length)
  best = np.zeros((len(scores), length), np.int32)
  best[:, : places.shape[1]] = np.where(np.take_along_axis(scores, places, axis=1) > -np.inf, places, 0)
  return ranks, best


def require_finite(scores: np.ndarray) -> None:
  """Raises a ScoresNotFinite unless all of `scores`, of any shape, are finite."""
  if not _finite(scores):
    raise ScoresNotFinite("scores are not finite: the recommender computed NaN or infinity")


def _finite(values: np.ndarray) -> bool:
  # Both ends tell of an infinity, and either of a NaN, without an array of flags.
  return not values.size or bool(np.isfinite(values.min()) and np.isfinite(values.max()))


def _best_places(scores: np.ndarray, length: int) -> np.ndarray:
  """The places of the `length` highest of each row, best first and of equal ones the lowest: `[B, min(length, N)]`.

  They lie in the `length` blocks of neighbours whose maxima are the highest, the first of equal ones: any other block
  has that many values before its own. So blocks are sought first, by the same rule, and then places within them.
  """
  size = scores.shape[1]
  width = math.isqrt(size)
  if length * width >= size or size <= _SORTED:
    return np.argsort(-scores, axis=1, kind="stable")[:, :length]
  maxima = np.maximum.reduceat(scores, np.arange(0, size, width), axis=1)
  blocks = np.sort(_best_places(maxima, length), axis=1)
  # What a short last block lacks comes last and scores -inf, so that a place that exists is always before it.
  places = (blocks[:, :, None] * width + np.arange(width)).reshape(len(scores), blocks.shape[1] * width)
  inside = np.take_along_axis(scores, np.minimum(places, size - 1), axis=1)
  inside[places >= size] = -np.inf
  return np.take_along_axis(places, _best_places(inside, length), axis=1)
