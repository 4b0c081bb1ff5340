"""Paired bootstrap and Holm's correction against their plain statements and known answers."""

import numpy as np
import pytest
from scipy import stats

from mlrec.runs.report import statistics


def columns(*gains) -> np.ndarray:
  return np.stack([np.asarray(one, np.float64) for one in gains], axis=1)


def test_systems_that_are_alike_differ_by_nothing_with_p_of_1():
  gains = np.random.default_rng(0).random(50)
  (found,) = statistics.paired_bootstrap(columns(gains, gains), [(0, 1)])
  assert found == (0, 0, 0, 1)


def test_a_gain_of_every_user_is_certain():
  gains = np.random.default_rng(0).random(50)
  (found,) = statistics.paired_bootstrap(columns(gains + 0.25, gains), [(0, 1)], resamples=999)
  assert found.p == pytest.approx(1 / 1000)
  assert found[:3] == pytest.approx((0.25, 0.25, 0.25))


def test_p_is_that_of_the_binomial_where_it_is_known():
  # 55 users for the first, 45 for the second: a draw has a binomial number of the former.
  first = np.repeat([1.0, 0.0], [55, 45])
  (found,) = statistics.paired_bootstrap(columns(first, 1 - first), [(0, 1)])
  drawn = stats.binom(100, 0.55)
  known = drawn.cdf(50) + drawn.sf(59)
  assert found.p == pytest.approx(known, abs=4 * np.sqrt(known * (1 - known) / statistics.RESAMPLES))
  assert found.mean == pytest.approx(0.1)
  ends = 2 * drawn.ppf([0.025, 0.975]) / 100 - 1
  assert (found.low, found.high) == pytest.approx(tuple(ends), abs=0.021)


def test_interval_and_p_are_those_of_users_drawn_one_by_one():
  rng = np.random.default_rng(1)
  gains = columns(rng.choice([0, 0.3, 1], 80, p=[0.7, 0.2, 0.1]), rng.choice([0, 0.5], 80, p=[0.8, 0.2]))
  (found,) = statistics.paired_bootstrap(gains, [(0, 1)])
  difference = gains[:, 0] - gains[:, 1]
  drawn = difference[rng.integers(80, size=(20_000, 80))].mean(axis=1)
  assert found.mean == pytest.approx(difference.mean())
  np.testing.assert_allclose((found.low, found.high), np.quantile(drawn, [0.025, 0.975]), atol=0.006)
  plain = (np.abs(drawn - difference.mean()) >= abs(difference.mean()) - 1e-12).mean()
  assert found.p == pytest.approx(plain, abs=0.02)


def test_where_there_is_no_difference_few_are_found():
  rng = np.random.default_rng(2)
  p = []
  for seed in range(200):
    (found,) = statistics.paired_bootstrap(rng.choice([0.0, 0.5, 1.0], (100, 2)), [(0, 1)], resamples=400, seed=seed)
    p.append(found.p)
  assert 0.01 < np.mean(np.array(p) < 0.05) < 0.11


@pytest.mark.parametrize("cost", [0, 1e9])
def test_draws_of_users_and_of_counts_are_of_one_distribution(cost, monkeypatch):
  monkeypatch.setattr(statistics, "_COUNT_COST", cost)
  gains = columns(np.repeat([1.0, 0.0, 0.5], [30, 40, 30]), np.tile([0.0, 1.0], 50))
  found = statistics.paired_bootstrap(gains, [(0, 1)])[0]
  spread = np.std(gains[:, 0] - gains[:, 1]) / 10
  assert found.mean == pytest.approx(-0.05)
  assert (found.low, found.high) == pytest.approx((-0.05 - 1.96 * spread, -0.05 + 1.96 * spread), abs=0.012)
  assert found.p == pytest.approx(2 * stats.norm.sf(0.05 / spread), abs=0.04)


@pytest.mark.parametrize("cost", [0, 1e9])
def test_the_result_depends_on_the_seed_alone_not_on_how_much_is_drawn_at_a_time(cost, monkeypatch):
  monkeypatch.setattr(statistics, "_COUNT_COST", cost)
  gains = np.random.default_rng(3).random((40, 3)).round(1)
  pairs = [(0, 1), (0, 2), (2, 1)]
  whole = statistics.paired_bootstrap(gains, pairs, resamples=200)
  monkeypatch.setattr(statistics, "_CHUNK", 70)
  np.testing.assert_allclose(statistics.paired_bootstrap(gains, pairs, resamples=200), whole, rtol=1e-9)
  assert statistics.paired_bootstrap(gains, pairs, resamples=200, seed=1) != whole
  with pytest.raises(ValueError, match="no users"):
    statistics.paired_bootstrap(gains[:0], pairs)


def test_holms_correction_of_a_worked_example():
  # Sorted: 4 x .005, 3 x .01, 2 x .03, 1 x .04, of which none is below the one before.
  assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
  assert statistics.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
  assert statistics.holm([0.7, 0.8]) == [1, 1]
  assert statistics.holm([0.2]) == [0.2]
  assert statistics.holm([]) == []
