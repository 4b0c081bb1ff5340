"""TIGER: likelihoods of items by the trie of their codes, the loss, and the beam, against plain statements."""

import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.data import leave_one_out
from mlrec.data.batches import eval_batches
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.models.layers.code_trie import CodeTrie
from mlrec.models.quantizers.quantizer import told_apart
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _LENGTH, _DIM = 40, 5, 8
_USER = {"name": "sasrec", "heads": 2, "blocks": 1, "dropout": 0.0}


def _codes(items=_ITEMS) -> np.ndarray:
  """Codes of two levels of which some are alike, and a third that tells those apart; and the padding's."""
  rng = np.random.default_rng(0)
  # Of the first code 4 there is one item, of 3 there are a few, each of one second code.
  pairs = np.stack([rng.integers(0, 4, items), rng.integers(0, 5, items)], axis=1)
  pairs[0] = 4, 0
  pairs[pairs[:, 0] == 3, 1] = 2
  return np.concatenate([np.full((1, 3), -1), told_apart(pairs)]).astype(np.int32)


def _create(**options):
  options = {"dim": _DIM, "user": _USER, "codes": _codes(), **options}
  return models.create("tiger", num_items=_ITEMS, max_length=_LENGTH, **options)


@functools.cache
def _model(**options):
  """A model none of whose parameters is 0 or 1; tests share it."""
  create = functools.partial(_create, **options)
  graphdef, params, rest = nnx.split(tiny.fresh(lambda: create(rngs=nnx.Rngs(0))), nnx.Param, ...)
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.5, x.dtype), params)
  return nnx.merge(graphdef, params, rest)


def _wide(parameter) -> np.ndarray:
  return np.asarray(parameter[...], np.float64)


def _logits(model, state, prefix):
  """Logits of all codes of the level after a prefix, by the docstring's equations in float64."""
  level, table = len(prefix), _wide(model.embedding.table)
  x = sum((table[model.embedding.starts[n] + code] for n, code in enumerate(prefix)), np.zeros(_DIM))
  x = x + _wide(model.places)[level]
  x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * _wide(model.norm.scale) + _wide(model.norm.bias)
  up = x @ _wide(model.modulation.up.kernel) + _wide(model.modulation.up.bias)
  up = up / 2 * (1 + np.vectorize(math.erf)(up / np.sqrt(2)))
  scale, shift = np.split(up @ _wide(model.modulation.down.kernel) + _wide(model.modulation.down.bias), 2)
  head = _wide(model.heads.kernel)[:, level * _DIM : (level + 1) * _DIM]
  decoded = (1 + scale) * (state @ head) + shift
  start = model.outputs.starts[level]
  return _wide(model.outputs.table)[start : start + model.trie.sizes[level]] @ decoded


def _plain_log_likelihood(model, codes, state, item):
  """Of the item's codes one after another, each among those that some item has after the same ones."""
  total, (row, all_codes) = 0.0, (codes[item], codes[1:])
  for level in range(len(row)):
    follows = all_codes[(all_codes[:, :level] == row[:level]).all(1), level]
    logits = _logits(model, state, row[:level])
    total += logits[row[level]] - np.log(np.exp(logits[np.unique(follows)]).sum())
  return total


@nnx.jit
def _scores(model, state):
  return model.score(model.reader(state, model.user_table()), model.item_vectors(jnp.arange(_ITEMS + 1)))


def _users(number=6):
  return np.random.default_rng(1).standard_normal((number, _DIM)).astype(np.float32)


def test_scores_are_log_likelihoods_of_the_codes_in_turn():
  model, users = _model(), _users(2)
  found = np.asarray(_scores(model, users))
  assert found.shape == (_ITEMS + 1, 2)
  for user, state in enumerate(users.astype(np.float64)):
    wanted = [_plain_log_likelihood(model, _codes(), state, item) for item in range(1, _ITEMS + 1)]
    np.testing.assert_allclose(found[1:, user], wanted, rtol=1e-4, atol=1e-4)


def test_probabilities_of_all_items_sum_to_one():
  found = np.exp(np.asarray(_scores(_model(), _users())[1:], np.float64))
  np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)
  assert found.min() < 0.1 * found.max()


@functools.partial(nnx.jit, static_argnums=(3, 4))
def _beam(model, state, excluded, width, length):
  return model.beam_search(model.beam_table(), state, excluded, width=width, length=length)


@pytest.mark.parametrize("width", [_ITEMS, 100])
def test_a_beam_as_wide_as_the_catalogue_finds_what_ranking_all_finds(width):
  model, users = _model(), _users()
  seen = np.array([[1, 7, 0], [2, 2, 3], [0, 0, 0], [40, 39, 38], [5, 0, 6], [9, 10, 11]])
  scores = np.array(_scores(model, users))
  scores[0] = -np.inf
  for user, items in enumerate(seen):
    scores[items, user] = -np.inf
  items, likelihoods = _beam(model, users, seen, width, _ITEMS)
  for user, row in enumerate(np.asarray(items)):
    number = _ITEMS - len(set(seen[user]) - {0})
    np.testing.assert_array_equal(row[:number], np.argsort(-scores[:, user], kind="stable")[:number])
    assert not row[number:].any()
    np.testing.assert_allclose(likelihoods[user, :number], scores[row[:number], user], rtol=1e-4, atol=1e-5)
    assert np.isneginf(likelihoods[user, number:]).all()


def test_a_narrow_beam_keeps_the_likeliest_prefixes_alone():
  model, users = _model(), _users()
  codes, scores = _codes(), np.asarray(_scores(model, users))
  items, likelihoods = _beam(model, users, np.zeros((len(users), 1), int), 1, 1)
  for user, state in enumerate(users.astype(np.float64)):
    left = np.arange(1, _ITEMS + 1)
    for level in range(3):
      there = np.unique(codes[left, level])
      best = there[np.argmax(_logits(model, state, codes[left[0], :level])[there])]
      left = left[codes[left, level] == best]
    assert items[user].tolist() == left.tolist()
    assert float(likelihoods[user, 0]) == pytest.approx(float(scores[left[0], user]), rel=1e-4, abs=1e-4)
  with pytest.raises(ValueError, match="length = 3 must be between 1 and width = 2"):
    model.beam_search([], jnp.asarray(users), jnp.zeros((6, 1), int), width=2, length=3)


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(3)
  rows = [rng.permutation(np.arange(1, _ITEMS + 1))[: rng.integers(3, 9)] for _ in range(60)] + [
    np.arange(first, first + 8) for first in range(1, _ITEMS, 8)
  ]
  split = leave_one_out(Interactions(np.arange(len(rows)), Rows.from_lists(rows)), max_length=_LENGTH, min_length=3)
  assert split.num_items == _ITEMS
  return split


@nnx.jit
def _encoded(model, codes, positions, segments):
  x = model.embedding(codes)
  x = x.reshape(len(x), -1, _DIM) if model.per_item == 3 else x.sum(2)
  return model.users(x, positions, segments)[:, -1]


def _user_states(model, histories, wholes):
  """States after histories, each alone in its row: a token for each code, or for each item.

  They are those of the first items of whole histories of so many.
  """
  number, per_item = len(histories), model.per_item
  rows = np.zeros((number, _LENGTH), int)
  positions, segments = np.zeros((2, number, _LENGTH * per_item), int)
  for n, (history, whole) in enumerate(zip(histories, wholes)):
    rows[n, -len(history) :] = history
    first, length = (_LENGTH - whole) * per_item, len(history) * per_item
    positions[n, -length:], segments[n, -length:] = first + np.arange(length), 1
  return np.asarray(_encoded(model, jnp.asarray(_codes()[rows]), positions, segments), np.float64)


@pytest.mark.parametrize("tokens", ["codes", "items"])
def test_the_loss_is_the_mean_negative_log_likelihood_of_what_follows(tokens, split):
  model = _model(tokens=tokens)
  batches = TrainBatches(split, Layout.of(_LENGTH, packed=True), batch_size=4, seed=0)
  batch = batches.batch(0)
  assert batch.history.segments.max(1).max() > 1, "users share rows"
  rows = [batch.items[slots[slots > 0]] for slots in batch.slots]
  places = [(row, place) for row in rows for place in range(1, len(row))]
  states = _user_states(model, [row[:place] for row, place in places], [len(row) - 1 for row, _ in places])
  losses = [-_plain_log_likelihood(model, _codes(), state, row[place]) for state, (row, place) in zip(states, places)]
  found = nnx.jit(lambda model, batch: model.loss(batch))(model, batch)
  assert float(found) == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("tokens", ["codes", "items"])
def test_evaluation_reads_the_same_states(tokens, split):
  model = _model(tokens=tokens)
  (batch,) = eval_batches(split, "test", Layout.of(_LENGTH, packed=True), batch_size=80)
  states = nnx.jit(lambda model, batch: model.states((), model.user_table(), batch))(model, batch)
  histories = [np.asarray(split.inputs("test")[user]) for user in range(len(split.users))]
  wanted = _user_states(model, histories, [len(history) for history in histories])
  np.testing.assert_allclose(states.state[: len(wanted)], wanted, rtol=1e-4, atol=1e-4)


def test_gradient_reaches_every_parameter_and_training_lowers_the_loss(split):
  graphdef, params, rest = nnx.split(_model(dropout=0.1), nnx.Param, ...)
  batch = TrainBatches(split, Layout.of(_LENGTH, packed=True), batch_size=30, seed=0).batch(0)

  @jax.jit
  def step(params):
    loss = lambda p: nnx.merge(graphdef, p, rest, copy=True).loss(batch, rngs=nnx.Rngs(dropout=1))  # noqa: E731
    value, grads = jax.value_and_grad(loss)(params)
    return value, grads, jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)

  first, gradients, params = step(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.abs(leaf).max() > 1e-6, path
  for _ in range(30):
    last, _, params = step(params)
  assert np.isfinite(float(first))
  assert float(last) < 0.8 * float(first)


def test_the_trie_knows_what_may_follow_what():
  codes = _codes()
  trie = CodeTrie(codes)
  branchings = np.asarray(trie.branchings(jnp.arange(_ITEMS + 1)))
  assert not branchings[0].any()
  assert branchings.max() == trie.num_branchings
  prefixes, edges = {}, 0
  for item in range(1, _ITEMS + 1):
    for level in range(3):
      follows = np.unique(codes[1:][(codes[1:, :level] == codes[item, :level]).all(1), level])
      branching = branchings[item, level]
      assert (branching > 0) == (len(follows) > 1)
      allowed = np.flatnonzero(trie.allowed(jnp.asarray(branching), level))
      np.testing.assert_array_equal(allowed, follows if branching else [])
      if branching:
        prefix = codes[item, :level].tolist()
        edges += 0 if int(branching) in prefixes else len(follows)
        assert prefixes.setdefault(int(branching), prefix) == prefix
  assert len(prefixes) == trie.num_branchings
  assert (np.asarray(trie.edges.item) > 0).sum() == edges


def test_a_catalogue_of_one_item_is_certain():
  trie = CodeTrie(np.array([[-1, -1], [3, 0]]))
  assert trie.num_branchings == 0
  assert trie.sizes == (4, 1)
  np.testing.assert_array_equal(trie.normalisers(jnp.zeros((0, 2))), np.zeros((1, 2)))


def test_what_cannot_be_built_is_refused():
  with pytest.raises(ValueError, match="two items have the same codes"):
    CodeTrie(np.array([[-1, -1], [0, 1], [1, 1], [0, 1]]))
  with pytest.raises(OptionError, match=r"^tokens = 'item': did you mean 'items'"):
    _create(tokens="item", rngs=nnx.Rngs(0))
  with pytest.raises(OptionError, match=r"^user\.name = 'sasrek': .* did you mean 'sasrec'"):
    _create(user={"name": "sasrek"}, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="there are codes of 39 items, and 40 items"):
    _create(codes=_codes()[:-1], rngs=nnx.Rngs(0))
