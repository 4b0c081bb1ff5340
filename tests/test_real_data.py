"""The published MicroLens-50k, where a copy lies: MLREC_REAL_DATA names the folder that holds microlens-50k/."""

import os
import pathlib

import numpy as np
import pytest

from mlrec import metrics
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.models.registry import models
from mlrec.runs import fitted

_PATH = pathlib.Path(os.environ.get("MLREC_REAL_DATA", ""), "microlens-50k", "MicroLens-50k_pairs.tsv")

pytestmark = pytest.mark.skipif("MLREC_REAL_DATA" not in os.environ, reason="MLREC_REAL_DATA names no folder")


@pytest.fixture(scope="module")
def interactions():
  return read_pairs(_PATH)


@pytest.fixture(scope="module")
def split(interactions):
  return leave_one_out(interactions)


def test_interactions_are_the_published_ones(interactions):
  lengths = interactions.histories.lengths
  items = interactions.histories.values
  assert len(interactions.users) == len(interactions.line_users) == 50_000
  assert interactions.num_interactions == 359_708
  assert len(np.unique(items)) == 19_220
  assert items.max() == 19_738
  assert (lengths.min(), np.median(lengths), lengths.max()) == (5, 6, 218)
  assert lengths.mean() == pytest.approx(7.194, abs=5e-4)
  assert [int((lengths == n).sum()) for n in (5, 6, 13)] == [20_346, 10_744, 624]
  assert (lengths > 13).sum() == 2_500
  owner = np.repeat(np.arange(50_000), lengths)
  assert len(np.unique(owner * 20_000 + items)) == 359_708, "no user has an item twice"


def test_split_is_that_of_the_benchmark(split):
  assert split.num_users == 50_000
  assert split.num_skipped == 0
  assert split.rows.offsets[-1] == 339_511
  assert split.num_items == 19_099
  assert split.train.offsets[-1] == 239_511
  assert np.maximum(split.rows.lengths - 3, 0).sum() == 189_511
  assert split.inputs("train").offsets[-1] == 189_511
  assert (split.train.lengths == 11).sum() == 3_124
  assert split.train.lengths.mean() == pytest.approx(4.790, abs=5e-4)


def test_checksums_after_numbering_anew(split):
  # Each id weighed by its place in its row would be stricter; the published figures are plain sums.
  assert split.train.values.astype(np.int64).sum() == 2_293_649_576
  assert split.targets("valid").astype(np.int64).sum() == 475_434_309
  assert split.targets("test").astype(np.int64).sum() == 472_281_913


def test_popularity_is_that_of_the_benchmark(split):
  counts = split.train_counts[1:]
  trained = counts[counts > 0]
  assert (len(trained), len(counts) - len(trained)) == (18_331, 768)
  assert (trained.max(), np.median(trained)) == (259, 8)
  assert trained.mean() == pytest.approx(13.07, abs=5e-3)
  assert (trained == 1).sum() == 1_908
  assert split.popularity[0] == 1
  assert split.popularity[1:].max() == pytest.approx(259 / 239_511, rel=1e-12)
  assert split.popularity[1:][counts > 0].min() == pytest.approx(4.17517e-6, rel=1e-5)
  assert _by_bucket(counts) == [768, 7_326, 7_312, 3_149, 544]


def _by_bucket(counts) -> list[int]:
  return np.bincount(np.searchsorted((0, *metrics.BUCKETS), counts), minlength=5).tolist()


@pytest.mark.parametrize(
  ("name", "buckets"),
  [("valid", [877, 7_623, 19_330, 16_940, 5_230]), ("test", [2_261, 11_850, 19_521, 12_858, 3_510])],
)
def test_targets_by_popularity(split, name, buckets):
  targets = split.targets(name)
  assert _by_bucket(split.train_counts[targets]) == buckets
  assert not (split.seen(name).padded(12) == targets[:, None]).any()


def _ranks(split, name, scores) -> np.ndarray:
  """Ranks under one score an item: vectors and states of a single dimension."""
  states = np.ones((split.num_users, 1), np.float32)
  targets, seen = split.targets(name), split.seen(name).padded(12)
  table = scores.astype(np.float32)[:, None]
  assert np.array_equal(table[:, 0], scores), "scores are exact in float32"
  return np.asarray(metrics.target_ranks(states, table, targets=targets, seen=seen, chunk=20_000))


def _figures(ranks) -> tuple[float, ...]:
  report = metrics.ranking_metrics(ranks)
  return tuple(round(report[key], 4) for key in ("hr@10", "ndcg@10", "hr@20", "ndcg@20"))


@pytest.mark.parametrize(
  ("name", "published"),
  [("valid", (0.0052, 0.0027, 0.0092, 0.0037)), ("test", (0.0028, 0.0015, 0.0051, 0.0020))],
)
def test_popularity_baseline(split, name, published):
  # The published figures put the larger id first among items of equal count.
  tied_by_id = split.train_counts * 32_768 + np.arange(split.num_items + 1)
  assert _figures(_ranks(split, name, tied_by_id)) == published


@pytest.mark.parametrize(
  ("name", "figures"),
  [("valid", (0.0052, 0.0026, 0.0092, 0.0036)), ("test", (0.0028, 0.0015, 0.0051, 0.0020))],
)
def test_popularity_baseline_with_ties_counted_against_the_target(split, name, figures):
  counts, targets = split.train_counts, split.targets(name)
  ranks = _ranks(split, name, counts)
  assert _figures(ranks) == figures
  # Ranks by counting counts: items at least as popular, less those of the history, less the target itself.
  at_least = np.cumsum(np.bincount(counts[1:])[::-1])[::-1]
  seen = split.seen(name).padded(12)
  excluded = ((seen > 0) & (counts[seen] >= counts[targets][:, None])).sum(axis=1)
  np.testing.assert_array_equal(ranks, at_least[counts[targets]] - excluded)
  model = models.create("popularity", num_items=split.num_items)
  model.fit(split.train)
  report = fitted.evaluate(model, split, name)
  assert metrics.ranking_metrics(ranks).items() <= report.items()


def _figures_with_the_lowest_id_first(model, split, name) -> list[float]:
  """HR@10, NDCG@10, HR@20 and NDCG@20 where items of equal score rank by id, as those measured apart have it."""
  inputs, seen, targets = split.inputs(name), split.seen(name), split.targets(name)
  ranks = []
  for first in range(0, split.num_users, 200):
    users = np.arange(first, min(first + 200, split.num_users))
    scores = model.scores(inputs.take(users), users)
    scores[:, 0] = -np.inf
    scores[np.arange(len(users))[:, None], seen.take(users).padded(12)] = -np.inf
    own = scores[np.arange(len(users)), targets[users]]
    rank = 1 + (scores > own[:, None]).sum(axis=1)
    rank += [int((row[:target] == score).sum()) for row, target, score in zip(scores, targets[users], own)]
    ranks.append(rank)
  report = metrics.ranking_metrics(np.concatenate(ranks))
  return [report[key] for key in ("hr@10", "ndcg@10", "hr@20", "ndcg@20")]


# Measured by other code on the same split, rounded to five places; items that tie went by popularity, then by id.
@pytest.mark.parametrize(
  ("model", "options", "figures"),
  [
    ("popularity", {}, (0.00284, 0.00146, 0.00516, 0.00203)),
    ("markov", {"window": 3, "decay": 0.7, "popularity": 1e-6}, (0.05440, 0.03146, 0.07240, 0.03600)),
    ("item_knn", {"shrink": 10.0, "decay": 0.7, "popularity": 1e-6}, (0.05206, 0.02792, 0.07444, 0.03357)),
    ("item_knn", {"similarity": "bm25", "decay": 0.8, "popularity": 1e-6}, (0.05188, 0.02790, 0.07310, 0.03328)),
  ],
)
def test_models_computed_at_once_score_what_was_measured_apart(split, model, options, figures):
  fitted = models.create(model, num_items=split.num_items, **options)
  fitted.fit(split.train)
  assert _figures_with_the_lowest_id_first(fitted, split, "test") == pytest.approx(figures, abs=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_of_batches_holds_every_training_position(split, packed):
  batches = TrainBatches(split, Layout.of(10, packed=packed), batch_size=120, seed=0)
  assert batches.steps_per_epoch == 417
  held = [batches.batch(step) for step in range(417)]
  assert sum(int(batch.weights.sum()) for batch in held) == 189_511
  assert sum(int(batch.counts.sum()) for batch in held) == 239_511
  distinct = np.mean([(batch.items != 0).sum() for batch in held[:-1]])
  assert distinct == pytest.approx(552, abs=3)
  assert len({(batch.items.shape, batch.weights.shape) for batch in held}) <= 4
