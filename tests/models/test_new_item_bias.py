"""Items that training never names are scored higher, and nothing else changes."""

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
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _BIAS = 30, 0.75


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(0)
  lists = [rng.permutation(_ITEMS)[: rng.integers(5, 8)] + 1 for _ in range(6)]
  # The last item is somebody's last.
  lists.append(np.array([1, 2, 3, 4, _ITEMS + 1]))
  return leave_one_out(Interactions(np.arange(7), Rows.from_lists(lists)))


def _made(split, members, **options):
  user = {"name": "sasrec", "blocks": 1, "dropout": 0.0}
  data = {"train_counts": split.train_counts, "train": split.train}
  return tiny.fresh(
    lambda: models.create(
      "sequential", num_items=split.num_items, dim=8, user=user, members=members, item_data=data, rngs=nnx.Rngs(0),
      **options,
    )
  )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _compiled(graphdef, state, batch, evaluated):
  model = nnx.merge(graphdef, state)
  # Rows beyond the last item are nobody's.
  table = model.item_vectors(jnp.arange(model.num_items + 4))
  states = model.states(table, (), evaluated)
  scores = states @ table.T if model.scores_by_dot else model.score(states, table).T
  return model.loss(batch), scores


def _results(split, members, **options):
  layout = Layout(10, True, 16)
  batch = TrainBatches(split, layout, batch_size=6, seed=0, negatives=0).batch(0)
  evaluated = next(eval_batches(split, "valid", layout, batch_size=7))
  return _compiled(*nnx.split(_made(split, members, **options)), batch, evaluated)


@pytest.mark.parametrize("members", [1, 2])
def test_only_items_that_training_never_names_score_higher(split, members):
  loss, scores = _results(split, members)
  biased_loss, biased = _results(split, members, new_item_bias=_BIAS)
  new = split.train_counts == 0
  new[0] = False
  assert 0 < new.sum() < split.num_items
  np.testing.assert_array_equal(biased_loss, loss)
  wanted = np.where(new, _BIAS, 0)
  np.testing.assert_allclose(
    (biased - scores)[:, : split.num_items + 1], np.broadcast_to(wanted, (7, len(wanted))), atol=1e-6
  )


def test_beside_transitions_the_bias_is_of_the_models_own_softmax(split):
  transitions = {"share": 0.5, "window": 1, "decay": 0.0}
  _, scores = _results(split, 1, transitions=transitions)
  _, biased = _results(split, 1, transitions=transitions, new_item_bias=_BIAS)
  items = split.num_items + 1
  probabilities, higher = np.exp(np.asarray(scores)[:, 1:items]), np.exp(np.asarray(biased)[:, 1:items])
  np.testing.assert_allclose(higher.sum(1), probabilities.sum(1), rtol=1e-5)
  new = split.train_counts[1:] == 0
  assert (higher[:, new] > probabilities[:, new]).all()
  assert (higher[:, ~new] < probabilities[:, ~new]).all()


def test_without_training_counts_it_is_refused():
  with pytest.raises(OptionError, match=r"new_item_bias.*0\.75.*training counts"):
    models.create("sequential", num_items=5, dim=4, new_item_bias=_BIAS, rngs=nnx.Rngs(0))
