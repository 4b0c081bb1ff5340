"""The ranking of scores that exist as a matrix on the host."""

import numpy as np
import pytest

from mlrec import metrics
from mlrec import metrics_on_host
from mlrec.metrics import MISS


def _case(num_users: int, num_items: int, *, levels: int = 5, seed: int = 0, excluded: int = 6):
  """Scores of a few whole numbers; some targets are among the seen, of which some are filler or repeated."""
  rng = np.random.default_rng(seed)
  scores = rng.integers(-levels, levels + 1, (num_users, num_items + 1)).astype(np.float32)
  scores[:, 0] = levels + 1  # would be best if it were a candidate
  targets = rng.integers(1, num_items + 1, num_users)
  seen = rng.integers(0, num_items + 1, (num_users, excluded))
  seen[:, 1] = seen[:, 0]
  seen[::4, 2] = targets[::4]
  return scores, targets, seen


def _by_hand(scores, targets, seen, length=metrics.LIST_LENGTH):
  """Ranks and lists by a loop over users and a stable sort of their candidates, the lowest id first."""
  ranks, lists = [], []
  for row, target, excluded in zip(scores, targets, seen):
    candidates = [item for item in range(1, len(row)) if item not in excluded]
    reach = sum(row[item] >= row[target] for item in candidates if item != target)
    ranks.append(1 + reach if target in candidates else MISS)
    best = sorted(candidates, key=lambda item: -row[item])[:length]
    lists.append(best + [0] * (length - len(best)))
  return np.array(ranks), np.array(lists)


# Around the sizes at which blocks are sorted, divide the items evenly, or leave a block of one item.
@pytest.mark.parametrize("num_items", [1, 5, 62, 63, 64, 99, 120, 168, 169, 400, 1023, 1024, 3001])
@pytest.mark.parametrize("levels", [0, 1, 300])
def test_ranks_and_lists_equal_a_stable_sort_among_ties(num_items, levels):
  scores, targets, seen = _case(25, num_items, levels=levels, seed=num_items)
  wanted_ranks, wanted_lists = _by_hand(scores, targets, seen)
  ranks, lists = metrics_on_host.rank_scores(scores, targets, seen)
  assert ranks.dtype == lists.dtype == np.int32
  np.testing.assert_array_equal(ranks, wanted_ranks)
  np.testing.assert_array_equal(lists, wanted_lists)
  assert (ranks[::4] == MISS).all()


def test_lists_of_mostly_equal_scores_hold_the_lowest_ids():
  scores = np.zeros((3, 5001), np.float32)
  scores[1, [4999, 17]] = 1
  scores[2, 5000] = -1
  ranks, lists = metrics_on_host.rank_scores(scores, np.array([7, 17, 5000]), np.array([[1, 2], [0, 3], [0, 0]]))
  np.testing.assert_array_equal(ranks, [4998, 2, 5000])
  assert lists.tolist() == [[*range(3, 13)], [17, 4999, 1, 2, *range(4, 10)], [*range(1, 11)]]


@pytest.mark.parametrize("length", [0, 1, 3, 50])
def test_lists_have_the_length_asked_for(length):
  scores, targets, seen = _case(20, 700, seed=3)
  wanted = _by_hand(scores, targets, seen, length)[1]
  lists = metrics_on_host.rank_scores(scores, targets, seen, length=length)[1]
  np.testing.assert_array_equal(lists, wanted.reshape(20, length))


def test_lists_are_filled_with_nothing_where_candidates_run_out():
  scores = np.arange(8, dtype=np.float32)[None]
  ranks, lists = metrics_on_host.rank_scores(scores, np.array([2]), np.array([[3, 5, 0]]))
  assert lists.tolist() == [[7, 6, 4, 2, 1, 0, 0, 0, 0, 0]]
  assert ranks.tolist() == [4]


def test_ranks_equal_those_of_states_and_vectors():
  rng = np.random.default_rng(4)
  states, items = rng.integers(-2, 3, (130, 5)), rng.integers(-2, 3, (1401, 5))
  states, items = states.astype(np.float32), items.astype(np.float32)
  targets, seen = rng.integers(1, 1401, 130), rng.integers(0, 1401, (130, 9))
  seen[::7, 3] = targets[::7]
  wanted = np.asarray(metrics.target_ranks(states, items, targets=targets, seen=seen))
  np.testing.assert_array_equal(metrics_on_host.rank_scores(states @ items.T, targets, seen)[0], wanted)
  assert (wanted == MISS).sum() == 19


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("item", [1, 250, 300])
def test_scores_that_are_not_finite_are_refused(value, item):
  scores, targets, seen = _case(5, 300)
  scores[3, item] = value
  with pytest.raises(ValueError, match="not finite"):
    metrics_on_host.rank_scores(scores, targets, seen)


def test_the_score_of_the_padding_means_nothing():
  scores, targets, seen = _case(5, 300)
  wanted = metrics_on_host.rank_scores(scores.copy(), targets, seen)
  scores[:, 0] = np.nan
  found = metrics_on_host.rank_scores(scores, targets, seen)
  for part, other in zip(found, wanted):
    np.testing.assert_array_equal(part, other)


def test_scores_near_the_largest_float32_are_finite():
  scores, targets, seen = _case(5, 300)
  wanted = _by_hand(scores, targets, seen)
  ranks, lists = metrics_on_host.rank_scores(scores * np.float32(5e37), targets, seen)
  np.testing.assert_array_equal(ranks, wanted[0])
  np.testing.assert_array_equal(lists, wanted[1])


def test_no_users_have_no_ranks():
  ranks, lists = metrics_on_host.rank_scores(np.zeros((0, 301), np.float32), np.zeros(0, int), np.zeros((0, 3), int))
  assert ranks.shape == (0,)
  assert lists.shape == (0, metrics.LIST_LENGTH)
