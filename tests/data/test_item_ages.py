"""Ages of items by the order of histories."""

import numpy as np
from scipy.stats import spearmanr

from mlrec.data.interactions import Rows
from mlrec.data.item_ages import item_ages


def _rows(*lists):
  return Rows.from_lists([list(row) for row in lists])


def test_ages_are_the_least_squares_solution_over_adjacent_pairs():
  rows, number = _rows((1, 2, 3), (2, 4), (1, 4, 3), (5, 1)), 5
  pairs = [(1, 2), (2, 3), (2, 4), (1, 4), (4, 3), (5, 1)]
  system = np.zeros((len(pairs) + number, number))
  for row, (before, after) in enumerate(pairs):
    system[row, after - 1], system[row, before - 1] = 1, -1
  # The pull to 0 weighs half as much as a pair.
  system[len(pairs) :] = np.eye(number) * np.sqrt(0.5)
  solved = np.linalg.lstsq(system, np.r_[np.ones(len(pairs)), np.zeros(number)])[0]
  watched = solved[rows.values - 1]
  np.testing.assert_allclose(item_ages(rows, number)[1:], (solved - watched.mean()) / watched.std(), atol=1e-3)


def test_the_order_of_hidden_times_is_found():
  rng = np.random.default_rng(0)
  times = rng.normal(size=300)
  rows = []
  for _ in range(2000):
    # A user comes at some time, and watches what is new then.
    near = rng.choice(300, 5, replace=False, p=(weights := np.exp(-8 * (times - rng.normal()) ** 2)) / weights.sum())
    rows.append(near[np.argsort(times[near])] + 1)
  assert spearmanr(item_ages(_rows(*rows), 300)[1:], times)[0] > 0.95


def test_items_that_training_never_names_are_new_and_the_padding_is_zero():
  ages = item_ages(_rows((1, 2, 3, 4), (2, 3, 4, 1), (1, 3, 4)), 6)
  assert ages[0] == 0
  assert ages[5] == ages[6] >= np.sort(ages[1:5])[-2]
  np.testing.assert_array_equal(item_ages(_rows((), ()), 3), np.zeros(4))


def test_ages_have_mean_zero_and_variance_one_over_the_interactions():
  rng = np.random.default_rng(1)
  rows = _rows(*(rng.choice(20, 6, replace=False) + 1 for _ in range(50)))
  watched = item_ages(rows, 20)[rows.values]
  np.testing.assert_allclose([watched.mean(), watched.std()], [0, 1], atol=1e-5)
