"""Runs of recommenders that are computed from the data at once: fit, then evaluate; nothing to resume."""

from collections.abc import Callable
from collections.abc import Sequence
import concurrent.futures
import pathlib
import time
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from mlrec import metrics
from mlrec.data.cores import usable_cores
from mlrec.data.splits import Split
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.train import usage
from mlrec.train import workdir as workdirs
from mlrec.train.facts import Facts
from mlrec.train.outcome import Outcome
from mlrec.train.outcome import SPLITS

# Scores that a thread holds at once, so that they stay in its core's cache, and the users that this is at the least.
_CHUNK_BYTES = 4 << 20
_LEAST_USERS = 8


class FittedRun:
  """A run of a `FittedRecommender`; with the same methods as one that trains.

  Attributes:
    fingerprint: of all that is read.
  """

  def __init__(self, config: ConfigDict, split: Split, workdir: pathlib.Path, *, splits: Sequence[str] = SPLITS):
    """Fits."""
    self._start, self._cpu_start = time.monotonic(), usage.cpu_seconds()
    self._config, self._split, self._workdir, self._splits = config, split, workdir, splits
    facts = Facts(config, split)
    self._model = facts.create_fitted()
    self.fingerprint = "-".join([split.fingerprint, *facts.fingerprints])

  def train(self, stop: Any, *, started: Callable[[], None] = lambda: None) -> Outcome:
    """Evaluates: all is computed."""
    del stop
    started()
    return self.evaluate()

  def evaluate(self) -> Outcome:
    """Metrics of the run's splits."""
    # Nothing is read from the workdir, so evaluation alone may be the first to use it.
    if not (self._workdir / workdirs.CONFIG).exists():
      workdirs.claim(self._workdir, self._config)
    edges = self._config.eval.buckets
    found = {name: evaluate(self._model, self._split, name, edges) for name in self._splits}
    return Outcome(
      found, best_step=0, best_epoch=0, seconds=time.monotonic() - self._start,
      cpu_seconds=usage.cpu_seconds() - self._cpu_start, parameters=0,
    )  # fmt: skip


def evaluate(
  model: FittedRecommender, split: Split, name: str, edges: tuple[int, ...] = metrics.BUCKETS
) -> dict[str, float]:
  """Metrics of a fitted recommender on split `name` (`valid` or `test`).

  Users are ranked in small chunks, one in each thread: scores of all users never exist at once. `edges` are those of
  the buckets of targets, as of `metrics.bucket_metrics`.

  Raises:
    ScoresNotFinite: a score is NaN or infinite.
  """
  inputs, seen, targets = split.inputs(name), split.seen(name), split.targets(name)
  size = max(_CHUNK_BYTES // (4 * (split.num_items + 1)), _LEAST_USERS)

  def rank(first: int) -> tuple[np.ndarray, np.ndarray]:
    users = np.arange(first, min(first + size, split.num_users))
    scores = model.scores(inputs.take(users), users)
    return metrics.rank_scores(scores, targets[users], seen.take(users).padded(split.max_length + 2))

  with concurrent.futures.ThreadPoolExecutor(usable_cores()) as threads:
    found = list(threads.map(rank, range(0, split.num_users, size)))
  ranks, recommended = (np.concatenate(part) for part in zip(*found))
  return metrics.all_metrics(ranks, recommended, split.train_counts[targets], split.num_items, edges)
