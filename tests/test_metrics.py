import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import metrics
from mlrec import rows_in_lines
from mlrec.metrics import MISS
from mlrec.metrics import target_ranks
from mlrec.rows_in_lines import RowsInLines

_CHUNKS = (1, 7, 100, 512, 10**6)


def _brute_force(states, items, targets, seen) -> np.ndarray:
  """1 + the candidates that score higher + the other candidates tied with the target, by loops over users."""
  ranks = []
  for state, target, excluded in zip(states, targets, seen):
    scores = items.astype(np.float64) @ state.astype(np.float64)
    candidates = np.ones(len(items), bool)
    candidates[0] = False
    candidates[excluded] = False
    if not candidates[target]:
      ranks.append(MISS)
      continue
    candidates[target] = False
    ranks.append(1 + int((scores[candidates] >= scores[target]).sum()))
  return np.array(ranks)


def _tied_case(num_users: int, num_items: int, seed: int = 0, dim: int = 5, excluded: int = 9):
  """Small whole numbers, whose float32 scores are exact and tie often; some targets are among the seen."""
  rng = np.random.default_rng(seed)
  states = rng.integers(-2, 3, (num_users, dim)).astype(np.float32)
  items = rng.integers(-2, 3, (num_items + 1, dim)).astype(np.float32)
  items[0] = 9  # would score high if it were a candidate
  targets = rng.integers(1, num_items + 1, num_users)
  seen = rng.integers(0, num_items + 1, (num_users, excluded))
  seen[:, 1] = seen[:, 0]  # repeats
  seen[:, 2] = 0  # filler
  seen[::10, 3] = targets[::10]
  return states, items, targets, seen


@pytest.mark.parametrize("chunk", _CHUNKS)
def test_ranks_equal_a_count_by_hand_among_many_ties(chunk):
  states, items, targets, seen = _tied_case(300, 1300)
  wanted = _brute_force(states, items, targets, seen)
  assert (wanted == MISS).sum() >= 30
  scores = states @ items.T
  tied = (scores[:, 1:] == scores[np.arange(300), targets][:, None]).sum(axis=1) - 1
  assert np.median(tied) > 20
  ranks = target_ranks(states, items, targets=targets, seen=seen, chunk=chunk)
  assert ranks.dtype == jnp.int32
  np.testing.assert_array_equal(ranks, wanted)


@pytest.mark.parametrize(
  ("num_users", "num_items"), [(1, 1), (3, 2), (128, 511), (129, 512), (127, 513), (256, 1023), (5, 1024)]
)
def test_ranks_are_right_at_the_edges_of_tiles(num_users, num_items):
  states, items, targets, seen = _tied_case(num_users, num_items, seed=num_items, excluded=4)
  targets[-1] = num_items
  wanted = _brute_force(states, items, targets, seen)
  np.testing.assert_array_equal(target_ranks(states, items, targets=targets, seen=seen), wanted)


def test_golden_ranks_and_metrics(golden):
  arrays = golden("eval_metrics")
  seen = np.maximum(arrays["history"], 0)
  targets = arrays["target"]
  ranks = np.asarray(
    target_ranks(arrays["user_embeddings"], arrays["item_embeddings"], targets=targets, seen=seen, chunk=64)
  )
  missed = np.array([target in history for target, history in zip(targets, seen)])
  assert np.flatnonzero(missed).tolist() == [7, 57, 107, 157]
  assert (ranks[missed] > 20).all()
  np.testing.assert_array_equal(ranks[~missed], arrays["rank"][~missed])
  np.testing.assert_array_equal(ranks <= 10, arrays["hit10_each"] == 1)
  assert float(metrics.hit_rate(ranks, 10)) == pytest.approx(float(arrays["hit10"]), abs=1e-7)
  assert float(metrics.ndcg(ranks, 10)) == pytest.approx(float(arrays["ndcg10"]), abs=1e-6)
  assert float(metrics.hit_rate(ranks, 20)) == pytest.approx(float(arrays["hit20_derived"]), abs=1e-7)
  assert float(metrics.ndcg(ranks, 20)) == pytest.approx(float(arrays["ndcg20_derived"]), abs=1e-6)
  each = [float(metrics.ndcg(ranks[n : n + 1], 10)) for n in range(len(ranks))]
  np.testing.assert_allclose(each, arrays["ndcg10_each"], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_a_collapsed_model_earns_nothing(value):
  rng = np.random.default_rng(0)
  states, items = np.full((50, 3), 0.3, np.float32), np.full((901, 3), value, np.float32)
  targets = rng.integers(1, 901, 50)
  seen = np.zeros((50, 4), int)
  seen[:, 0] = targets % 900 + 1
  ranks = target_ranks(states, items, targets=targets, seen=seen)
  assert (ranks == 899).all(), "the target is last among 899 candidates"
  assert float(metrics.hit_rate(ranks, 20)) == 0
  assert float(metrics.ndcg(ranks, 20)) == 0


def test_a_model_collapsed_onto_real_vectors_earns_nothing():
  rng = np.random.default_rng(1)
  states = rng.normal(size=(130, 48)).astype(np.float32)
  items = np.tile(rng.normal(size=48).astype(np.float32), (1500, 1))
  targets = rng.integers(1, 1500, 130)
  ranks = target_ranks(states, items, targets=targets, seen=np.zeros((130, 1), int), chunk=700)
  assert (ranks == 1499).all()


@pytest.fixture(scope="module")
def real_valued():
  rng = np.random.default_rng(2)
  states = rng.normal(size=(300, 33)).astype(np.float32)
  items = rng.normal(size=(1501, 33)).astype(np.float32)
  # Half of the items are a rounding error from another, so that another order of summation would move ranks.
  items[751:] = items[1:751] * (1 + np.float32(1.2e-7) * rng.integers(-1, 2, (750, 1)).astype(np.float32))
  return states, items, rng.integers(1, 1501, 300), rng.integers(0, 1501, (300, 12))


def test_ranks_of_real_scores_do_not_depend_on_the_chunk(real_valued):
  states, items, targets, seen = real_valued
  results = [np.asarray(target_ranks(states, items, targets=targets, seen=seen, chunk=chunk)) for chunk in _CHUNKS]
  for ranks in results[1:]:
    np.testing.assert_array_equal(ranks, results[0])
  brute = _brute_force(states, items, targets, seen)
  assert np.array_equal(brute == MISS, results[0] == MISS)
  here = brute != MISS
  assert np.abs(brute[here] - results[0][here]).max() <= 1, "only the near-tie of the target may fall otherwise"


def test_ranks_of_real_scores_do_not_depend_on_the_other_users(real_valued):
  states, items, targets, seen = real_valued
  whole = np.asarray(target_ranks(states, items, targets=targets, seen=seen))
  rng = np.random.default_rng(3)
  for users in (rng.permutation(300), np.arange(37), np.array([299]), np.arange(100, 229), np.full(140, 7)):
    part = target_ranks(states[users], items, targets=targets[users], seen=seen[users])
    np.testing.assert_array_equal(part, whole[users])


def test_ranks_do_not_depend_on_the_width_or_order_of_the_seen(real_valued):
  states, items, targets, seen = real_valued
  whole = np.asarray(target_ranks(states, items, targets=targets, seen=seen))
  wider = np.concatenate([np.zeros((300, 5), int), seen[:, ::-1], seen[:, :3]], axis=1)
  np.testing.assert_array_equal(target_ranks(states, items, targets=targets, seen=wider), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("where", ["states", "items"])
def test_scores_that_are_not_finite_are_refused(where, value):
  states, items, targets, seen = _tied_case(5, 20)
  (states if where == "states" else items)[3, 2] = value
  with pytest.raises(ValueError, match="not finite"):
    target_ranks(states, items, targets=targets, seen=seen)


@pytest.mark.parametrize("target", [-1, 0, 21, 10**6])
def test_targets_that_are_no_items_are_refused(target):
  states, items, targets, seen = _tied_case(5, 20)
  targets[2] = target
  with pytest.raises(ValueError, match="1 to 20"):
    target_ranks(states, items, targets=targets, seen=seen)


def test_a_chunk_holds_at_least_one_item():
  states, items, targets, seen = _tied_case(5, 20)
  with pytest.raises(ValueError, match="chunk"):
    target_ranks(states, items, targets=targets, seen=seen, chunk=0)


def test_no_users_have_no_ranks():
  _, items, _, _ = _tied_case(5, 20)
  none = np.zeros(0, int)
  assert target_ranks(np.zeros((0, 5), np.float32), items, targets=none, seen=np.zeros((0, 3), int)).shape == (0,)


@pytest.fixture(params=[False, True], ids=["kept", "computed again"])
def in_blocks(request, monkeypatch):
  """Scores of the best blocks are those that were kept of a small catalogue, and computed again of a large one."""
  if request.param:
    monkeypatch.setattr(metrics, "_MANY_ROWS", 0)
    metrics.rank_and_recommend.clear_cache()
  yield request.param
  if request.param:
    metrics.rank_and_recommend.clear_cache()


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("chunk", [512, 10**6])
def test_recommended_items_are_the_best_unseen_ones(chunk):
  rng = np.random.default_rng(5)
  states = rng.normal(size=(150, 8)).astype(np.float32)
  items = rng.normal(size=(1401, 8)).astype(np.float32)
  items[0] *= 100
  targets = rng.integers(1, 1401, 150)
  scores = (states.astype(np.float64) @ items.T.astype(np.float64)).copy()
  best = np.argsort(-scores, axis=1)
  seen = np.concatenate([best[:, [0, 3, 4, 4]], np.zeros((150, 2), int)], axis=1)  # excludes items that would be chosen
  scores[:, 0] = -np.inf
  np.put_along_axis(scores, seen, -np.inf, axis=1)
  wanted = np.argsort(-scores, axis=1)[:, :10]
  ranks, recommended, finite = metrics.rank_and_recommend(
    states, items, jnp.asarray(targets), jnp.asarray(seen), chunk=chunk
  )
  assert bool(finite)
  np.testing.assert_array_equal(recommended, wanted)
  np.testing.assert_array_equal(ranks, target_ranks(states, items, targets=targets, seen=seen))
  for user in range(150):
    if ranks[user] <= 10:
      assert recommended[user, ranks[user] - 1] == targets[user]


@pytest.mark.usefixtures("in_blocks")
def test_recommended_items_are_the_best_where_scores_tie():
  states, items, targets, seen = _tied_case(140, 1200, seed=8)
  _, recommended, _ = metrics.rank_and_recommend(states, items, jnp.asarray(targets), jnp.asarray(seen), chunk=512)
  scores = states @ items.T
  scores[:, 0] = -np.inf
  np.put_along_axis(scores, seen, -np.inf, axis=1)
  got = np.take_along_axis(scores, np.asarray(recommended), axis=1)
  np.testing.assert_array_equal(got, -np.sort(-scores, axis=1)[:, :10])
  assert all(len(set(row)) == 10 for row in np.asarray(recommended).tolist())
  # Of equal ones the lowest id comes first.
  np.testing.assert_array_equal(recommended, np.argsort(-scores, axis=1, kind="stable")[:, :10])


@pytest.mark.usefixtures("in_blocks")
def test_lists_are_filled_with_nothing_where_candidates_run_out():
  states, items, targets, seen = _tied_case(6, 7, excluded=4)
  seen[:] = [3, 5, 0, 0]
  targets[:] = 1
  _, recommended, _ = metrics.rank_and_recommend(states, items, jnp.asarray(targets), jnp.asarray(seen), chunk=512)
  for row in np.asarray(recommended):
    assert sorted(row[:5]) == [1, 2, 4, 6, 7]
    assert (row[5:] == 0).all()


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("rows", [1401, 2048])
def test_a_table_in_lines_is_ranked_as_it_is_in_rows(rows):
  rng = np.random.default_rng(6)
  states, items = (rng.normal(size=(number, 8)).astype(np.float32) for number in (150, rows))
  targets, seen = jnp.asarray(rng.integers(1, rows, 150)), jnp.asarray(rng.integers(0, rows, (150, 4)))
  lines = RowsInLines(rows_in_lines.laid(jnp.asarray(items), 32), 8)
  options = {"chunk": 1024, "num_rows": rows}
  wanted = metrics.rank_and_recommend(states, items, targets, seen, **options)
  got = metrics.rank_and_recommend(states, lines, targets, seen, **options)
  jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_scores_of_a_table_in_lines_are_told_where_they_are_not_finite():
  items = jnp.ones((7, 8)).at[6, 7].set(jnp.inf)
  lines = RowsInLines(rows_in_lines.laid(items, 32), 8)
  one = jnp.ones(1, jnp.int32)
  assert not metrics.rank_and_recommend(jnp.ones((1, 8)), lines, one, one[:, None] * 0, chunk=512, num_rows=7)[2]


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_hit_rate_ndcg_and_mrr_by_hand(kind):
  ranks = kind(np.array([1, 2, 10, 11, 20, 21, MISS], np.int32))
  assert float(metrics.hit_rate(ranks, 10)) == pytest.approx(3 / 7)
  assert float(metrics.hit_rate(ranks, 20)) == pytest.approx(5 / 7)
  at_10 = 1 + 1 / np.log2(3) + 1 / np.log2(11)
  assert float(metrics.ndcg(ranks, 10)) == pytest.approx(at_10 / 7, rel=1e-6)
  assert float(metrics.ndcg(ranks, 20)) == pytest.approx((at_10 + 1 / np.log2(12) + 1 / np.log2(21)) / 7, rel=1e-6)
  reciprocal = 1 + 1 / 2 + 1 / 10 + 1 / 11 + 1 / 20 + 1 / 21
  assert float(metrics.mean_reciprocal_rank(ranks)) == pytest.approx(reciprocal / 7, rel=1e-6)


def test_report_names_both_cutoffs():
  figures = metrics.ranking_metrics(np.array([1, 15, 300], np.int32))
  assert figures == {
    "hr@10": pytest.approx(1 / 3),
    "ndcg@10": pytest.approx(1 / 3),
    "hr@20": pytest.approx(2 / 3),
    "ndcg@20": pytest.approx((1 + 1 / 4) / 3),
    "mrr": pytest.approx((1 + 1 / 15 + 1 / 300) / 3, rel=1e-6),
  }


def test_buckets_by_training_count_by_hand():
  counts = np.array([0, 0, 1, 5, 6, 20, 21, 51, 400])
  ranks = np.array([1, 30, 10, 3, 11, 12, 1, 2, 3], np.int32)
  figures = metrics.bucket_metrics(ranks, counts)
  sizes = {key: value for key, value in figures.items() if key.endswith("/targets")}
  assert sizes == {
    "cold/targets": 2,
    "count_1-5/targets": 2,
    "count_6-20/targets": 2,
    "count_21-50/targets": 1,
    "count_51+/targets": 2,
  }
  assert figures["cold/hr@10"] == 0.5
  assert figures["cold/ndcg@10"] == pytest.approx(0.5)
  assert figures["count_1-5/hr@10"] == 1
  assert figures["count_1-5/ndcg@10"] == pytest.approx((1 / np.log2(11) + 1 / 2) / 2, rel=1e-6)
  assert figures["count_6-20/hr@10"] == 0
  assert figures["count_21-50/ndcg@10"] == 1
  assert figures["count_51+/ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / 2) / 2, rel=1e-6)


def test_empty_buckets_have_their_size_alone():
  figures = metrics.bucket_metrics(np.array([4], np.int32), np.array([3]), edges=(10,))
  assert figures == {
    "cold/targets": 0,
    "count_1-10/targets": 1,
    "count_1-10/hr@10": 1,
    "count_1-10/ndcg@10": pytest.approx(1 / np.log2(5), rel=1e-6),
    "count_11+/targets": 0,
  }


def test_coverage_counts_items_that_some_list_holds():
  assert metrics.coverage(np.array([[1, 2, 3], [3, 2, 0]]), 12) == 0.25
  assert metrics.coverage(np.array([[0, 0]]), 12) == 0
  assert metrics.coverage(np.array([[1, 2], [3, 4]]), 4) == 1


@pytest.mark.parametrize("user", ["sasrec", "gru4rec"])
def test_ranks_are_the_same_on_one_and_eight_devices(user, eight_devices):
  eight_devices.call("ranking:ranks_agree", user)
