"""Softmax over all items: by blocks, it is the dense one; by items drawn, an estimate of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import losses

_PLACES, _ITEMS, _DIM = 6, 37, 4


def _case(seed: int, scale: float = 1.0, items: int = _ITEMS):
  rng = np.random.default_rng(seed)
  states = (scale * rng.normal(size=(_PLACES, _DIM))).astype(np.float32)
  table = rng.normal(size=(items + 1, _DIM)).astype(np.float32)
  targets = rng.integers(1, items + 1, _PLACES)
  targets[1] = targets[0]  # two places may have one target
  weights = rng.uniform(0.5, 2, _PLACES).astype(np.float32)
  weights[2] = 0
  return jnp.asarray(states), jnp.asarray(table), {"targets": jnp.asarray(targets), "weights": jnp.asarray(weights)}


def _stated(states, table, targets, weights):
  """The weighted sum over places, and its gradients, in float64 from all scores at once."""
  states, table, weights = (np.float64(x) for x in (states, table, weights))
  scores = states @ table[1:].T
  shifted = scores - scores.max(axis=1, keepdims=True)
  shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
  places = np.arange(len(states)), np.asarray(targets) - 1
  total = -(weights * (shifted[places] - np.log(np.exp(shifted).sum(axis=1)))).sum()
  shares[places] -= 1
  shares *= weights[:, None]
  of_table = np.concatenate([np.zeros((1, table.shape[1])), shares.T @ states])
  return total, shares @ table[1:], of_table


@functools.partial(jax.jit, static_argnames=("block", "num_items", "parts"))
def _by_blocks(states, table, block, **arguments):
  loss = functools.partial(losses.full_softmax_sums, block=block, **arguments)
  return jax.value_and_grad(loss, (0, 1), has_aux=True)(states, table)


# The table has 38 rows, and 40 where two are filled up with.
@pytest.mark.parametrize(("block", "parts"), [(4, 4), (9, 4), (40, 8), (4096, 2)])
def test_parts_of_a_table_that_is_filled_up_give_the_same(block, parts):
  states, table, arguments = _case(0, 1.0)
  (wanted, _), (of_states, of_table) = _by_blocks(states, table, 38, **arguments)
  filled = jnp.concatenate([table, jnp.full((2, table.shape[1]), 7.0)])
  (total, _), gradients = _by_blocks(states, filled, block, num_items=len(table) - 1, parts=parts, **arguments)
  assert float(total) == pytest.approx(float(wanted), rel=1e-6)
  np.testing.assert_allclose(gradients[0], of_states, rtol=2e-5, atol=2e-6)
  np.testing.assert_allclose(gradients[1][: len(table)], of_table, rtol=2e-5, atol=2e-6)
  assert not np.asarray(gradients[1])[len(table) :].any(), "rows that are nobody's"


# One item a block, blocks that divide the 38 rows and that do not, one block, and more than there is.
@pytest.mark.parametrize("block", [1, 19, 8, 38, 4096])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_blocks_give_the_loss_and_gradients_of_all_scores_at_once(block, scale):
  states, table, arguments = _case(0, scale)
  (total, weight), gradients = _by_blocks(states, table, block, **arguments)
  wanted, *wanted_gradients = _stated(states, table, **arguments)
  assert total.dtype == weight.dtype == jnp.float32
  assert float(weight) == pytest.approx(float(arguments["weights"].sum()))
  assert float(total) == pytest.approx(wanted, rel=1e-6)
  for found, stated in zip(gradients, wanted_gradients):
    np.testing.assert_allclose(found, stated, rtol=2e-5, atol=2e-6 * scale)
  assert not np.asarray(gradients[1])[0].any(), "the padding is no candidate"
  assert not np.asarray(gradients[0])[2].any(), "a place without weight"


def test_scores_beyond_what_exp_can_hold_leave_all_finite():
  states, table, arguments = _case(1, 1e4)
  (total, _), gradients = _by_blocks(states, 1e3 * table, 8, **arguments)
  assert np.isfinite(float(total))
  assert all(np.isfinite(np.asarray(gradient)).all() for gradient in gradients)


def test_memory_beside_the_gradient_does_not_grow_with_the_items():
  def beside(items):
    states, table, arguments = _case(0, items=items)
    memory = _by_blocks.lower(states, table, 64, **arguments).compile().memory_analysis()
    return memory.temp_size_in_bytes

  assert beside(20_000) < beside(2_000) + 4096
  # All scores at once would be 480 kB.
  assert beside(20_000) < 100_000


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_items_drawn_estimate_the_gradient_of_all_items(power):
  """Whatever they are drawn by, if the loss knows by what; and not if it does not."""
  states, table, arguments = _case(2)
  rng = np.random.default_rng(0)
  shares = np.geomspace(1, 100, _ITEMS) ** power
  shares /= shares.sum()
  log_proposal = jnp.asarray(np.log(np.concatenate([[1.0], shares])), jnp.float32)
  negatives = jnp.asarray(rng.choice(np.arange(1, _ITEMS + 1), 60_000, p=shares))
  places = jnp.arange(_PLACES)
  own = jnp.zeros((_PLACES, _ITEMS + 1), bool)

  @jax.jit
  def gradient(table, log_proposal):
    loss = lambda table: losses.sampled_softmax_sums(  # noqa: E731
      states, table, users=places, own=own, negatives=negatives, log_proposal=log_proposal, **arguments
    )[0]
    return jax.grad(loss)(table)

  _, _, wanted = _stated(states, table, **arguments)
  size = np.abs(wanted).max()
  assert np.abs(gradient(table, log_proposal) - wanted).max() < 0.03 * size
  uncorrected = np.abs(gradient(table, None) - wanted).max()
  assert uncorrected < 0.03 * size if power == 0 else uncorrected > 0.1 * size
