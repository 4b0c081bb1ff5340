"""Several models in one: each learns by itself, and they are scored together."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data.batches import eval_batches
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.data.interactions import Interactions
from mlrec.models.layers.tables import item_tables
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _DIM = 30, 8


def _made(members=1, seed=0, **options):
  user = {"name": "sasrec", "blocks": 1, "dropout": 0.2}
  return tiny.fresh(
    lambda: models.create(
      "sequential", num_items=_ITEMS, dim=_DIM, user=user, members=members, rngs=nnx.Rngs(seed), **options
    )
  )


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _compiled(graphdef, state, batch, evaluated):
  model = nnx.merge(graphdef, state)
  table = model.item_vectors(jnp.arange(_ITEMS + 1))
  states = model.states(table, (), evaluated)
  loss, gradients = jax.value_and_grad(lambda state: nnx.merge(graphdef, state).loss(batch))(state)
  return loss, gradients, table, states


def _results(model, batches):
  return _compiled(*nnx.split(model), *batches)


@pytest.fixture(scope="module")
def batches():
  rng = np.random.default_rng(0)
  lists = [rng.permutation(_ITEMS)[: rng.integers(5, 10)] + 1 for _ in range(12)]
  split = leave_one_out(Interactions(np.arange(12), Rows.from_lists(lists)))
  assert split.num_items == _ITEMS
  layout = Layout(10, True, 16)
  batch = TrainBatches(split, layout, batch_size=6, seed=0, negatives=0).batch(0)
  return batch, next(eval_batches(split, "valid", layout, batch_size=12))


@pytest.fixture(scope="module")
def three(batches):
  """A model of three members, and each of them as a model of its own."""
  together = _made(members=3)
  alone = [_made(seed=seed) for seed in (1, 2, 3)]
  nnx.update(together, nnx.state(alone[0]))
  for member, other in zip(together.others, alone[1:], strict=True):
    nnx.update(member, nnx.state(other))
  return _results(together, batches), [_results(model, batches) for model in alone]


def test_members_start_from_different_parameters():
  together = _made(members=2)
  first, second = (np.asarray(table.embedding[...]) for _, table in item_tables(together))
  assert first.shape == second.shape == (_ITEMS + 1, _DIM)
  assert (first != second).all()


def test_each_member_is_trained_by_its_own_loss_alone(three):
  (loss, gradients, *_), alone = three
  assert float(loss) == pytest.approx(np.mean([float(each[0]) for each in alone]), rel=1e-6)
  # Scaled by their number, which AdamW does not see.
  of_others = gradients["others"]
  for place, (_, wanted, *_) in enumerate(alone):
    given = gradients if place == 0 else of_others[place - 1]
    for path, value in wanted.flat_state():
      found = functools.reduce(lambda node, name: node[name], path, given)
      scale = max(np.abs(np.asarray(value[...])).max(), 1e-6)
      np.testing.assert_allclose(3 * np.asarray(found[...]), value[...], rtol=0, atol=2e-5 * scale, err_msg=str(path))


def test_scores_are_the_mean_of_the_members_scores(three):
  (_, _, table, states), alone = three
  assert table.shape == (_ITEMS + 1, 3 * _DIM)
  wanted = np.mean([np.asarray(own @ vectors.T) for _, _, vectors, own in alone], axis=0)
  np.testing.assert_allclose(states @ table.T, wanted, rtol=0, atol=1e-5)


def test_members_draw_dropout_of_their_own(batches):
  together = _made(members=2)
  nnx.update(together.others[0], nnx.state(_made(seed=1)))
  nnx.update(together, nnx.state(_made(seed=1)))

  @functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
  def gradients(graphdef, state, batch):
    key = jax.random.key(0)
    return jax.grad(lambda state: nnx.merge(graphdef, state).loss(batch, rngs=nnx.Rngs(dropout=key)))(state)

  found = gradients(*nnx.split(together), batches[0])
  own, other = (np.asarray(part["users"]["position"]["embedding"][...]) for part in (found, found["others"][0]))
  assert np.abs(own).max() > 0
  assert np.abs(own - other).max() > 0.01 * np.abs(own).max()


@pytest.mark.parametrize("members", [0, -1])
def test_a_model_has_a_member_at_least(members):
  with pytest.raises(OptionError, match=rf"^members = {members} must be at least 1"):
    nnx.eval_shape(lambda: models.create("sequential", num_items=4, dim=4, members=members, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_items_of_a_history_are_left_out_in_training_alone(rate, batches):
  model = _made(item_dropout=rate)
  whole = _results(model, batches)
  without = _results(_made(item_dropout=0.0), batches)
  assert float(whole[0]) == float(without[0])
  assert np.array_equal(whole[3], without[3])
  x = jnp.ones((50, 20, 3))
  left = np.asarray(model.left_out(x, nnx.Rngs(dropout=0)))
  assert set(np.unique(left)) <= {0.0, 1.0}, "what stays is not scaled"
  assert (left.min(-1) == left.max(-1)).all(), "whole vectors"
  assert left.mean() == pytest.approx(1 - rate, abs=0.05)
  assert np.array_equal(model.left_out(x, None), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_share_of_items_that_is_none_is_refused(rate):
  with pytest.raises(OptionError, match=rf"^item_dropout = {rate} must be at least 0 and below 1"):
    nnx.eval_shape(lambda: models.create("sequential", num_items=4, dim=4, item_dropout=rate, rngs=nnx.Rngs(0)))
