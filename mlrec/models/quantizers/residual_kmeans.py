"""Residual k-means: each level clusters what the levels before it have left of the vectors."""

from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
from scipy import sparse

from mlrec.models.quantizers.quantizer import Quantized
from mlrec.models.quantizers.quantizer import Quantizer
from mlrec.models.quantizers.quantizer import relative_error
from mlrec.models.registry import models
from mlrec.models.registry import QUANTIZER
from mlrec.registry import at_least

# Vectors whose distances to all centres are in memory at a time.
_BLOCK = 8192


@models.register("residual_kmeans", kind=QUANTIZER)
class ResidualKMeans(Quantizer):
  """k-means of the vectors, then of their differences from the nearest centres, and so on.

  A code is the number of the nearest centre. This is residual vector quantization (Chen et al., Sensors 10, 2010), with
  which OneRec (arXiv 2502.18965) makes its items' codes, less the balance that it asks of clusters. Centres start by
  k-means++ (Arthur and Vassilvitskii, SODA 2007, section 2.2) and are moved by Lloyd's steps until no vector changes
  its centre; a centre that is left without vectors goes to the one that is furthest from its own. Of equally near
  centres the first counts. Where there are fewer distinct vectors than centres, a level has so many centres.
  """

  def __init__(self, *, levels: int = 3, size: int = 256, seed: int = 0, steps: int = 50):
    """Checks the options.

    Args:
      levels: codes of a vector.
      size: centres of each level.
      seed: of the centres' start.
      steps: Lloyd's steps of a level, at most.

    Raises:
      OptionError: an option is out of range.
    """
    super().__init__(levels, size, seed)
    at_least(1, steps=steps)
    self.steps = steps

  def fit(self, vectors: np.ndarray, say: Callable[[str], None] = lambda line: None) -> Quantized:
    """As of `Quantizer`."""
    residuals = np.array(vectors, np.float32)
    codes, errors = np.empty((len(vectors), self.levels), np.int32), np.empty(self.levels)
    for level in range(self.levels):
      centres = k_means(residuals, self.size, rng=np.random.default_rng([self.seed, level]), steps=self.steps)
      codes[:, level], _ = nearest(residuals, centres)
      residuals -= centres[codes[:, level]]
      errors[level] = relative_error(residuals, vectors)
      say(f"level {level + 1} of {self.levels}: {len(centres):,} centres leave {errors[level]:.3f} of the variance")
    return Quantized(codes, errors)


def k_means(vectors: np.ndarray, size: int, *, rng: np.random.Generator, steps: int) -> np.ndarray:
  """Centres of clusters.

  Args:
    vectors: `[N, F]` float32.
    size: centres, at most.
    rng: draws their start.
    steps: of Lloyd, at most.

  Returns:
    `[size, F]` float32, or fewer rows if there are not so many distinct vectors.
  """
  centres = _start(vectors, size, rng)
  codes = np.full(len(vectors), -1, np.int32)
  for _ in range(steps):
    before = codes
    codes, distances = nearest(vectors, centres)
    counts = np.bincount(codes, minlength=len(centres))
    empty = np.flatnonzero(counts == 0)
    if len(empty):
      codes[np.argsort(-distances, kind="stable")[: len(empty)]] = empty
      counts = np.bincount(codes, minlength=len(centres))
    if (codes == before).all():
      break
    sums = sum(_one_hot(codes[block], len(centres)) @ vectors[block] for block in _blocks(len(vectors)))
    # One of the vectors that were furthest may have been the last of its own centre, which then stays.
    centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
  return centres


def nearest(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The nearest of `centres [K, F]` to each of `vectors [N, F]`: its number, `[N]` int32, and the squared distance."""
  codes, distances = np.empty(len(vectors), np.int32), np.empty(len(vectors), np.float32)
  lengths = np.square(centres).sum(1)
  for block in _blocks(len(vectors)):
    # Less the vectors' own lengths, which do not matter to which is nearest.
    there = lengths - 2 * (vectors[block] @ centres.T)
    codes[block] = there.argmin(1)
    distances[block] = there.min(1) + np.square(vectors[block]).sum(1)
  return codes, np.maximum(distances, 0)


def _start(vectors: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
  """k-means++: each further centre is a vector, drawn in proportion to its squared distance from the nearest so far."""
  chosen = [int(rng.integers(len(vectors)))]
  distances = _squared_distances(vectors, vectors[chosen[0]])
  while len(chosen) < size:
    reach = np.cumsum(distances)
    if reach[-1] <= 0:
      break  # every vector is a centre
    chosen.append(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")))
    distances = np.minimum(distances, _squared_distances(vectors, vectors[chosen[-1]]))
  return vectors[chosen]


def _squared_distances(vectors: np.ndarray, centre: np.ndarray) -> np.ndarray:
  """`[N]` float64; exactly 0 of a vector that is the centre, which a difference of lengths would not be."""
  return np.concatenate(
    [np.square(vectors[block] - centre).sum(1, dtype=np.float64) for block in _blocks(len(vectors))]
  )


def _blocks(number: int) -> Iterator[slice]:
  return (slice(first, first + _BLOCK) for first in range(0, number, _BLOCK))


def _one_hot(codes: np.ndarray, size: int) -> sparse.csr_matrix:
  """`[size, len(codes)]`."""
  return sparse.csr_matrix((np.ones(len(codes), np.float32), (codes, np.arange(len(codes)))), (size, len(codes)))
