"""Metrics of lists against their plain statements."""

import itertools

import numpy as np
import pytest

from mlrec.runs.report import lists


@pytest.fixture
def recommended() -> np.ndarray:
  """Lists of 4 of 12 items, some of them short."""
  rng = np.random.default_rng(0)
  found = np.stack([rng.permutation(12)[:4] + 1 for _ in range(30)]).astype(np.int32)
  found[::7, 2:] = 0
  found[found > 9] = 1
  return found


def test_gini_is_half_the_mean_difference_of_shares(recommended):
  counts = [(recommended == item).sum() for item in range(1, 13)]
  assert min(counts) == 0
  differences = sum(abs(a - b) for a, b in itertools.product(counts, counts))
  assert lists.gini(recommended, 12) == pytest.approx(differences / (2 * 12 * 11 * np.mean(counts)))


def test_gini_goes_from_0_for_even_lists_to_1_for_one_item_alone():
  assert lists.gini(np.array([[1, 2], [3, 4]]), 4) == 0
  assert lists.gini(np.array([[2], [2], [2]]), 5) == pytest.approx(1)
  assert lists.gini(np.zeros((3, 2), int), 5) == 0
  assert lists.gini(np.array([[1]]), 1) == 0


def test_novelty_is_the_mean_self_information_of_places(recommended):
  counts = np.array([50, 20, 10, 5, 3, 2, 1, 1, 1, 0, 0, 7])
  bits = [
    -np.log2((counts[item - 1] + 1) / (counts.sum() + 12)) for items in recommended for item in items if item
  ]  # fmt: skip
  assert lists.novelty(recommended, counts) == pytest.approx(np.mean(bits))
  cold, popular = (lists.novelty(np.array([[item]]), counts) for item in (10, 1))
  assert np.isfinite(cold)
  assert cold == pytest.approx(np.log2(112))
  assert cold > popular


def test_diversity_is_the_mean_distance_of_pairs_with_vectors(recommended, monkeypatch):
  vectors = np.random.default_rng(1).normal(size=(13, 5))
  vectors[[3, 6]] = 0
  known = [[item for item in items if item and item not in (3, 6)] for items in recommended]
  cosine = lambda a, b: vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])  # noqa: E731
  of_lists = [
    np.mean([1 - cosine(items[a], items[b]) for a, b in itertools.combinations(range(len(items)), 2)])
    for items in known if len(items) > 1
  ]  # fmt: skip
  assert 0 < len(of_lists) < len(known)
  assert lists.intra_list_diversity(recommended, vectors) == pytest.approx(np.mean(of_lists), abs=1e-6)
  monkeypatch.setattr(lists, "_CHUNK", 7)
  assert lists.intra_list_diversity(recommended, vectors) == pytest.approx(np.mean(of_lists), abs=1e-6)


def test_lists_of_one_direction_have_no_diversity_and_lists_without_vectors_none_to_tell():
  vectors = np.array([[9.0, 9], [1, 2], [2, 4], [0, 0]])
  assert lists.intra_list_diversity(np.array([[1, 2]]), vectors) == pytest.approx(0, abs=1e-6)
  assert lists.intra_list_diversity(np.array([[1, 3], [0, 2]]), vectors) is None
