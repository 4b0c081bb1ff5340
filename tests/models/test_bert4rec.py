"""BERT4Rec: what is masked, what a place sees, and the loss of the masked places."""

import functools

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
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _LENGTH, _DIM = 40, 5, 8


def _model(**options):
  """A model none of whose parameters is 0 or 1."""
  options = {"dim": _DIM, "dropout": 0.0, **options}
  create = functools.partial(models.create, "bert4rec", num_items=_ITEMS, max_length=_LENGTH, **options)
  return tiny.normal(lambda: create(rngs=nnx.Rngs(0)), 0.5)


_loss = nnx.jit(lambda model, batch, rngs=None: model.loss(batch, rngs=rngs))
_states = nnx.jit(lambda model, vectors, tokens, masked: model.row_states(vectors, tokens, masked))


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(3)
  # All items, so that dense ids are the ids.
  rows = [rng.permutation(np.arange(1, _ITEMS + 1))[: rng.integers(3, 9)] for _ in range(60)] + [
    np.arange(first, first + 8) for first in range(1, _ITEMS, 8)
  ]
  split = leave_one_out(Interactions(np.arange(len(rows)), Rows.from_lists(rows)), max_length=_LENGTH, min_length=3)
  assert split.num_items == _ITEMS
  return split


def _batch(split, groups=1, **options):
  layout = Layout.of(_LENGTH, packed=False)
  batches = TrainBatches(split, layout, batch_size=12, seed=0, negative_groups=groups, **options)
  return batches.batch(batches.steps_per_epoch - 1)


def _wide(parameter) -> np.ndarray:
  return np.asarray(parameter[...], np.float64)


def _norm(layer, x):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * _wide(layer.scale) + _wide(layer.bias)


def _gelu(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _expected(model, vectors: np.ndarray) -> np.ndarray:
  """States of one row's `vectors [n, D]`, masked ones replaced, by the paper's sections 3.2 to 3.5 in float64."""
  layers, number = model.layers, len(vectors)
  x = _norm(layers.norm, vectors + _wide(layers.position.embedding)[-number:])
  for block in layers.blocks:
    attention, heads = block.attention, []
    for head in range(2):
      part = slice(head * _DIM // 2, (head + 1) * _DIM // 2)
      projections = attention.query, attention.key, attention.value
      query, key, value = (x @ _wide(layer.kernel)[:, part] for layer in projections)
      weights = np.exp(query @ key.T / np.sqrt(_DIM // 2))
      heads.append(weights / weights.sum(1, keepdims=True) @ value)
    x = _norm(block.attention_norm, x + np.concatenate(heads, 1) @ _wide(attention.out.kernel))
    up = _gelu(x @ _wide(block.up.kernel) + _wide(block.up.bias))
    x = _norm(block.feed_forward_norm, x + up @ _wide(block.down.kernel) + _wide(block.down.bias))
  return _norm(model.norm, _gelu(x @ _wide(model.out.kernel) + _wide(model.out.bias)))


def _row_states(model, row, masked):
  """States of a row of item ids, `masked` a bool for each."""
  table = _wide(model.items.table.embedding)
  return _expected(model, np.where(np.asarray(masked)[:, None], _wide(model.mask), table[row]))


def test_states_are_those_of_the_papers_equations():
  model = _model()
  rows = [[3, 9, 27, 4], [5, 6], [1, 2, 3, 4, 5, 6]]
  masks = [[False, True, False, True], [True, False], [False] * 5 + [True]]
  tokens = np.zeros((3, _LENGTH + 1), np.int32)
  masked = np.zeros(tokens.shape, bool)
  for n, (row, mask) in enumerate(zip(rows, masks)):
    tokens[n, -len(row) :], masked[n, -len(row) :] = row, mask
  states = _states(model, model.item_vectors(jnp.arange(_ITEMS + 1)), tokens, masked)
  for n, (row, mask) in enumerate(zip(rows, masks)):
    np.testing.assert_allclose(states[n, -len(row) :], _row_states(model, row, mask), rtol=1e-4, atol=1e-4)


def test_a_masked_place_sees_all_others_and_not_its_item():
  model = _model()
  vectors = model.item_vectors(jnp.arange(_ITEMS + 1))
  row = np.array([[0, 0, 4, 7, 2, 9]], np.int32)
  for place in (2, 3, 5):
    masked = np.arange(_LENGTH + 1)[None] == place
    states = _states(model, vectors, row, masked)
    for other in range(2, 6):
      changed = row.copy()
      changed[0, other] = 30
      moved = np.abs(_states(model, vectors, changed, masked)[0, place] - states[0, place]).max()
      assert (moved == 0) if other == place else (moved > 1e-3)


def test_padding_has_no_effect():
  model = _model()
  vectors = model.item_vectors(jnp.arange(_ITEMS + 1))
  row = np.array([[0, 0, 4, 7, 2, 9]], np.int32)
  masked = np.arange(_LENGTH + 1)[None] == 5
  wanted = _states(model, vectors, row, masked)[0, 2:]
  np.testing.assert_allclose(_states(model, vectors.at[0].add(9.0), row, masked)[0, 2:], wanted, rtol=0, atol=1e-6)


def test_evaluation_appends_a_mask_to_the_history(split):
  model = _model()
  (batch,) = eval_batches(split, "test", Layout.of(_LENGTH, packed=False), batch_size=80)
  table = model.item_vectors(jnp.arange(_ITEMS + 1))
  states = nnx.jit(lambda model, table, batch: model.states(table, (), batch))(model, table, batch)
  assert states.shape == (80, _DIM)
  for user in (0, 5, 60, 64):
    history = [*split.inputs("test")[user], 0]
    wanted = _row_states(model, history, np.arange(len(history)) == len(history) - 1)[-1]
    np.testing.assert_allclose(states[user], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 3])
def test_loss_is_the_debiased_softmax_over_slots_at_the_last_places(groups, split):
  model = _model()
  batch = _batch(split, groups)
  number = batch.slots.shape[0]
  real = [b for b in range(number) if batch.slots[b].any()]
  assert len(real) < number, "the last batch has filler"
  table = _wide(model.items.table.embedding)
  losses = []
  for b in real:
    columns = [c for c in batch.slots[b] if c]
    row = batch.items[columns]
    state = _row_states(model, row, np.arange(len(row)) == len(row) - 1)[-1]
    others = [c for other in real if other % groups == b % groups for c in batch.slots[other] if c and c not in columns]
    logits = np.array([state @ table[batch.items[c]] - batch.log_popularity[c] for c in [columns[-1], *others]])
    losses.append(np.log(np.exp(logits - logits[0]).sum()))
  assert float(_loss(model, batch)) == pytest.approx(np.mean(losses), rel=1e-5)


def _masks(model, tokens, steps=400):
  draw = jax.jit(lambda key: model.masked_places(tokens, nnx.Rngs(dropout=key)))
  return np.stack([draw(jax.random.key(step)) for step in range(steps)])


def test_items_are_masked_at_the_asked_rate_or_the_last_alone():
  tokens = jnp.array([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 3]] + 21 * [[6, 5, 4, 3, 2, 1]])
  masks = _masks(_model(mask_probability=0.3, last_probability=0.0), tokens)
  assert not masks[:, 0].any(), "filler"
  assert (masks[:, 1] == (np.arange(6) == 5)).all(), "one item is always masked"
  assert masks[:, 2:].any(axis=2).all()
  none = 0.7**6  # then the last one is
  assert masks[:, 2:, :5].mean() == pytest.approx(0.3, abs=0.01)
  assert masks[:, 2:, 5].mean() == pytest.approx(0.3 + none, abs=0.015)
  masks = _masks(_model(mask_probability=1.0, last_probability=0.25), tokens)
  alone = (masks[:, 2:] == (np.arange(6) == 5)).all(axis=2)
  assert alone.mean() == pytest.approx(0.25, abs=0.02)
  assert masks[:, 2:][~alone].all()


def test_loss_in_training_is_that_of_the_places_drawn(split):
  model = _model(mask_probability=0.5)
  batch = _batch(split)
  masked = np.asarray(model.masked_places(jnp.asarray(batch.slots), nnx.Rngs(dropout=7)))
  table = _wide(model.items.table.embedding)
  slots = [c for c in batch.slots.ravel() if c]
  losses = []
  for b, columns in enumerate(batch.slots):
    here = np.flatnonzero(columns)
    if not len(here):
      continue
    states = _row_states(model, batch.items[columns[here]], masked[b, here])
    for n in np.flatnonzero(masked[b, here]):
      among = [columns[here][n]] + [c for c in slots if c not in columns]
      logits = np.array([states[n] @ table[batch.items[c]] - batch.log_popularity[c] for c in among])
      losses.append(np.log(np.exp(logits - logits[0]).sum()))
  assert len(losses) > len(batch.slots)
  assert float(_loss(model, batch, nnx.Rngs(dropout=7))) == pytest.approx(np.mean(losses), rel=1e-5)


def test_gradient_reaches_every_parameter(split):
  graphdef, state = nnx.split(_model())
  batch = _batch(split)
  gradients = jax.jit(jax.grad(lambda s: nnx.merge(graphdef, s).loss(batch, rngs=nnx.Rngs(dropout=1))))(state)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.abs(leaf).max() > 1e-6, path
  assert not np.asarray(gradients["items"]["table"]["embedding"][...])[0].any(), "the padding takes no gradient"


@pytest.mark.parametrize("option", ["mask_probability", "last_probability"])
def test_probabilities_out_of_range_are_refused(option):
  with pytest.raises(OptionError, match=rf"^{option} = 1\.5 must be between 0 and 1"):
    _model(**{option: 1.5})
