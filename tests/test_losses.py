from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import losses
from mlrec.losses import in_batch_softmax

# Fixed sizes, so that one compilation serves all examples.
_ROWS, _SLOTS, _COLUMNS, _DIM = 5, 6, 16, 4
_ITEMS = 9

_value_and_grad = jax.jit(
  jax.value_and_grad(lambda states, items, arguments: in_batch_softmax(states, items, **arguments), argnums=(0, 1))
)


def _random_case(seed: int, **changes):
  """Left-padded rows with repeats within and across them, as slots and as the arguments of the loss."""
  rng = np.random.default_rng(seed)
  rows = np.zeros((_ROWS, _SLOTS), int)
  for row in rows:
    length = rng.integers(0, _SLOTS + 1)
    row[_SLOTS - length :] = rng.integers(1, _ITEMS + 1, length)
  counts = rng.integers(1, 50, _ITEMS + 1)
  log_share = np.log(counts / counts[1:].sum())
  log_share[0] = 0.0
  scale = rng.choice([0.1, 1.0, 4.0])
  states = (scale * rng.normal(size=(_ROWS, _SLOTS - 1, _DIM))).astype(np.float32)
  table = rng.normal(size=(_ITEMS + 1, _DIM)).astype(np.float32)
  weights = (rows[:, :-1] != 0) * (rng.uniform(0.5, 2, (_ROWS, _SLOTS - 1)) if changes.get("weighted") else 1.0)
  return rows, log_share, states, table, weights


def _plain(rows, log_share, states, table, weights):
  """The loss on every slot of the batch and its gradients by `states` and `table`, in float64.

  A row of logits for each position, a column for each slot, whichever item it holds: slots that hold the padding or an
  item of the position's own row are excluded to -10,000, all but the position's label, the slot that follows it.
  """
  num_rows, num_slots = rows.shape
  flat = rows.reshape(-1)
  vectors = table.astype(np.float64)[flat]
  total = np.float64(weights).sum()
  loss, by_state, by_slot = 0.0, np.zeros(states.shape), np.zeros(vectors.shape)
  for u in range(num_rows):
    own = {0, *rows[u].tolist()}
    for t in range(num_slots - 1):
      if not weights[u, t]:
        continue
      z = vectors @ states[u, t].astype(np.float64) - log_share[flat]
      label = u * num_slots + t + 1
      excluded = np.array([int(item) in own for item in flat])
      excluded[label] = False
      z[excluded] = -10_000
      top = z.max()
      partition = np.exp(z - top).sum()
      share = weights[u, t] / total
      loss += share * (np.log(partition) + top - z[label])
      dz = np.exp(z - top) / partition
      dz[label] -= 1
      dz = np.where(excluded, 0, dz) * share
      by_state[u, t] += dz @ vectors
      by_slot += dz[:, None] * states[u, t]
  by_item = np.zeros(table.shape)
  np.add.at(by_item, flat, by_slot)
  return loss, by_state, by_item


def _arguments(rows, log_share, weights, *, filler_log=0.0):
  """Items once each in a random-looking order of columns, the rest filler, and the places in another order too."""
  distinct = [int(item) for item in np.unique(rows) if item]
  order = [0] + distinct[::-1] + [0] * (_COLUMNS - 1 - len(distinct))
  column = {item: n for n, item in reversed(list(enumerate(order)))}
  counts = np.array([(rows == item).sum() if item else 0 for item in order])
  own = np.array([[item in set(row) for item in order] for row in rows.tolist()])
  log_popularity = np.array([log_share[item] if item else filler_log for item in order], np.float32)
  real = weights > 0
  arguments = {
    "targets": np.where(real, np.vectorize(column.get)(rows[:, 1:]), 0).reshape(-1),
    "users": np.repeat(np.arange(len(rows)), rows.shape[1] - 1),
    "own": own,
    "counts": counts,
    "log_popularity": log_popularity,
    "weights": weights.reshape(-1).astype(np.float32),
  }
  return np.array(order), jax.tree.map(jnp.asarray, arguments)


def _by_item(order, gradient):
  out = np.zeros((_ITEMS + 1, _DIM))
  np.add.at(out, order, np.asarray(gradient))
  return out


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(seed=st.integers(0, 2**32 - 1), weighted=st.booleans())
def test_equals_the_plain_loss_over_every_slot_in_value_and_gradient(seed, weighted):
  rows, log_share, states, table, weights = _random_case(seed, weighted=weighted)
  if not weights.any():
    return
  wanted, by_state, by_item = _plain(rows, log_share, states, table, weights)
  order, arguments = _arguments(rows, log_share, weights)
  loss, (state_gradient, item_gradient) = _value_and_grad(states.reshape(-1, _DIM), table[order], arguments)
  assert loss.dtype == jnp.float32
  assert loss.shape == ()
  assert float(loss) == pytest.approx(wanted, rel=1e-5, abs=1e-6)
  np.testing.assert_allclose(np.asarray(state_gradient).reshape(by_state.shape), by_state, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(_by_item(order, item_gradient), by_item, rtol=1e-4, atol=2e-6)


def test_the_plain_statement_strikes_and_averages_as_the_golden_arrays_do(golden):
  # Keeps the statement above honest; the whole golden model is compared in models/test_sequential.py.
  arrays = golden("id_model_loss_sasrec")
  logits, labels = arrays["logits_at_real_positions"], arrays["label_at_real_positions"]
  assert np.array_equal(logits == -10_000, arrays["masked"])
  top = logits.astype(np.float64).max(axis=1)
  lse = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
  assert np.mean(lse - logits[np.arange(len(labels)), labels]) == pytest.approx(float(arrays["loss"]), rel=1e-6)
  rows = arrays["sample_items_id"]
  mask = []
  for u, t in zip(*np.nonzero(arrays["log_mask"])):
    excluded = np.isin(rows.reshape(-1), [0, *rows[u]])
    excluded[u * rows.shape[1] + t + 1] = False
    mask.append(excluded)
  assert np.array_equal(mask, arrays["masked"])


def test_a_repeated_item_weighs_as_many_times_as_it_is_held():
  states = jnp.array([[1.0, 0.0]])
  items = jnp.array([[9.0, 9.0], [0.5, 0.0], [0.25, 0.0], [-1.0, 0.0]])
  common = {
    "targets": jnp.array([1]),
    "users": jnp.array([0]),
    "own": jnp.array([[False, True, False, False]]),
    "log_popularity": jnp.log(jnp.array([1.0, 0.5, 0.3, 0.2])),
    "weights": jnp.array([1.0]),
  }
  loss = in_batch_softmax(states, items, counts=jnp.array([0, 5, 3, 1]), **common)
  # The target once, whatever its count; item 2 three times; item 3 once; the padding never.
  z = np.array([0.5 - np.log(0.5), *[0.25 - np.log(0.3)] * 3, -1.0 - np.log(0.2)])
  assert float(loss) == pytest.approx(np.log(np.exp(z).sum()) - z[0], rel=1e-6)


@pytest.mark.parametrize("filler_log", [0.0, -np.inf])
def test_filler_columns_change_nothing_and_get_no_gradient(filler_log):
  rows, log_share, states, table, weights = _random_case(7)
  order, arguments = _arguments(rows, log_share, weights)
  loss, (by_state, by_item) = _value_and_grad(states.reshape(-1, _DIM), table[order], arguments)
  _, other = _arguments(rows, log_share, weights, filler_log=filler_log)
  filler = order == 0
  assert filler.sum() > 2
  vectors = np.where(filler[:, None], 100.0, table[order]).astype(np.float32)
  loss_2, (by_state_2, by_item_2) = _value_and_grad(states.reshape(-1, _DIM), vectors, other)
  assert float(loss) == float(loss_2)
  np.testing.assert_array_equal(by_state, by_state_2)
  np.testing.assert_array_equal(by_item, by_item_2)
  assert not np.asarray(by_item)[filler].any()


def test_items_without_training_interactions_leave_value_and_gradient_finite():
  rows, log_share, states, table, weights = _random_case(11)
  for cold in np.unique(rows[rows != 0]):
    order, arguments = _arguments(rows, np.where(np.arange(_ITEMS + 1) == cold, -np.inf, log_share), weights)
    assert np.isneginf(np.asarray(arguments["log_popularity"])).any()
    loss, gradients = _value_and_grad(states.reshape(-1, _DIM), table[order], arguments)
    assert np.isfinite(float(loss))
    assert all(np.isfinite(np.asarray(gradient)).all() for gradient in gradients)


def test_weightless_rows_count_for_nothing():
  rows, log_share, states, table, weights = _random_case(3)
  order, arguments = _arguments(rows, log_share, weights)
  off = np.flatnonzero(np.asarray(arguments["weights"]) == 0)
  assert off.size
  loss, (by_state, by_item) = _value_and_grad(states.reshape(-1, _DIM), table[order], arguments)
  loud = states.reshape(-1, _DIM).copy()
  loud[off] = 50.0
  loss_2, (by_state_2, by_item_2) = _value_and_grad(loud, table[order], arguments)
  assert float(loss) == float(loss_2)
  np.testing.assert_array_equal(by_item, by_item_2)
  assert not np.asarray(by_state_2)[off].any()
  assert np.asarray(by_state).any()


def test_no_weight_at_all_gives_zero_and_a_zero_gradient():
  rows, log_share, states, table, weights = _random_case(3)
  order, arguments = _arguments(rows, log_share, np.zeros_like(weights))
  loss, gradients = _value_and_grad(states.reshape(-1, _DIM), table[order], arguments)
  assert float(loss) == 0
  assert all((np.asarray(gradient) == 0).all() for gradient in gradients)


def test_scaling_all_weights_leaves_the_mean():
  rows, log_share, states, table, weights = _random_case(5, weighted=True)
  order, arguments = _arguments(rows, log_share, weights)
  for scale in (1e-3, 1e3):
    scaled = arguments | {"weights": arguments["weights"] * scale}
    loss, _ = _value_and_grad(states.reshape(-1, _DIM), table[order], scaled)
    assert float(loss) == pytest.approx(float(_value_and_grad(states.reshape(-1, _DIM), table[order], arguments)[0]))


def test_large_scores_do_not_overflow():
  rows, log_share, states, table, weights = _random_case(13)
  order, arguments = _arguments(rows, log_share, weights)
  wanted, _, _ = _plain(rows, log_share, 300 * states, table, weights)
  loss, gradients = _value_and_grad(300 * states.reshape(-1, _DIM), table[order], arguments)
  assert float(loss) == pytest.approx(wanted, rel=1e-5)
  assert all(np.isfinite(np.asarray(gradient)).all() for gradient in gradients)


def test_half_precision_inputs_are_summed_in_float32():
  rows, log_share, states, table, weights = _random_case(17)
  order, arguments = _arguments(rows, log_share, weights)
  states, vectors = jnp.asarray(states.reshape(-1, _DIM), jnp.bfloat16), jnp.asarray(table[order], jnp.bfloat16)
  loss, gradients = _value_and_grad(states, vectors, arguments)
  exact, _ = _value_and_grad(states.astype(jnp.float32), vectors.astype(jnp.float32), arguments)
  assert loss.dtype == jnp.float32
  assert float(loss) == pytest.approx(float(exact), rel=1e-6)
  assert {gradient.dtype for gradient in gradients} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("seed", range(4))
def test_scored_softmax_of_dot_products_is_the_in_batch_softmax(seed):
  rows, log_share, states, table, weights = _random_case(seed, weighted=True)
  order, arguments = _arguments(rows, log_share, weights)
  states, vectors = jnp.asarray(states.reshape(-1, _DIM)), jnp.asarray(table[order])
  wanted = losses.in_batch_softmax(states, vectors, **arguments)
  users, own = arguments.pop("users"), arguments.pop("own")
  target_scores = jnp.sum(states * vectors[arguments["targets"]], axis=-1)
  total, weight = losses.scored_softmax_sums(states @ vectors.T, target_scores, excluded=own[users], **arguments)
  found = total / weight
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_scored_softmax_takes_scores_of_any_origin():
  """-log of the target's share of exp(score) * count / popularity, the excluded ones left out, in float64."""
  rng = np.random.default_rng(0)
  scores = rng.normal(size=(4, 6)).astype(np.float32) ** 3
  targets, excluded = np.array([1, 2, 3, 1]), rng.random((4, 6)) < 0.3
  excluded[np.arange(4), targets] = True
  counts, shares = np.array([0, 3, 1, 2, 5, 1]), np.array([1, 0.3, 0.1, 0.2, 0.3, 0.1])
  weights = np.array([1.0, 0.5, 0.0, 2.0])
  wanted = 0.0
  for row in range(4):
    mass = {n: np.exp(np.float64(scores[row, n])) / shares[n] for n in range(6)}
    rivals = sum(counts[n] * mass[n] for n in range(6) if not excluded[row, n])
    wanted -= weights[row] * np.log(mass[targets[row]] / (mass[targets[row]] + rivals))
  total, weight = losses.scored_softmax_sums(
    jnp.asarray(scores), jnp.asarray(scores[np.arange(4), targets]), targets=jnp.asarray(targets),
    excluded=jnp.asarray(excluded), counts=jnp.asarray(counts), log_popularity=jnp.log(shares),
    weights=jnp.asarray(weights),
  )  # fmt: skip
  assert float(total) == pytest.approx(wanted, rel=1e-5)
  assert float(weight) == 3.5
