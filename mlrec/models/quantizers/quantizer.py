"""What is asked of a quantizer, and what its codes are worth."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlrec.registry import at_least


class Quantized(NamedTuple):
  """Vectors as tuples of codes, coarse to fine.

  Attributes:
    codes: `[N, levels]` int32, each from 0 on.
    errors: `[levels]` float64, what the codes up to each level leave of the vectors: the squared distances of vectors
      and their reconstructions, as a share of those of vectors and their mean.
  """

  codes: np.ndarray
  errors: np.ndarray


class Quantizer:
  """Built as `(*, levels, size, seed, …options)`; the constructor checks them, and `fit` does the work.

  Attributes:
    levels: codes of a vector.
    size: codes to choose from at each level.
    seed: of all that is drawn.
  """

  def __init__(self, levels: int, size: int, seed: int):
    at_least(1, levels=levels)
    at_least(2, size=size)
    at_least(0, seed=seed)
    self.levels, self.size, self.seed = levels, size, seed

  def fit(self, vectors: np.ndarray, say: Callable[[str], None] = lambda line: None) -> Quantized:
    """Codes of vectors; the same vectors give the same codes (on the same kind of machine, with the same versions).

    Args:
      vectors: `[N, F]` float, finite.
      say: is told of progress, a line at a time.
    """
    raise NotImplementedError


class Quality(NamedTuple):
  """What can be said of codes without training on them.

  Attributes:
    used: `[levels]` int, codes that some item has at each level.
    perplexity: `[levels]` float, exp of the entropy of each level's codes: how many there are as good as in use.
    shared: the share of items whose tuple another item has too.
    most_alike: items of the tuple that most items have.
  """

  used: np.ndarray
  perplexity: np.ndarray
  shared: float
  most_alike: int


def quality(codes: np.ndarray) -> Quality:
  """Of `codes [N, levels]` int."""
  used, perplexity = [], []
  for level in codes.T:
    shares = np.unique(level, return_counts=True)[1] / len(codes)
    used.append(len(shares))
    perplexity.append(float(np.exp(-(shares * np.log(shares)).sum())))
  alike = np.unique(codes, axis=0, return_counts=True)[1]
  return Quality(np.array(used), np.array(perplexity), float(alike[alike > 1].sum() / len(codes)), int(alike.max()))


def told_apart(codes: np.ndarray) -> np.ndarray:
  """Codes with one more, which numbers the items of one tuple from 0 on (TIGER, arXiv 2305.05065, section 3.1).

  Args:
    codes: `[N, levels]` int.

  Returns:
    `[N, levels + 1]` int32, no row twice; of items that share a tuple the first row has 0.
  """
  _, which = np.unique(codes, axis=0, return_inverse=True)
  which = which.ravel()
  order = np.argsort(which, kind="stable")
  firsts = np.flatnonzero(np.diff(which[order], prepend=-1))
  numbers = np.empty(len(codes), np.int64)
  numbers[order] = np.arange(len(codes)) - np.repeat(firsts, np.diff(firsts, append=len(codes)))
  return np.concatenate([codes, numbers[:, None]], axis=1).astype(np.int32)


def relative_error(residuals: np.ndarray, vectors: np.ndarray) -> float:
  """Squared norms of `residuals [N, F]` as a share of the squared distances of `vectors [N, F]` and their mean."""
  spread = np.square(vectors - vectors.mean(0, dtype=np.float64), dtype=np.float64).sum()
  return float(np.square(residuals, dtype=np.float64).sum() / max(spread, np.finfo(np.float64).tiny))
