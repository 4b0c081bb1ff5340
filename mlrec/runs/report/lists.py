"""What lists of recommendations are like beyond how accurate they are. Pure functions of arrays.

Items are dense ids, 1 to `num_items`; 0 in a list is no item. Beside these, `coverage@10` of a result is the share of
all items that some list holds.
"""

import numpy as np

# Users whose lists' vectors are looked up at a time.
_CHUNK = 4096


def gini(recommended: np.ndarray, num_items: int) -> float:
  """How unevenly recommendations are spread over all items: 0 for evenly, 1 for one item alone.

  1 / (n - 1) · Σ_j (2j - n - 1) s_j with s_j the share of recommendations of the j-th least recommended of n items
  (Shani and Gunawardana, "Evaluating Recommendation Systems", Recommender Systems Handbook, 2011, section 8.3.2).

  Args:
    recommended: int `[B, K]`.
    num_items: n, items that are never recommended counted.
  """
  counts = np.sort(np.bincount(recommended.ravel(), minlength=num_items + 1)[1:]).astype(np.float64)
  total = counts.sum()
  if num_items < 2 or not total:
    return 0.0
  places = 2 * np.arange(1, num_items + 1) - num_items - 1
  return float(places @ counts / (total * (num_items - 1)))


def novelty(recommended: np.ndarray, train_counts: np.ndarray) -> float:
  """Mean self-information of what is recommended, in bits: high where training has it seldom.

  Mean of -log2 p(i) over all places of all lists (Zhou et al., PNAS 107, 2010; Castells, Hurley and Vargas, "Novelty
  and Diversity in Recommender Systems", Recommender Systems Handbook, 2015), where p(i) = (c_i + 1) / (Σ c + n), with
  c_i the training interactions of item i of n: by the 1 an item that training never has is finite.

  Args:
    recommended: int `[B, K]`.
    train_counts: int `[n]`, of items 1 to n.
  """
  shares = (train_counts + 1.0) / (train_counts.sum() + len(train_counts))
  bits = -np.log2(shares)
  shown = np.bincount(recommended.ravel(), minlength=len(train_counts) + 1)[1:]
  return float(shown @ bits / max(int(shown.sum()), 1))


def intra_list_diversity(recommended: np.ndarray, vectors: np.ndarray) -> float | None:
  """How much the items of a list differ: the mean over lists of 1 - the mean cosine over pairs of its places.

  Smyth and McClave, ICCBR 2001; Ziegler et al., WWW 2005.

  Args:
    recommended: int `[B, K]`.
    vectors: float `[n + 1, D]` by dense id; items whose vector is zero have none, and are left out of lists.

  Returns:
    0 (all alike) to 2; None if no list has two items with vectors.
  """
  unit = vectors.astype(np.float32)
  norms = np.linalg.norm(unit, axis=1, keepdims=True)
  unit = np.divide(unit, norms, out=np.zeros_like(unit), where=norms > 0)
  unit[0] = 0
  known = (norms[:, 0] > 0) & (np.arange(len(unit)) > 0)
  total, lists = 0.0, 0
  for first in range(0, len(recommended), _CHUNK):
    part = recommended[first : first + _CHUNK]
    sizes = known[part].sum(axis=1)
    # Of unit vectors, the square of the sum is their number and the cosine of each ordered pair.
    squares = (unit[part].sum(axis=1, dtype=np.float64) ** 2).sum(axis=1)
    pairs = np.maximum(sizes * (sizes - 1), 1)
    several = sizes > 1
    total += float((1 - (squares - sizes) / pairs)[several].sum())
    lists += int(several.sum())
  return total / lists if lists else None
