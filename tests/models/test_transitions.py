"""A model's softmax mixed with a Markov chain, against the same stated by loops."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import metrics
from mlrec import models
from mlrec.data import Rows
from mlrec.data.splits import Split
from mlrec.models.recommenders.transitions import Transitions
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _DIM, _LENGTH = 700, 6, 5
_OPTIONS = {"share": 0.3, "window": 2, "decay": 0.5}


@pytest.fixture(scope="module")
def train():
  rng = np.random.default_rng(0)
  return Rows.from_lists([rng.integers(1, 60, rng.integers(2, 9)) for _ in range(150)], np.int32)


@pytest.fixture(scope="module")
def vectors():
  return np.random.default_rng(1).normal(size=(_ITEMS + 4, _DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def users():
  """States, and histories: of several items, of one, of one that nothing followed, of one item twice."""
  states = np.random.default_rng(2).normal(size=(4, _DIM)).astype(np.float32)
  return states, np.array([[0, 0, 3, 7, 11], [0, 0, 0, 0, 5], [0, 0, 0, 0, 699], [0, 4, 4, 9, 4]])


# Those beyond the last item are nobody's.
_IDS = np.where(np.arange(_ITEMS + 4) <= _ITEMS, np.arange(_ITEMS + 4), 0)


def _stated(train, state, history, vectors):
  """`[_ITEMS + 1]` probabilities, by loops; the padding's means nothing."""
  followed = np.zeros((_ITEMS + 1, _ITEMS + 1))
  for row in range(len(train)):
    items = train[row].tolist()
    for place, item in enumerate(items):
      for distance in range(1, _OPTIONS["window"] + 1):
        if place + distance < len(items) and items[place + distance] != item:
          followed[item, items[place + distance]] += 1 / distance
  scores = np.exp(vectors[: _ITEMS + 1].astype(np.float64) @ state)
  scores[0] = 0
  own = scores / scores.sum()
  mass = sum(_OPTIONS["decay"] ** age * followed[item] for age, item in enumerate(history[::-1]) if item)
  chain = mass / mass.sum() if mass.sum() else mass
  return (1 - _OPTIONS["share"]) * own + _OPTIONS["share"] * chain


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _scores(graphdef, state, states, histories, vectors, ids, scored):
  chain = nnx.merge(graphdef, state)
  mixed = chain.mixed(states, vectors, histories)
  return chain.score(mixed, vectors[scored], ids[scored])


@pytest.mark.parametrize(
  "scored",
  [np.arange(_ITEMS + 4), np.arange(5, 200), np.array([5, 3, 3, 60, 0, 59, 700])],
  ids=["all", "a part", "any order"],
)
def test_scores_are_the_log_of_the_mixture_stated_by_loops(train, vectors, users, scored):
  chain = Transitions(_ITEMS, train, **_OPTIONS)
  found = np.asarray(_scores(*nnx.split(chain), *users, vectors, _IDS, scored))
  assert found.shape == (len(scored), 4)
  real = _IDS[scored] != 0
  for place, (state, history) in enumerate(zip(*users)):
    wanted = _stated(train, state, history, vectors)
    np.testing.assert_allclose(np.exp(found[real, place]), wanted[_IDS[scored][real]], rtol=2e-5, atol=1e-9)


def test_probabilities_of_all_items_sum_to_one_where_something_followed(train, vectors, users):
  found = np.asarray(_scores(*nnx.split(Transitions(_ITEMS, train, **_OPTIONS)), *users, vectors, _IDS, _IDS[1:-3]))
  np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(0), [1, 1, 1 - _OPTIONS["share"], 1], rtol=1e-5)


def test_a_tile_in_order_and_one_in_any_order_have_the_same_bits(train, vectors, users):
  scores = functools.partial(_scores, *nnx.split(Transitions(_ITEMS, train, **_OPTIONS)), *users, vectors, _IDS)
  ordered = np.arange(1, 101)
  shuffled = np.random.default_rng(0).permutation(ordered)
  assert np.array_equal(np.asarray(scores(ordered))[shuffled - 1], scores(shuffled))


def test_the_followers_of_the_most_weight_are_kept(train):
  everything, few = (Transitions(_ITEMS, train, followers=number, **_OPTIONS) for number in (64, 2))
  ids, weights = np.asarray(few.ids[...]), np.asarray(few.weights[...])
  assert ids.shape == (_ITEMS + 1, 2)
  assert np.array_equal(ids, np.asarray(everything.ids[...])[:, :2])
  assert (weights[:, 0] >= weights[:, 1]).all()
  assert weights[1:60].any()
  assert not weights[60:].any()


def _sequential(train, **options):
  user = {"name": "sasrec", "blocks": 1}
  return models.create(
    "sequential", num_items=_ITEMS, dim=_DIM, max_length=_LENGTH, user=user, item_data={"train": train},
    rngs=nnx.Rngs(0), **options,
  )  # fmt: skip


@pytest.mark.parametrize("members", [1, 2])
def test_a_model_ranks_by_the_mixture(train, members):
  from mlrec.data.batches import eval_batches
  from mlrec.data.batches import Layout
  from mlrec.data.interactions import Interactions
  from mlrec.data.protocols import parse

  # Without the items that a user has again, which are left out of the ranking.
  lists = [items for row in range(len(train)) if len(items := list(dict.fromkeys(train[row].tolist()))) > 4]
  interactions = Interactions(np.arange(len(lists) + 1), Rows.from_lists([*lists, np.arange(1, _ITEMS + 1)]))
  split: Split = parse("leave_one_out").split(interactions, max_length=_LENGTH, min_length=3)
  model = _sequential(split.train, members=members, transitions=_OPTIONS)
  batch = next(eval_batches(split, "valid", Layout.of(_LENGTH, packed=True), batch_size=16))

  @functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
  def ranked(graphdef, state, batch):
    model = nnx.merge(graphdef, state)
    table = model.item_vectors(jnp.arange(_ITEMS + 1))
    states = model.states(table, (), batch)
    ranks, *_ = metrics.rank_and_recommend(
      states, table, batch.targets, batch.seen, chunk=512, score=model.score, num_rows=_ITEMS + 1
    )
    return ranks, states.states, table[0]

  ranks, states, vectors = map(np.asarray, ranked(*nnx.split(model), batch))
  assert vectors.shape == (_ITEMS + 1, members * _DIM)
  histories = split.inputs("valid").padded(_LENGTH)
  for place in range(10):
    wanted = _stated(split.train, states[place], histories[place], vectors)
    wanted[[0, *batch.seen[place].tolist()]] = -1
    target = batch.targets[place]
    assert ranks[place] == 1 + np.sum(np.delete(wanted, target) >= wanted[target] * (1 - 1e-6))


@pytest.mark.parametrize(
  ("options", "pattern"),
  [
    ({"share": 0.0}, r"^transitions\.share = 0\.0 must be above 0 and below 1"),
    ({"share": 1}, r"^transitions\.share = 1 must be above 0 and below 1"),
    ({"decay": 1.5}, r"^transitions\.decay = 1\.5 must be between 0 and 1"),
    ({"window": 0}, r"^transitions\.window = 0 must be at least 1"),
    ({"followers": 0}, r"^transitions\.followers = 0 must be at least 1"),
    ({"window": 1.5}, r"^transitions\.window = 1\.5 must be an integer"),
    ({"shares": 0.1}, r"^transitions\.shares = 0\.1: 'transitions' has no such option; did you mean 'share'"),
    ({"train": 3}, r"^transitions\.train = 3 cannot be set here: it is known already"),
  ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, pattern, train):
  with pytest.raises(OptionError, match=pattern):
    _sequential(train, transitions=options)


def test_without_training_rows_nothing_can_be_counted():
  with pytest.raises(OptionError, match=r"^transitions are counted in training rows, which are not known here"):
    models.create("sequential", num_items=4, dim=4, transitions=_OPTIONS, rngs=nnx.Rngs(0))
