"""Figures of users with several targets, beside their plain statements."""

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mlrec import metrics
from mlrec import metrics_by_user
from support.labelled_logs import mmrec_metrics

_ITEMS = 40


def _flat(ranks: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
  """Ranks of targets, and the user of each, ids not ascending."""
  users = [1000 - n for n, row in enumerate(ranks) for _ in row]
  return np.array([rank for row in ranks for rank in row], np.int32), np.array(users, np.int64)


def _lists(ranks: list[list[int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
  """Lists of items that have targets at these ranks, and the targets; an item at place r is called r."""
  return {n: list(range(1, _ITEMS + 1)) for n in range(len(ranks))}, dict(enumerate(ranks))


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
  ranks=st.lists(
    st.lists(st.integers(1, _ITEMS), min_size=1, max_size=30, unique=True), min_size=1, max_size=5
  )
)  # fmt: skip
def test_recall_and_ndcg_are_those_of_mmrec_s_steps(ranks):
  flat, users = _flat(ranks)
  plain = mmrec_metrics(*_lists(ranks))
  for k in (10, 20):
    assert metrics_by_user.recall(flat, users, k).mean() == pytest.approx(plain[f"recall@{k}"])
    assert metrics_by_user.ndcg(flat, users, k).mean() == pytest.approx(plain[f"ndcg@{k}"])
    assert metrics_by_user.hits(flat, users, k).tolist() == [min(row) <= k for row in ranks]
  assert metrics_by_user.best_ranks(flat, users).tolist() == [min(row) for row in ranks]
  assert metrics_by_user.numbers(users).tolist() == [len(row) for row in ranks]


def test_a_worked_example():
  # Of three targets two are found, first and third; an ideal list has all three.
  flat, users = _flat([[1, 3, 25], [metrics.MISS]])
  ideal = 1 + 1 / np.log2(3) + 1 / 2
  assert metrics_by_user.recall(flat, users, 10).tolist() == [2 / 3, 0]
  np.testing.assert_allclose(metrics_by_user.ndcg(flat, users, 10), [(1 + 1 / 2) / ideal, 0])


def test_targets_of_one_score_stand_one_after_another_and_other_items_before_them():
  # Three items share the places 9 to 11, two of which are targets; a collapsed model has all at the last place.
  flat, users = _flat([[11, 2, 11], [40, 40]])
  plain = mmrec_metrics({0: list(range(20)), 1: list(range(20))}, {0: [9, 1, 10], 1: [98, 99]})
  assert metrics_by_user.recall(flat, users, 10).mean() == pytest.approx(plain["recall@10"])
  assert metrics_by_user.ndcg(flat, users, 20).mean() == pytest.approx(plain["ndcg@20"])
  assert metrics_by_user.best_ranks(flat, users).tolist() == [2, 39]


def test_ranks_that_cannot_be_give_figures_that_can():
  flat, users = _flat([[1, 1, 1]])
  assert 0 <= metrics_by_user.ndcg(flat, users, 10)[0] < 2


def test_with_a_target_each_they_are_the_metrics_of_one():
  ranks = np.array([1, 4, 11, 30, 20, metrics.MISS], np.int32)
  users = np.arange(6)
  recommended, counts = np.ones((6, 10), np.int32), np.array([0, 1, 5, 6, 50, 51])
  one = metrics.all_metrics(ranks, recommended, counts, 40)
  several = metrics_by_user.all_metrics(ranks, recommended, counts, 40, users=users)
  assert several.keys() - one.keys() == {"recall@10", "recall@20"}
  assert {name: several[name] for name in one} == pytest.approx(one, abs=1e-7)
  assert several["recall@10"] == several["hr@10"]
  assert metrics_by_user.all_metrics(ranks, recommended, counts, 40) == one, "bit for bit"
