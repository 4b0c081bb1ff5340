"""Runs of recommenders that are computed from the data at once: fit, then evaluate; nothing to resume."""

from collections.abc import Callable
from collections.abc import Sequence
import concurrent.futures
import contextlib

import jax
from ml_collections import ConfigDict
import numpy as np

from mlrec import metrics
from mlrec import metrics_by_user
from mlrec import metrics_on_host
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import Split
from mlrec.machine import usable_cores
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.registry import options_of
from mlrec.train.impression_evaluator import impressions_of
from mlrec.train.model_builder import ModelBuilder
from mlrec.train.progress import MetricWriter
from mlrec.train.run_files import RunFiles
from mlrec.train.session import Clock
from mlrec.train.stop import StopSignal
from mlrec.train.summary import Ranked
from mlrec.train.summary import Summary

# Scores that a thread holds at once, so that they stay in its core's cache, and the users that this is at the least.
_CHUNK_BYTES = 4 << 20
_LEAST_USERS = 8


class FittedRun:
  """A run of a `FittedRecommender`, with the methods of a `TrainingRun`."""

  def __init__(self, config: ConfigDict, split: Split, files: RunFiles, *, splits: Sequence[str] = EVALUATED):
    """Keeps what the run is of; nothing is computed.

    Args:
      config: validated.
      split: the data.
      files: where metrics go, and what is needed to fit again.
      splits: what the model is evaluated on.
    """
    self._config, self._split, self._files, self._splits, self._clock = config, split, files, splits, Clock()

  @property
  def trace(self) -> None:
    """There are no training steps to trace."""

  def plan(self) -> None:
    """Checks the options.

    Raises:
      OptionError, ConfigError: one is wrong, or the data is of impressions.
    """
    impressions_of(self._config, self._split, batches_of="")
    self._builder = ModelBuilder(self._config, self._split)
    self._model = self._builder.create_fitted()

  def prepare(self, stop: StopSignal | None = None) -> None:
    """Fits.

    Raises:
      OptionError: an option does not fit the data.
    """
    with options_of("config.model"):
      self._model.fit(self._split.train)
    if stop:
      stop.check()

  @property
  def fingerprint(self) -> str:
    """Of all that is read."""
    return "-".join([self._split.fingerprint, *self._builder.fingerprints])

  def train(self, stop: StopSignal, *, started: Callable[[], None] = lambda: None) -> Summary:
    """Evaluates: all is computed. Metrics go where those of a trained run go, as of step 0."""
    del stop
    started()
    primary = jax.process_index() == 0
    if primary:
      self._files.keep(self._split)
    # What an earlier attempt may have written is written again.
    with contextlib.closing(MetricWriter(self._files, step=-1, config=self._config, enabled=primary)) as writer:
      summary = self.evaluate()
      for name, found in summary.metrics.items():
        writer.write(0, name, found)
    return summary

  def evaluate(self, step: int | None = None) -> Summary:
    """Metrics of the run's splits; there are no steps."""
    del step
    ranked = {name: rank(self._model, self._split, name) for name in self._splits}
    found = {name: _figures(one, self._split, name, self._config.eval.buckets) for name, one in ranked.items()}
    return Summary(found, 0, 0, self._clock.seconds, self._clock.cpu_seconds, 0, ranked)


def evaluate(
  model: FittedRecommender,
  split: Split,
  name: str,
  edges: tuple[int, ...] = metrics.BUCKETS,
  *,
  chunk_bytes: int = _CHUNK_BYTES,
) -> dict[str, float]:
  """Metrics of a fitted recommender on split `name`, by what `rank` finds.

  `edges` are those of the buckets of targets, as of `metrics.bucket_metrics`.
  """
  return _figures(rank(model, split, name, chunk_bytes=chunk_bytes), split, name, edges)


def rank(model: FittedRecommender, split: Split, name: str, *, chunk_bytes: int = _CHUNK_BYTES) -> Ranked:
  """The place of each user's target on split `name` (`valid` or `test`), and the first places' items.

  Users are ranked in small chunks of scores of some `chunk_bytes`, one in each thread: scores of all users never exist
  at once.

  Raises:
    ScoresNotFinite: a score is NaN or infinite.
  """
  inputs, seen, targets, whom = split.inputs(name), split.seen(name), split.targets(name), split.evaluated(name)

  def rank_chunk(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = model.scores(inputs.take(part), whom[part])
    return metrics_on_host.rank_scores(scores, targets[part], seen.take(part).padded(split.most_seen))

  return Ranked(*in_chunks(rank_chunk, len(whom), split.num_items, chunk_bytes=chunk_bytes))


def in_chunks(
  work: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
  number: int,
  num_items: int,
  *,
  chunk_bytes: int = _CHUNK_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
  """What `work` makes of users, in small chunks of scores of some `chunk_bytes`, one in each thread.

  Args:
    work: of places of users to two arrays with a row for each.
    number: of users.
    num_items: how many each is scored on.
    chunk_bytes: of float32 scores at once.

  Returns:
    The two arrays, of all users.
  """
  size = max(chunk_bytes // (4 * (num_items + 1)), _LEAST_USERS)
  parts = [np.arange(first, min(first + size, number)) for first in range(0, number, size)]
  with concurrent.futures.ThreadPoolExecutor(usable_cores()) as threads:
    first, second = (np.concatenate(found) for found in zip(*threads.map(work, parts)))
  return first, second


def _figures(ranked: Ranked, split: Split, name: str, edges: tuple[int, ...]) -> dict[str, float]:
  counts = split.train_counts[split.targets(name)]
  users = split.evaluated(name) if split.several else None
  return metrics_by_user.all_metrics(*ranked, counts, split.num_items, edges, users=users)
