"""Figures of users who have several targets each, made of the ranks of all of them. Pure functions of arrays.

They are those of MMRec's evaluation (Zhou, arXiv 2302.03497, its released code): recall and NDCG of each user, and
their mean over users. A target's rank is its place among all candidates, of which the user's other targets are some.
With one target a user, recall is the hit rate, and NDCG that of `mlrec.metrics`. Of equal scores those of other items
count as better than a target's, and targets stand one after another; MMRec leaves the order to the sort.
"""

import numpy as np

from mlrec import metrics

RECALLS = tuple(f"recall@{k}" for k in metrics.CUTOFFS)


def numbers(users: np.ndarray) -> np.ndarray:
  """`[U]` int64, how many targets each of the `users [B]` has, of whom equal ones stand together."""
  return np.diff(np.append(_starts(users), len(users)))


def recall(ranks: np.ndarray, users: np.ndarray, k: int) -> np.ndarray:
  """`[U]` float64: the share of each user's targets that is within the first `k` places; the mean is Recall@k.

  Args:
    ranks: `[B]` integers, of targets, from 1.
    users: `[B]`, the user of each; equal ones stand together.
    k: how many places.
  """
  return _sums(_places(ranks, users) <= k, users) / numbers(users)


def hits(ranks: np.ndarray, users: np.ndarray, k: int) -> np.ndarray:
  """`[U]` float64: 1 where a target of the user is within the first `k` places, else 0; as of `recall`."""
  return (best_ranks(ranks, users) <= k).astype(np.float64)


def ndcg(ranks: np.ndarray, users: np.ndarray, k: int) -> np.ndarray:
  """`[U]` float64: DCG@k of each user over the DCG@k of a list that begins with all of its targets; as of `recall`.

  DCG@k = Σ 1 / log2(rank + 1) over the targets within the first `k` places (Järvelin and Kekäläinen, TOIS 2002, with
  binary relevance); the ideal list has min(k, number of targets) of them in its first places.
  """
  places = _places(ranks, users)
  gains = np.where(places <= k, 1 / np.log2(places.astype(np.float64) + 1), 0.0)
  ideal = np.cumsum(1 / np.log2(np.arange(1, k + 1) + 1.0))
  return _sums(gains, users) / ideal[np.minimum(numbers(users), k) - 1]


def best_ranks(ranks: np.ndarray, users: np.ndarray) -> np.ndarray:
  """`[U]` integers: the rank of the target of each user that has the best one; as of `recall`."""
  return np.minimum.reduceat(_places(ranks, users), _starts(users))


def all_metrics(
  ranks: np.ndarray,
  recommended: np.ndarray,
  target_counts: np.ndarray,
  num_items: int,
  edges: tuple[int, ...] = metrics.BUCKETS,
  *,
  users: np.ndarray | None = None,
) -> dict[str, float]:
  """All that is reported of an evaluation, as fractions.

  Args:
    ranks: as of `metrics.all_metrics`, as are `recommended`, `target_counts`, `num_items` and `edges`; a row a target.
    recommended: the list of the target's user.
    target_counts: of the targets.
    num_items: that exist.
    edges: of buckets, which are of targets, each for itself.
    users: `[B]`, the user of each target, equal ones together; None where each user has one target.

  Returns:
    The figures of `metrics.all_metrics`; with `users` HR, NDCG and MRR (the latter of each user's best target) are
    means over users, and there is recall, too.
  """
  figures = metrics.all_metrics(ranks, recommended, target_counts, num_items, edges)
  if users is None:
    return figures
  for k in metrics.CUTOFFS:
    figures[f"hr@{k}"] = float(hits(ranks, users, k).mean())
    figures[f"ndcg@{k}"] = float(ndcg(ranks, users, k).mean())
    figures[f"recall@{k}"] = float(recall(ranks, users, k).mean())
  return figures | {"mrr": float((1.0 / best_ranks(ranks, users)).mean())}


def _starts(users: np.ndarray) -> np.ndarray:
  return np.flatnonzero(np.diff(users, prepend=users[:1] - 1))


def _places(ranks: np.ndarray, users: np.ndarray) -> np.ndarray:
  """`[B]` integers: the ranks, where targets of a user that have one rank, as their scores are equal, take places.

  A rank counts all others of the same score, so that of n such targets the last is at that rank, and n - 1 before it.
  """
  order = np.lexsort((ranks, np.repeat(np.arange(len(numbers(users))), numbers(users))))
  ranked = ranks[order]
  new = np.ones(len(ranks), bool)
  new[1:] = ranked[1:] != ranked[:-1]
  new[_starts(users)] = True
  starts = np.flatnonzero(new)
  places = np.empty_like(ranks)
  places[order] = ranked - (np.arange(len(ranks)) - np.repeat(starts, np.diff(np.append(starts, len(ranks)))))
  # Of ranks that somebody else has written several may be the first.
  return np.maximum(places, 1)


def _sums(values: np.ndarray, users: np.ndarray) -> np.ndarray:
  return np.add.reduceat(values.astype(np.float64), _starts(users))
