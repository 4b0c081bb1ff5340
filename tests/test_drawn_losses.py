"""Losses that tell an item from others drawn at random: sampled softmax, gBCE, BPR."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import losses

# The last is the number of items that exist.
_PLACES, _USERS, _COLUMNS, _DIM, _DRAWN, _EXIST = 7, 3, 16, 4, 6, 40


def _drawn_case(seed: int):
  """States, items, and the arguments that the losses of items drawn share; some of those drawn are a user's own."""
  rng = np.random.default_rng(seed)
  states = (rng.choice([0.1, 1.0, 4.0]) * rng.normal(size=(_PLACES, _DIM))).astype(np.float32)
  items = rng.normal(size=(_COLUMNS, _DIM)).astype(np.float32)
  own = rng.random((_USERS, _COLUMNS)) < 0.2
  users = rng.integers(0, _USERS, _PLACES)
  targets = rng.integers(1, _COLUMNS, _PLACES)
  own[users, targets] = True
  weights = np.where(rng.random(_PLACES) < 0.3, 0, rng.uniform(0.5, 2, _PLACES)).astype(np.float32)
  weights[0] = 1
  negatives = rng.integers(1, _COLUMNS, _DRAWN)
  negatives[1] = negatives[0]  # drawn twice
  arguments = {"targets": targets, "users": users, "own": own, "negatives": negatives, "weights": weights}
  return states, items, jax.tree.map(jnp.asarray, arguments)


def _place_losses(states, items, arguments, one):
  """The weighted sum of `one(score of the target, scores of what is drawn but the user's own)`, by float64 loops."""
  states, items = states.astype(np.float64), items.astype(np.float64)
  arguments = jax.tree.map(np.asarray, arguments)
  total = 0.0
  for place in range(len(states)):
    own = arguments["own"][arguments["users"][place]]
    against = [float(states[place] @ items[n]) for n in arguments["negatives"] if not own[n]]
    total += arguments["weights"][place] * one(float(states[place] @ items[arguments["targets"][place]]), against)
  return total


def _softmax_of_one(positive, against):
  scores = np.array([positive, *against])
  return np.log(np.exp(scores - scores.max()).sum()) + scores.max() - positive


def _gbce_of_one(positive, against, *, calibration, exist=_EXIST):
  """As the authors of gSASRec state it: log of a sigmoid to the power beta, over the number drawn and one."""
  alpha = _DRAWN / (exist - 1)
  beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
  sigmoid = 1 / (1 + np.exp(-positive))
  return -(np.log(sigmoid**beta) + sum(np.log(1 - 1 / (1 + np.exp(-score))) for score in against)) / (_DRAWN + 1)


_sampled = jax.jit(
  jax.value_and_grad(
    lambda states, items, arguments: losses.sampled_softmax_sums(states, items, **arguments), (0, 1), has_aux=True
  )
)


def _calibrated(states, items, arguments, calibration=0.75, num_items=_EXIST):
  def loss(states, items):
    return losses.calibrated_bce_sums(states, items, **arguments, num_items=num_items, calibration=calibration)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(states, items)


_DRAWN_LOSSES = {"sampled softmax": _sampled, "gbce": _calibrated}
drawn_losses = pytest.mark.parametrize("loss", _DRAWN_LOSSES.values(), ids=_DRAWN_LOSSES)


@pytest.mark.parametrize("seed", range(5))
def test_sampled_softmax_is_that_of_the_target_among_the_items_drawn(seed):
  states, items, arguments = _drawn_case(seed)
  (total, weight), _ = _sampled(states, items, arguments)
  assert total.dtype == weight.dtype == jnp.float32
  assert float(weight) == pytest.approx(float(arguments["weights"].sum()))
  assert float(total) == pytest.approx(_place_losses(states, items, arguments, _softmax_of_one), rel=1e-5)


@pytest.mark.parametrize("calibration", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("num_items", [2, _EXIST, 10**6])
def test_gbce_is_what_its_authors_state(calibration, num_items):
  for seed in range(3):
    states, items, arguments = _drawn_case(seed)
    (total, weight), _ = _calibrated(states, items, arguments, calibration, num_items)

    def one(positive, against):
      return _gbce_of_one(positive, against, calibration=calibration, exist=num_items)

    assert float(weight) == pytest.approx(float(arguments["weights"].sum()))
    assert float(total) == pytest.approx(_place_losses(states, items, arguments, one), rel=1e-5)


def test_gbce_without_calibration_is_binary_cross_entropy():
  states, items, arguments = _drawn_case(2)

  def one(positive, against):
    return (np.log1p(np.exp(-positive)) + sum(np.log1p(np.exp(score)) for score in against)) / (_DRAWN + 1)

  (total, _), _ = _calibrated(states, items, arguments, 0.0)
  assert float(total) == pytest.approx(_place_losses(states, items, arguments, one), rel=1e-5)


@pytest.mark.parametrize("calibration", [0.0, 0.75])
def test_gbce_from_the_prior_shifts_all_scores_to_where_none_is_lowered(calibration):
  states, items, arguments = _drawn_case(3)

  def loss(shift, from_prior):
    # A channel more, in which all items and states agree, shifts every score.
    shifted = jnp.pad(states, ((0, 0), (0, 1)), constant_values=1.0)
    ones = jnp.concatenate([items, jnp.full((len(items), 1), shift)], axis=1)
    total, _ = losses.calibrated_bce_sums(
      shifted, ones, **arguments, num_items=_EXIST, calibration=calibration, from_prior=from_prior
    )
    return total

  alpha = _DRAWN / (_EXIST - 1)
  beta = calibration * (alpha - 1) + 1
  assert float(loss(0.3, True)) == pytest.approx(float(loss(0.3 + np.log(beta / _DRAWN), False)), rel=1e-5)
  nowhere = arguments | {"own": jnp.zeros_like(arguments["own"])}

  def common(shift):
    scores = jnp.full((len(items), 1), shift)
    return losses.calibrated_bce_sums(
      jnp.ones((len(states), 1)), scores, **nowhere, num_items=_EXIST, calibration=calibration, from_prior=True
    )[0]

  # beta (1 - p) = K p at p = beta / (K + beta), which is where log(beta / K) puts a score of 0.
  assert abs(float(jax.grad(common)(0.0))) < 1e-6


def test_fully_calibrated_scores_are_those_of_all_items_as_negatives():
  """The least loss in expectation is where sigmoid(s) is the item's share: what gBCE is for (t = 1)."""
  share, exist, drawn = 0.2, 50, 5
  own = jnp.asarray([[True, False]])
  arguments = {
    "targets": jnp.array([0]), "users": jnp.array([0]), "weights": jnp.ones(1), "own": own,
    "negatives": jnp.ones(drawn, int),
  }  # fmt: skip

  def expected(score):
    """A place whose target is this item in `share` of the cases, and which else draws it among `exist - 1`."""
    as_target, _ = losses.calibrated_bce_sums(
      jnp.ones((1, 1)), jnp.array([[score], [-50.0]]), **arguments, num_items=exist, calibration=1.0
    )
    as_negative, _ = losses.calibrated_bce_sums(
      jnp.ones((1, 1)), jnp.array([[50.0], [score]]), **arguments, num_items=exist, calibration=1.0
    )
    return share * as_target + (1 - share) * as_negative / (exist - 1)

  at = np.log(share / (1 - share))
  assert abs(float(jax.grad(expected)(at))) < 1e-6
  assert float(jax.grad(expected)(at - 0.5)) < -1e-4
  assert float(jax.grad(expected)(at + 0.5)) > 1e-4


@drawn_losses
def test_gradients_against_items_drawn_are_those_of_differences(loss):
  states, items, arguments = _drawn_case(1)
  one = _softmax_of_one if loss is _sampled else lambda p, a: _gbce_of_one(p, a, calibration=0.75)
  _, gradients = loss(states, items, arguments)
  for which, gradient in enumerate(gradients):
    wanted = np.zeros(gradient.shape)
    for place in np.ndindex(gradient.shape):
      moved = []
      for by in (1e-5, -1e-5):
        arrays = [states.astype(np.float64), items.astype(np.float64)]
        arrays[which][place] += by
        moved.append(_place_losses(*arrays, arguments, one))
      wanted[place] = (moved[0] - moved[1]) / 2e-5
    np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-5)


@drawn_losses
def test_own_items_and_weightless_places_count_for_nothing_among_those_drawn(loss):
  states, items, arguments = _drawn_case(3)
  weights, own = np.asarray(arguments["weights"]), np.asarray(arguments["own"])
  everyones = own.all(axis=0)
  everyones[arguments["negatives"][2]] = True
  arguments = arguments | {"own": jnp.asarray(own | everyones)}
  off = weights == 0
  assert off.any()
  (total, weight), gradients = loss(states, items, arguments)
  used = set(np.asarray(arguments["targets"])[~off].tolist())
  quiet = [n for n in np.flatnonzero(everyones) if n not in used]
  assert int(arguments["negatives"][2]) in quiet
  loud_states, loud_items = states.copy(), items.copy()
  loud_states[off] = 50.0
  loud_items[quiet] = -50.0
  (total_2, weight_2), gradients_2 = loss(loud_states, loud_items, arguments)
  assert float(total) == float(total_2)
  assert float(weight) == float(weight_2)
  assert not np.asarray(gradients_2[0])[off].any()
  assert not np.asarray(gradients_2[1])[quiet].any()
  assert np.asarray(gradients[1]).any()


@drawn_losses
@pytest.mark.parametrize("scale", [1e3, 1e15])
def test_extreme_scores_against_items_drawn_leave_gradients_finite(loss, scale):
  states, items, arguments = _drawn_case(4)
  for sign in (1, -1):
    (total, _), gradients = loss(sign * scale * states, scale * items, arguments)
    assert np.isfinite(float(total))
    assert float(total) > 0
    assert all(np.isfinite(np.asarray(gradient)).all() for gradient in gradients)


@drawn_losses
def test_places_whose_items_drawn_are_all_their_own_leave_all_finite(loss):
  states, items, arguments = _drawn_case(5)
  arguments = arguments | {"own": jnp.ones((_USERS, _COLUMNS), bool)}
  (total, _), gradients = loss(states, items, arguments)
  assert float(total) >= 0
  if loss is _sampled:
    assert float(total) == 0, "the target is alone"
  assert all(np.isfinite(np.asarray(gradient)).all() for gradient in gradients)


def test_bpr_is_the_mean_of_minus_log_sigmoid_of_differences():
  rng = np.random.default_rng(0)
  positive, negative = rng.normal(size=5).astype(np.float32), 3 * rng.normal(size=(5, 4)).astype(np.float32)
  weights = np.array([1, 1, 0, 2, 0.5], np.float32)
  total = 0.0
  for row in range(5):
    each = [-np.log(1 / (1 + np.exp(-(float(positive[row]) - float(s))))) for s in negative[row]]
    total += weights[row] * sum(each) / len(each)
  loss = losses.bpr(jnp.asarray(positive), jnp.asarray(negative), jnp.asarray(weights))
  assert loss.dtype == jnp.float32
  assert float(loss) == pytest.approx(total / weights.sum(), rel=1e-6)


def test_bpr_leaves_out_filler_and_stays_finite():
  positive, weights = jnp.array([1e30, -1e30, 0.0]), jnp.array([1.0, 1.0, 0.0])
  negative = jnp.array([[-1e30, 0.0], [1e30, 0.0], [1e30, 1e30]])
  loss, gradients = jax.value_and_grad(losses.bpr, (0, 1))(positive, negative, weights)
  assert float(loss) == pytest.approx(1.5e30 / 2)
  assert all(np.isfinite(np.asarray(gradient)).all() for gradient in gradients)
  assert not np.asarray(gradients[0])[2]
  assert not np.asarray(gradients[1])[2].any()
  nothing, gradients = jax.value_and_grad(losses.bpr, (0, 1))(positive, negative, jnp.zeros(3))
  assert float(nothing) == 0
  assert not any(np.asarray(gradient).any() for gradient in gradients)


def test_bpr_in_half_precision_is_that_of_float32():
  positive, negative = jnp.array([256.0], jnp.bfloat16), jnp.array([[257.0]], jnp.bfloat16)
  loss = losses.bpr(positive, negative, jnp.ones(1))
  assert loss.dtype == jnp.float32
  wanted = np.log1p(np.exp(float(negative[0, 0]) - 256.0))
  assert float(loss) == pytest.approx(wanted, rel=1e-6)


def test_a_weighted_mean_by_hand():
  values = jnp.array([1.0, 2.0, 30.0])
  assert float(losses.weighted_mean(values, jnp.array([1.0, 3.0, 0.0]))) == pytest.approx(7 / 4)
  assert float(losses.weighted_mean(values, jnp.array([0.5, 0.0, 0.0]))) == pytest.approx(1)
  assert float(losses.weighted_mean(values, jnp.zeros(3))) == 0
  assert losses.weighted_mean(jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32
