"""Paired tests of systems that ranked the same users: the bootstrap, and Holm's correction. Pure functions of arrays.

Users are drawn again, with replacement, and every system is judged on the same draws (Sakai, SIGIR 2006, "Evaluating
evaluation metrics based on the bootstrap"; Smucker, Allan and Carterette, CIKM 2007, section 3.4). What is tested is
whether other users would have told the same: how much seeds differ is no part of it.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
# Numbers drawn at a time.
_CHUNK = 1 << 20
# Users that are drawn in the time that drawing a count takes.
_COUNT_COST = 16
# Means that are equal but for rounding.
_ROUNDING = 1e-12


class Difference(NamedTuple):
  """How much a first system gains over a second one, a user.

  Attributes:
    mean: of the differences.
    low: where the middle `LEVEL` of the resampled means begins (percentile interval).
    high: where it ends.
    p: two-sided, of there being no difference; 1 for systems that are alike for each user.
  """

  mean: float
  low: float
  high: float
  p: float


def paired_bootstrap(
  gains: np.ndarray, pairs: Iterable[tuple[int, int]], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
  """Tests the difference of the means of two columns, for each of `pairs`, on the same draws of users.

  With d the mean difference and d*_b that of draw b of B, p = (1 + |{b: |d*_b - d| >= |d|}|) / (1 + B): the draws,
  moved to where there is no difference, are as far from 0 as what was seen (Smucker et al., the bootstrap shift method;
  the 1 keeps p above 0, Davison and Hinkley, 1997, equation 4.11).

  Users whose gains are all the same are interchangeable, so that a draw is how often each distinct row of `gains`
  comes, which is multinomial: where rows are few, time does not grow with the users.

  Args:
    gains: float `[users, columns]`, of each user by each system.
    pairs: columns, first less second.
    resamples: draws.
    seed: of the draws; the same seed gives the same result.

  Raises:
    ValueError: there are no users.
  """
  if not len(gains):
    raise ValueError("there are no users to compare on")
  rows, counts = np.unique(gains, axis=0, return_counts=True)
  # The most frequent first: what is left for the others is then few.
  order = np.argsort(-counts, kind="stable")
  rows, counts = rows[order], counts[order]
  rng = np.random.default_rng(seed)
  draw = _draw_counts if len(rows) * _COUNT_COST < len(gains) else _draw_users
  means = np.concatenate([drawn @ rows for drawn in draw(rng, counts, resamples)]) / len(gains)
  seen = counts @ rows / len(gains)
  return [_difference(means[:, a] - means[:, b], float(seen[a] - seen[b])) for a, b in pairs]


def _draw_counts(rng: np.random.Generator, counts: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
  """How often each row of `counts` users comes in each of some draws, int `[draws, rows]`, at once."""
  total, size = int(counts.sum()), max(_CHUNK // len(counts), 1)
  for first in range(0, resamples, size):
    yield rng.multinomial(total, counts / total, size=min(size, resamples - first))


def _draw_users(rng: np.random.Generator, counts: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
  """The same, by drawing users one by one."""
  row_of = np.repeat(np.arange(len(counts)), counts)
  size = max(_CHUNK // len(row_of), 1)
  for first in range(0, resamples, size):
    draws = min(size, resamples - first)
    drawn = row_of[rng.integers(len(row_of), size=(draws, len(row_of)), dtype=np.int32)]
    drawn += np.arange(draws)[:, None] * len(counts)
    yield np.bincount(drawn.ravel(), minlength=draws * len(counts)).reshape(draws, len(counts))


def _difference(drawn: np.ndarray, seen: float) -> Difference:
  low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  extreme = np.abs(drawn - seen) >= abs(seen) - _ROUNDING
  return Difference(seen, float(low), float(high), (1 + int(extreme.sum())) / (1 + len(drawn)))


def holm(p: Sequence[float]) -> list[float]:
  """Holm's step-down correction: p values such that, whichever hypotheses hold, one below a level is wrong as rarely.

  The i-th smallest of m becomes the largest of (m - j + 1) p_j over j <= i, at most 1 (Holm, Scandinavian Journal of
  Statistics, 1979).
  """
  order = np.argsort(p, kind="stable")
  scaled = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
  corrected = np.empty(len(p))
  corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
  return corrected.tolist()
