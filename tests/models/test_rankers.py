"""DIN, DCN-V2 and the transformer against their equations, written pair by pair in float64."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import losses
from mlrec import models
from mlrec.data.batches import EvalBatch
from mlrec.data.batches import History
from mlrec.data.impression_batches import ImpressionBatch
from mlrec.models.items.fields import FieldTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.dice import Dice
from mlrec.models.recommenders.recommender import Recommender
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _LENGTH, _DIM = 12, 4, 6
_OPTIONS = {
  "din": {"attention_hidden": (5,), "hidden": (7, 3)},
  "dcn_v2": {"hidden": (7,), "cross_layers": 2},
  "transformer_ctr": {"hidden": (7,), "max_length": _LENGTH, "heads": 2},
}
names = pytest.mark.parametrize("name", _OPTIONS)
# Histories of different lengths, one of them of nothing; and what is shown after each.
_HISTORIES = np.array([[1, 2, 3, 4], [0, 0, 5, 6], [0, 0, 0, 0]])
_SHOWN = np.array([[7, 1], [8, 5], [9, 10]])


def _model(name, **options):
  """A model all of whose parameters and statistics are drawn."""
  options = {"dim": _DIM, **_OPTIONS[name], **options}
  model = tiny.normal(lambda: models.create(name, num_items=_ITEMS, rngs=nnx.Rngs(0), **options), 0.5)
  for _, module in nnx.iter_modules(model):
    if isinstance(module, Dice):
      module.norm.var[...] = jnp.abs(module.norm.var[...]) + 0.1
      module.norm.scale[...], module.norm.bias[...] = (
        jnp.ones_like(module.slope[...]),
        jnp.zeros_like(module.slope[...]),
      )
  return model


def _compiled(function, model):
  """What a function of the model gives; its operations one by one would be compiled one by one."""
  graphdef, state = nnx.split(model)
  return jax.jit(lambda state: function(nnx.merge(graphdef, state)), compiler_options=tiny.QUICK)(state)


def _logits(model):
  def logits(model):
    vectors = model.item_vectors(jnp.arange(_ITEMS + 1))
    return model.logits(model.read(vectors, jnp.asarray(_HISTORIES)), vectors[jnp.asarray(_SHOWN)])

  return _compiled(logits, model)


def _wide(variable):
  return np.asarray(variable[...], np.float64)


def _linear(layer, x):
  return x @ _wide(layer.kernel) + (0 if layer.bias is None else _wide(layer.bias))


def _dice(layers, x):
  for layer, activation in zip(layers.layers, layers.activations):
    s = _linear(layer, x)
    gate = 1 / (1 + np.exp(-(s - _wide(activation.norm.mean)) / np.sqrt(_wide(activation.norm.var) + 1e-8)))
    x = gate * s + (1 - gate) * _wide(activation.slope) * s
  return x


def _din(model, history, shown):
  interest = np.zeros(_DIM)
  for item in history:
    pair = np.concatenate([item, shown, item - shown, item * shown])
    interest += _linear(model.weight, _dice(model.unit, pair)) * item
  return _linear(model.out, _dice(model.layers, np.concatenate([interest, shown])))


def _dcn_v2(model, history, shown):
  first = x = np.concatenate([shown, np.mean(history, axis=0) if len(history) else np.zeros(_DIM)])
  for cross in model.crosses:
    below = x if cross.down is None else _linear(cross.down, x)
    x = first * _linear(cross.up, below) + x
  deep = first if model.parallel else x
  for layer in model.layers.layers:
    deep = np.maximum(_linear(layer, deep), 0)
  return _linear(model.out, np.concatenate([x, deep]) if model.parallel else deep)


def _norm(layer, x):
  centred = x - x.mean(-1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * _wide(layer.scale) + _wide(layer.bias)


def _leaky(x):
  return np.where(x > 0, x, 0.01 * x)


def _transformer_ctr(model, history, shown):
  # Padding is not there at all; what the layers above read in its places are zeros.
  positions = _wide(model.position.embedding)[_LENGTH - len(history) :]
  x = np.array([*history, shown]) + positions
  for block in model.blocks:
    heads = []
    for part in np.split(np.arange(_DIM), 2):
      query, key, value = (
        _linear(layer, x)[:, part] for layer in (block.attention.query, block.attention.key, block.attention.value)
      )
      scores = np.exp(query @ key.T / np.sqrt(len(part)))
      heads.append(scores / scores.sum(1, keepdims=True) @ value)
    x = _norm(block.attention_norm, x + _linear(block.attention.out, np.concatenate(heads, axis=1)))
    x = _norm(block.feed_forward_norm, x + _linear(block.down, _leaky(_linear(block.up, x))))
  out = np.zeros((_LENGTH + 1, _DIM))
  out[-len(x) :] = x
  out = out.ravel()
  for layer in model.layers.layers:
    out = _leaky(_linear(layer, out))
  return _linear(model.out, out)


_EQUATIONS = {"din": _din, "dcn_v2": _dcn_v2, "transformer_ctr": _transformer_ctr}


def _assert_equation(name, model):
  vectors = _wide(model.items.table.embedding)
  wanted = [
    [_EQUATIONS[name](model, vectors[history[history > 0]], vectors[item])[0] for item in row]
    for history, row in zip(_HISTORIES, _SHOWN)
  ]
  np.testing.assert_allclose(_logits(model), wanted, rtol=2e-4, atol=2e-5)


@names
def test_logits_are_those_of_the_equations(name):
  _assert_equation(name, _model(name))


@pytest.mark.parametrize("options", [{"rank": 2}, {"structure": "stacked"}, {"rank": 3, "structure": "stacked"}])
def test_crosses_of_low_rank_and_stacked_ones_are_those_of_the_equations(options):
  _assert_equation("dcn_v2", _model("dcn_v2", **options))


@names
def test_a_score_of_all_items_is_that_of_pairs(name):
  model = _model(name)
  tokens = jnp.asarray(_HISTORIES, jnp.int32)
  last = jnp.arange(len(tokens)) * _LENGTH + _LENGTH - 1
  nobody = jnp.zeros(len(tokens), jnp.int32)
  batch = EvalBatch(History(tokens, jnp.zeros_like(tokens), tokens), last, nobody, nobody[:, None], nobody)

  def scored(model):
    table = model.item_vectors(jnp.arange(_ITEMS + 1))
    return model.score(model.states(table, (), batch), table)

  scores = np.asarray(_compiled(scored, model))
  assert scores.shape == (_ITEMS + 1, len(tokens))
  wanted = _logits(model)
  np.testing.assert_allclose(scores[_SHOWN.T, np.arange(3)].T, wanted, rtol=1e-5, atol=1e-6)


@names
def test_the_loss_is_the_mean_cross_entropy_of_real_rows_and_each_parameter_has_a_gradient(name):
  model = _model(name)
  items = np.arange(_ITEMS + 1)
  labels, weights = np.array([[1, 0], [0, 1], [1, 1]], np.float32), np.array([1, 1, 0], np.float32)
  batch = ImpressionBatch(items, _HISTORIES, _SHOWN, labels, weights)
  logits = np.asarray(_logits(model), np.float64)[:2]
  wanted = (np.log1p(np.exp(logits)) - labels[:2] * logits).mean()
  assert float(_compiled(lambda model: model.loss(batch), model)) == pytest.approx(wanted, rel=1e-4)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  def loss(params):
    return nnx.merge(graphdef, params, rest, copy=True).loss(batch, rngs=nnx.Rngs(dropout=0))

  gradients = jax.jit(jax.grad(loss), compiler_options=tiny.QUICK)(params)
  for path, gradient in nnx.to_flat_state(gradients):
    assert np.isfinite(gradient[...]).all(), path
    # What is only in rows of weight 0 moves nothing.
    assert np.abs(gradient[...]).sum() > 0, path
    if path[-1] == "embedding" and "table" in path:
      moved = np.flatnonzero(np.abs(gradient[...]).sum(1))
      assert set(moved) == {*_HISTORIES[:2].ravel().tolist(), *_SHOWN[:2].ravel().tolist()} - {0}


def test_cross_entropy_of_nothing_is_zero_and_of_large_logits_finite():
  assert float(losses.binary_cross_entropy(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.zeros(2))) == 0
  large = losses.binary_cross_entropy(jnp.array([[1e4], [-1e4]]), jnp.array([[0.0], [0.0]]), jnp.ones(2))
  assert float(large) == pytest.approx(5e3)


def test_dice_has_statistics_of_real_rows_and_runs_on_them():
  layer = Dice(2)
  x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32) * 3 + 1
  filled = np.concatenate([x, np.full((10, 2), 1e3, np.float32)])
  weights = jnp.asarray(np.repeat([1.0, 0.0], [50, 10]))
  layer.slope[...] = jnp.array([0.25, -0.5])
  found = np.asarray(layer(jnp.asarray(filled), Context(True, None, weights)))[:50]
  gate = 1 / (1 + np.exp(-(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-8)))
  np.testing.assert_allclose(found, (gate + (1 - gate) * [0.25, -0.5]) * x, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(layer.norm.mean[...], 0.1 * x.mean(0), rtol=1e-5)
  assert len(nnx.to_flat_state(nnx.state(layer, nnx.Param))) == 1


def test_fields_are_means_of_the_values_that_are_there():
  tags = np.array([[0, 0], [0, 2], [1, 2]])
  level = np.array([0, 3, 0])
  tower = tiny.normal(
    lambda: FieldTower(2, 4, embedding=3, item_fields={"tags": tags, "level": level}, rngs=nnx.Rngs(0)), 1.0
  )
  # Shapes alone were made: the values are the data's.
  tower.values["tags"][...], tower.values["level"][...] = jnp.asarray(tags), jnp.asarray(level[:, None])
  tables = {name: _wide(tower.tables[name].embedding) for name in ("tags", "level")}
  zeros = np.zeros(3)
  wanted = [
    [zeros, zeros],
    [tables["level"][3], tables["tags"][2]],
    [zeros, (tables["tags"][1] + tables["tags"][2]) / 2],
  ]
  found = tower(jnp.arange(3))
  np.testing.assert_allclose(found, _linear(tower.projection, np.reshape(wanted, (3, 6))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("name", "options", "told"),
  [
    ("din", {"hidden": (8, 0)}, r"hidden = \(8, 0\) must be widths of at least 1"),
    ("din", {"attention_hidden": (0,)}, r"attention_hidden = \(0,\) must be widths"),
    ("din", {"dropout": 1.0}, "dropout = 1.0 must be at least 0 and below 1"),
    ("dcn_v2", {"structure": "stackt"}, "structure = 'stackt': did you mean 'stacked'"),
    ("dcn_v2", {"rank": -1}, "rank = -1 must be at least 0"),
    ("dcn_v2", {"cross_layers": 0}, "cross_layers = 0 must be at least 1"),
    ("transformer_ctr", {"heads": 4}, "heads = 4: dim = 6 must be a multiple"),
    ("transformer_ctr", {"item": {"name": "fields"}}, "item.name = 'fields' reads categories of items"),
    ("din", {"hiden": (8,)}, "did you mean 'hidden'"),
  ],
)
def test_options_that_are_not_possible_are_named(name, options, told):
  with pytest.raises(OptionError, match=told):
    models.create(name, section={"dim": _DIM, **options}, num_items=_ITEMS, rngs=nnx.Rngs(0))


def test_a_ranker_is_a_recommender_of_whoever_has_a_history():
  model = _model("din")
  assert isinstance(model, Recommender)
  assert not model.by_user
  assert jax.tree.leaves(model.user_table()) == []
