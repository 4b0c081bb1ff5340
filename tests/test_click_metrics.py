"""Click-through metrics against what they say, pair by pair and bin by bin."""

import itertools
import math

import numpy as np
import pytest

from mlrec import click_metrics
from mlrec.files import finite


def _drawn(seed, number=60, levels=7):
  """Scores with many ties, labels, and users of few impressions each."""
  rng = np.random.default_rng(seed)
  scores = rng.integers(0, levels, number) / 2 - 1.5
  return scores.astype(np.float32), rng.integers(0, 2, number), rng.integers(0, 9, number) * 100


def _auc(scores, labels):
  """Of all pairs of a click and another impression; None where there are none."""
  worth = [
    1.0 if click > other else 0.5 if click == other else 0.0
    for (click, yes), (other, no) in itertools.product(zip(scores, labels), repeat=2)
    if yes and not no
  ]
  return sum(worth) / len(worth) if worth else None


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_order_with_ties_at_half(seed):
  scores, labels, users = _drawn(seed)
  assert click_metrics.auc(scores, labels) == pytest.approx(_auc(scores, labels), abs=1e-12)
  parts = [(_auc(scores[users == user], labels[users == user]), (users == user).sum()) for user in np.unique(users)]
  parts = [(part, size) for part, size in parts if part is not None]
  wanted = sum(part * size for part, size in parts) / sum(size for _, size in parts)
  assert click_metrics.grouped_auc(scores, labels, users) == pytest.approx(wanted, abs=1e-12)


def test_auc_of_scores_without_ties_and_of_one_score():
  assert click_metrics.auc(np.arange(6), np.array([0, 0, 0, 1, 1, 1])) == 1.0
  assert click_metrics.auc(-np.arange(6), np.array([0, 0, 0, 1, 1, 1])) == 0.0
  assert click_metrics.auc(np.zeros(6), np.array([0, 1, 0, 1, 1, 1])) == 0.5


def test_a_grouped_auc_does_not_see_how_likely_users_click():
  # Within each user the order is right; the one who clicks less has the higher scores.
  scores, labels, users = np.array([1.0, 2.0, 11.0, 12.0, 13.0]), np.array([0, 1, 0, 0, 1]), np.array([1, 1, 2, 2, 2])
  assert click_metrics.grouped_auc(scores, labels, users) == 1.0
  assert click_metrics.auc(scores, labels) < 1.0


@pytest.mark.parametrize("seed", range(3))
def test_log_loss_and_calibration_are_those_of_the_probabilities(seed):
  scores, labels, _ = _drawn(seed)
  predicted = [1 / (1 + math.exp(-score)) for score in scores.tolist()]
  losses = [-math.log(p if label else 1 - p) for p, label in zip(predicted, labels)]
  assert click_metrics.log_loss(scores, labels) == pytest.approx(np.mean(losses), rel=1e-12)
  assert click_metrics.calibration(scores, labels) == pytest.approx(sum(predicted) / labels.sum(), rel=1e-12)
  error = 0.0
  for low in range(click_metrics.BINS):
    inside = [
      n for n, p in enumerate(predicted) if low / click_metrics.BINS < p <= (low + 1) / click_metrics.BINS
    ]  # fmt: skip
    if inside:
      gap = np.mean([predicted[n] for n in inside]) - np.mean(labels[inside])
      error += len(inside) / len(labels) * abs(gap)
  assert click_metrics.expected_calibration_error(scores, labels) == pytest.approx(error, abs=1e-12)


def test_probabilities_that_are_right_are_calibrated_and_others_are_not():
  rng = np.random.default_rng(0)
  scores = rng.normal(size=200_000)
  labels = rng.random(len(scores)) < click_metrics.probabilities(scores)
  assert click_metrics.expected_calibration_error(scores, labels) < 0.01
  assert click_metrics.calibration(scores, labels) == pytest.approx(1, abs=0.01)
  assert click_metrics.expected_calibration_error(scores + 1, labels) > 0.1
  assert click_metrics.calibration(scores + 1, labels) > 1.2


def test_large_scores_are_no_overflow():
  scores, labels = np.array([1e4, -1e4, 1e4], np.float32), np.array([1, 0, 0])
  with np.errstate(all="raise", under="ignore"):
    assert click_metrics.log_loss(scores, labels) == pytest.approx(1e4 / 3)
    assert click_metrics.probabilities(scores).tolist() == [1.0, 0.0, 1.0]


def test_what_is_not_defined_is_never_written_as_a_number():
  found = click_metrics.all_metrics(np.ones(3), np.zeros(3, int), np.arange(3))
  assert {name for name, value in found.items() if math.isnan(value)} == {"auc", "gauc", "calibration"}
  assert finite(found)["auc"] is None
  assert found["click_rate"] == 0
  nothing = click_metrics.all_metrics(np.empty(0), np.empty(0, int), np.empty(0, int))
  assert finite(nothing) == dict.fromkeys(nothing, None) | {"impressions": 0.0}
