"""Exact full ranking by scores that are no dot products."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import metrics
from mlrec import metrics_on_host
from mlrec.metrics import MISS

_CHUNKS = (1, 512, 700, 10**6)


def nearness(states, items):
  """Minus the squared distance of places, and a bias: `[T, B]` for items `(places [T, D], bias [T])`."""
  (users, lean), (places, bias) = states, items
  return bias[:, None] * lean[None] - jnp.sum((places[:, None] - users[None]) ** 2, axis=-1)


def _case(num_users: int, num_items: int, seed: int = 0):
  """Whole numbers, whose float32 scores are exact and tie often; some targets are among the seen."""
  rng = np.random.default_rng(seed)
  users, lean = rng.integers(-3, 4, (num_users, 3)), rng.integers(0, 3, num_users)
  places, bias = rng.integers(-3, 4, (num_items + 1, 3)), rng.integers(-4, 5, num_items + 1)
  bias[0] = 99  # would score high if it were a candidate
  targets = rng.integers(1, num_items + 1, num_users)
  seen = rng.integers(0, num_items + 1, (num_users, 6))
  seen[:, 1] = seen[:, 0]
  seen[::10, 2] = targets[::10]
  as_floats = [x.astype(np.float32) for x in (users, lean, places, bias)]
  return (as_floats[0], as_floats[1]), (as_floats[2], as_floats[3]), jnp.asarray(targets), jnp.asarray(seen)


def _by_hand(states, items, targets, seen, score):
  """Ranks by loops, and the scores `[B, N + 1]` of candidates, -inf for all others."""
  (users, lean), (places, bias) = states, items
  ranks, left = [], []
  for user, target in enumerate(np.asarray(targets)):
    scores = np.array([score(users[user], lean[user], places[n], bias[n]) for n in range(len(places))])
    excluded = {0, *np.asarray(seen)[user].tolist()}
    rivals = [n for n in range(len(places)) if n not in excluded and n != target]
    ranks.append(MISS if target in excluded else 1 + sum(bool(scores[n] >= scores[target]) for n in rivals))
    scores[list(excluded)] = -np.inf
    left.append(scores)
  return np.array(ranks), np.array(left)


def _nearness_of_one(user, lean, place, bias):
  return float(bias) * float(lean) - sum((float(a) - float(b)) ** 2 for a, b in zip(place, user))


@functools.cache
def _wanted(num_users, num_items):
  case = _case(num_users, num_items)
  return case, *_by_hand(*case, _nearness_of_one)


@pytest.mark.parametrize("chunk", _CHUNKS)
def test_ranks_of_another_score_equal_a_count_by_hand_among_ties(chunk):
  case, wanted, left = _wanted(140, 1100)
  assert (wanted == MISS).sum() >= 14
  tied = (left == np.take_along_axis(left, np.asarray(case[2])[:, None], axis=1)).sum(axis=1) - 1
  assert np.median(tied[wanted != MISS]) > 10
  ranks, recommended, finite = metrics.rank_and_recommend(*case, chunk=chunk, score=nearness)
  assert bool(finite)
  np.testing.assert_array_equal(ranks, wanted)
  recommended = np.asarray(recommended)
  assert all(len(set(row)) == metrics.LIST_LENGTH for row in recommended.tolist())
  np.testing.assert_array_equal(np.take_along_axis(left, recommended, axis=1), -np.sort(-left, axis=1)[:, :10])


@pytest.mark.parametrize(("num_users", "num_items"), [(1, 1), (3, 511), (129, 512)])
def test_ranks_of_another_score_are_right_at_the_edges_of_tiles(num_users, num_items):
  case, wanted, _ = _wanted(num_users, num_items)
  ranks, _, finite = metrics.rank_and_recommend(*case, chunk=512, length=0, score=nearness)
  assert bool(finite)
  np.testing.assert_array_equal(ranks, wanted)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_target_is_no_rival_of_its_own_whatever_its_score_as_a_candidate(sign):
  """A score that depends on the place in the tile: no rounding of a real one is as bad."""

  def unsteady(states, items):
    return nearness(states, items) + sign * jnp.arange(metrics.ITEM_TILE)[:, None] / 2048

  case = _case(140, 900)
  (users, _), items, targets, seen = case
  # One place, and scores a whole number apart: the shift moves no item past another.
  states = (users, np.zeros(140, np.float32))
  ranks, _, _ = metrics.rank_and_recommend(states, items, targets, seen, chunk=512, length=0, score=unsteady)
  _, left = _by_hand(states, items, targets, seen, _nearness_of_one)
  at = np.asarray(targets)[:, None]
  mine = np.take_along_axis(left, at, axis=1)
  np.put_along_axis(left, at, -np.inf, axis=1)
  excluded = np.isneginf(mine[:, 0])
  above, level = (left > mine).sum(axis=1), (left == mine).sum(axis=1)
  found = np.asarray(ranks)
  assert (found[excluded] == MISS).all()
  assert ((found >= 1 + above) & (found <= 1 + above + level))[~excluded].all()
  best = (above == 0) & (level == 0) & ~excluded
  assert (found[best] == 1).all()


def test_each_users_best_item_ranks_first_by_an_unsteady_score():
  def unsteady(states, items):
    return -jnp.abs(items[:, None] - states[None]) + jnp.arange(metrics.ITEM_TILE)[:, None] / 2048

  places = np.arange(701, dtype=np.float32)
  targets = jnp.arange(1, 701)
  ranks, _, _ = metrics.rank_and_recommend(
    places[1:], places, targets, jnp.zeros((700, 1), int), chunk=512, length=0, score=unsteady
  )
  assert (np.asarray(ranks) == 1).all()


def _cosine(states, items):
  return (items @ states.T) / (jnp.linalg.norm(items, axis=-1)[:, None] * jnp.linalg.norm(states, axis=-1))


def _added(states, items):
  return items + states


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("item", [1, 600, 700])
def test_another_score_that_is_not_finite_is_flagged(value, item):
  table = np.zeros((701, 1), np.float32)
  arguments = (jnp.ones(3, int), jnp.zeros((3, 1), int))
  states = np.zeros(3, np.float32)
  assert bool(metrics.rank_and_recommend(states, table, *arguments, chunk=512, score=_added)[2])
  table[item] = value
  assert not bool(metrics.rank_and_recommend(states, table, *arguments, chunk=512, score=_added)[2])
  states[1] = np.nan
  table[item] = 0
  assert not bool(metrics.rank_and_recommend(states, table, *arguments, chunk=512, score=_added)[2])


def test_a_cosine_may_be_undefined_for_the_padding_item_and_for_no_one():
  rng = np.random.default_rng(0)
  table = rng.normal(size=(601, 4)).astype(np.float32)
  table[0] = 0
  states, targets = rng.normal(size=(5, 4)).astype(np.float32), rng.integers(1, 601, 5)
  ranks, recommended, finite = metrics.rank_and_recommend(
    states, table, jnp.asarray(targets), jnp.zeros((5, 1), int), chunk=512, score=_cosine
  )
  assert bool(finite)
  unit = table[1:].astype(np.float64) / np.linalg.norm(table[1:].astype(np.float64), axis=1, keepdims=True)
  scores = states @ unit.T
  np.testing.assert_array_equal(ranks, 1 + (scores > scores[np.arange(5), targets - 1][:, None]).sum(axis=1))
  np.testing.assert_array_equal(recommended, 1 + np.argsort(-scores, axis=1)[:, :10])


@pytest.mark.parametrize(("num_users", "num_items"), [(140, 1100), (1, 1), (3, 511)])
def test_scores_on_the_host_are_ranked_by_the_same_rule(num_users, num_items):
  (states, items, targets, seen), wanted, left = _wanted(num_users, num_items)
  scores = np.asarray(nearness(states, items)).T.copy()
  ranks, recommended = metrics_on_host.rank_scores(scores, np.asarray(targets), np.asarray(seen))
  assert ranks.dtype == recommended.dtype == np.int32
  np.testing.assert_array_equal(ranks, wanted)
  for user, row in enumerate(left):
    order = [item for item in np.argsort(-row, kind="stable") if row[item] > -np.inf][: metrics.LIST_LENGTH]
    assert recommended[user].tolist() == order + [0] * (metrics.LIST_LENGTH - len(order)), "of equals the lowest id"


def test_a_matrix_of_equal_scores_earns_nothing():
  targets, seen = np.arange(1, 31), np.zeros((30, 2), int)
  ranks, recommended = metrics_on_host.rank_scores(np.ones((30, 31), np.float32), targets, seen)
  assert (ranks == 30).all()
  assert (recommended == np.arange(1, 11)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_matrix_of_scores_that_are_not_finite_is_refused(value):
  def rank(item):
    scores = np.zeros((3, 8), np.float32)
    scores[2, item] = value
    return metrics_on_host.rank_scores(scores, np.array([1, 2, 3]), np.zeros((3, 1), int))

  with pytest.raises(ValueError, match="not finite"):
    rank(5)
  assert rank(0)[0].tolist() == [7, 7, 7], "the padding's score means nothing"


def test_a_recommender_of_another_score_is_ranked_alike_on_one_and_eight_devices(eight_devices):
  eight_devices.call("ranking:other_scores_agree")
