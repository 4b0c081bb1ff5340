"""NFM and DeepFM against their equations, written pair by pair in float64."""

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
from mlrec.data.interaction_batches import InteractionBatches
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.models.recommenders.deepfm import weighted_relus
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _LENGTH, _DIM = 30, 4, 6
names = pytest.mark.parametrize("name", ["nfm", "deepfm"])


def _model(name, seed=0, **options):
  """A model none of whose parameters and statistics is 0 or 1."""
  options = {"dim": _DIM, **options}
  model = tiny.fresh(lambda: models.create(name, num_items=_ITEMS, max_length=_LENGTH, rngs=nnx.Rngs(seed), **options))
  rng = np.random.default_rng(seed)
  model.table.embedding[...] = jnp.asarray(rng.normal(size=(_ITEMS + 1, _DIM)), jnp.float32)
  for layer in (model.hidden, model.out):
    if layer.bias is not None:
      layer.bias[...] = jnp.asarray(rng.normal(size=layer.bias.shape), jnp.float32)
  if name == "nfm":
    for part in (model.norm.scale, model.norm.bias, model.norm.mean):
      part[...] = jnp.asarray(rng.normal(size=_DIM), jnp.float32)
    model.norm.var[...] = jnp.asarray(rng.uniform(0.5, 2, _DIM), jnp.float32)
  return model


def _wide(array) -> np.ndarray:
  return np.asarray(array, np.float64)


def _embedding(model, item: int) -> np.ndarray:
  return _wide(model.table.embedding[...])[item] * (item != 0)


def _pooled(vectors) -> np.ndarray:
  """The products of all pairs of different features."""
  total = np.zeros(_DIM)
  for n, one in enumerate(vectors):
    for other in vectors[:n]:
      total += one * other
  return total


def _score(name, model, inputs, item, statistics=None) -> float:
  """The equation of one pair: `inputs [L]` item ids, left-padded with 0, and a candidate."""
  vectors = [_embedding(model, other) for other in [*inputs, item]]
  pooled = _pooled(vectors)
  kernel, out, bias = _wide(model.hidden.kernel[...]), _wide(model.out.kernel[...])[:, 0], _wide(model.out.bias[...])[0]
  if name == "deepfm":
    return pooled.sum() + np.maximum(np.concatenate(vectors) @ kernel, 0) @ out + bias
  mean, var = statistics or (_wide(model.norm.mean[...]), _wide(model.norm.var[...]))
  normed = (pooled - mean) / np.sqrt(var + 1e-5) * _wide(model.norm.scale[...]) + _wide(model.norm.bias[...])
  return np.maximum(normed @ kernel + _wide(model.hidden.bias[...]), 0) @ out + bias


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(3)
  rows = [rng.choice(np.arange(1, _ITEMS + 1), rng.integers(3, 9), replace=False) for _ in range(40)]
  lines = Rows(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))
  return leave_one_out(Interactions(np.arange(40), lines), max_length=_LENGTH, min_length=3)


@pytest.fixture(scope="module")
def batch(split):
  """The last batch of an epoch, which has filler."""
  batches = InteractionBatches(split, batch_size=16, seed=0, inputs=True)
  batch = batches.batch(batches.steps_per_epoch - 1)
  assert 0 < batch.weights.sum() < 16
  assert (batch.inputs == 0).any()
  return batch


def _brute_loss(batch, score, *, relu=False) -> float:
  """The debiased softmax over slots, one by one."""
  real = [b for b in range(len(batch.weights)) if batch.weights[b]]
  slots = [c for b in real for c in [*batch.inputs[b], batch.targets[b]] if c]
  losses = []
  for b in real:
    row = {*batch.inputs[b], batch.targets[b]}

    def logit(c, b=b):
      value = score(batch.items[batch.inputs[b]], batch.items[c])
      return (max(value, 0) if relu else value) - float(batch.log_popularity[c])

    target = logit(batch.targets[b])
    among = [target] + [logit(c) for c in slots if c not in row]
    losses.append(np.log(np.sum(np.exp(np.array(among) - target))))
  return float(np.mean(losses))


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=tiny.QUICK)
def _compiled_scores(graphdef, state, batch, num_items):
  model = nnx.merge(graphdef, state)
  table = model.item_vectors(jnp.arange(num_items + 1))
  return model.score(model.states(table, (), batch), table)


def _scored(model, split, batch):
  """`[users, num_items + 1]`, as evaluation computes scores."""
  return np.asarray(_compiled_scores(*nnx.split(model), batch, split.num_items)).T


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _compiled_loss(graphdef, state, batch, key):
  model = nnx.merge(graphdef, state)
  loss = model.loss(batch, rngs=None if key is None else nnx.Rngs(dropout=key))
  return loss, nnx.state(model)


def _loss(model, batch, seed=None) -> float:
  """The loss, after which the model has the statistics of the batch; dropout by a seed, or evaluation."""
  loss, state = _compiled_loss(*nnx.split(model), batch, None if seed is None else jax.random.key(seed))
  nnx.update(model, state)
  return float(loss)


@names
@pytest.mark.parametrize("hidden", [0, 5])
def test_scores_at_evaluation_are_those_of_the_equation(name, hidden, split):
  model = _model(name, hidden=hidden)
  (batch,) = eval_batches(split, "test", Layout.of(_LENGTH, packed=False), batch_size=50)
  scores = _scored(model, split, batch)
  assert scores.shape == (50, split.num_items + 1)
  inputs = split.inputs("test").padded(_LENGTH)
  assert (inputs == 0).any()
  for user in (0, 7, 39):
    wanted = [_score(name, model, inputs[user], item) for item in range(1, split.num_items + 1)]
    np.testing.assert_allclose(scores[user, 1:], wanted, rtol=2e-4, atol=2e-4)


@names
def test_loss_is_that_of_a_softmax_over_slots(name, batch):
  model = _model(name)
  wanted = _brute_loss(batch, lambda inputs, item: _score(name, model, inputs, item))
  assert _loss(model, batch) == pytest.approx(wanted, rel=1e-5)


@names
def test_filler_has_no_effect(name, batch):
  model = _model(name)
  rng = np.random.default_rng(0)
  filler = batch.weights == 0
  loud = batch._replace(
    inputs=np.where(filler[:, None], rng.integers(1, 9, batch.inputs.shape), batch.inputs),
    targets=np.where(filler, 5, batch.targets),
  )
  wanted = _loss(model, batch, seed=0)
  assert _loss(_model(name), loud, seed=0) == pytest.approx(wanted, rel=1e-6)


@names
def test_pairs_score_alike_in_training_and_evaluation(name, split):
  """Without dropout and by the same statistics."""
  model = _model(name)
  (evaluated,) = eval_batches(split, "valid", Layout.of(_LENGTH, packed=False), batch_size=40)
  scores = _scored(model, split, evaluated)
  vectors = model.embeddings(jnp.arange(split.num_items + 1))
  inputs = split.inputs("valid").padded(_LENGTH)
  trained = model.pairs(model.read(vectors[inputs]), model.features(vectors))
  np.testing.assert_allclose(np.asarray(trained).T, scores, rtol=1e-5, atol=1e-5)


@names
def test_the_padding_is_zero_whatever_its_row_holds(name, batch):
  model, other = _model(name), _model(name)
  other.table.embedding[0] = 100.0
  assert _loss(model, batch) == _loss(other, batch)
  assert not np.asarray(other.item_vectors(jnp.arange(2))[0])[0].any()


@names
@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(name, training, batch):
  graphdef, params, rest = nnx.split(_model(name), nnx.Param, ...)

  @jax.jit
  def loss(params):
    return nnx.merge(graphdef, params, rest, copy=True).loss(batch, rngs=nnx.Rngs(dropout=0) if training else None)

  gradients = jax.jit(jax.grad(loss))(params)
  rng = np.random.default_rng(1)
  direction = jax.tree.map(lambda x: jnp.asarray(rng.choice([-1.0, 1.0], x.shape), jnp.float32), params)
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    # A shift of all scores changes no softmax.
    if "'out'" not in str(path) or "'bias'" not in str(path):
      assert np.abs(gradient).max() > 1e-6, path
  step = 1e-3
  ahead, behind = (jax.tree.map(lambda x, d, s=s: x + s * d, params, direction) for s in (step, -step))
  wanted = (float(loss(ahead)) - float(loss(behind))) / (2 * step)
  found = sum(float(jnp.vdot(g, d)) for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction)))
  assert found == pytest.approx(wanted, rel=0.03, abs=0.05)


def test_nfm_normalises_over_all_pairs_of_real_rows_and_slots(batch):
  model = _model("nfm")
  before = _wide(model.norm.mean[...]), _wide(model.norm.var[...])
  real = [b for b in range(len(batch.weights)) if batch.weights[b]]
  slots = [c for b in real for c in [*batch.inputs[b], batch.targets[b]] if c]
  pooled = np.array([
    _pooled([_embedding(model, item) for item in [*batch.items[batch.inputs[b]], batch.items[c]]])
    for b in real for c in slots
  ])  # fmt: skip
  statistics = pooled.mean(0), pooled.var(0)
  wanted = _brute_loss(batch, lambda inputs, item: _score("nfm", model, inputs, item, statistics))
  assert _loss(model, batch, seed=0) == pytest.approx(wanted, rel=1e-5)
  np.testing.assert_allclose(model.norm.mean[...], 0.9 * before[0] + 0.1 * pooled.mean(0), rtol=1e-5)
  np.testing.assert_allclose(model.norm.var[...], 0.9 * before[1] + 0.1 * pooled.var(0, ddof=1), rtol=1e-5)


def test_nfm_leaves_its_statistics_at_evaluation_and_on_filler_alone(batch):
  model = _model("nfm")
  before = np.asarray(model.norm.mean[...])
  _loss(model, batch)
  nothing = batch._replace(weights=0 * batch.weights, counts=0 * batch.counts)
  assert _loss(model, nothing, seed=0) == 0
  np.testing.assert_array_equal(model.norm.mean[...], before)


def test_nfms_reference_scores_are_never_negative(split, batch):
  model = _model("nfm", reference=True)
  (evaluated,) = eval_batches(split, "test", Layout.of(_LENGTH, packed=False), batch_size=40)
  scores = _scored(model, split, evaluated)
  np.testing.assert_array_equal(scores, np.maximum(_scored(_model("nfm"), split, evaluated), 0))
  assert (scores == 0).any()
  assert (scores > 0).any()
  wanted = _brute_loss(batch, lambda inputs, item: _score("nfm", model, inputs, item), relu=True)
  assert _loss(model, batch) == pytest.approx(wanted, rel=1e-5)


def test_deepfms_reference_takes_the_hidden_layers_part_for_the_embedding_at_evaluation_alone(split, batch):
  model = _model("deepfm", reference=True)
  (evaluated,) = eval_batches(split, "test", Layout.of(_LENGTH, packed=False), batch_size=40)
  scores = _scored(model, split, evaluated)
  inputs = split.inputs("test").padded(_LENGTH)
  for user in (1, 20):
    total = sum(_embedding(model, item) for item in inputs[user])
    for item in (1, 9, 17):
      vector = _embedding(model, item)
      put = vector @ _wide(model.hidden.kernel[...])[-_DIM:]
      right = _score("deepfm", model, inputs[user], item)
      assert scores[user, item] == pytest.approx(right - total @ vector + total @ put, rel=1e-4, abs=1e-4)
  assert _loss(model, batch) == _loss(_model("deepfm"), batch)


@names
def test_dropout_is_there_only_with_random_streams(name, batch):
  model, none = _model(name, dropout=0.5), _model(name)
  assert _loss(model, batch) == _loss(none, batch)
  first, again, other = (_loss(_model(name, dropout=0.5), batch, seed=n) for n in (1, 1, 2))
  assert first == again
  assert len({first, other, _loss(none, batch, seed=1)}) == 3


@pytest.mark.parametrize(
  ("name", "options", "told"),
  [
    ("nfm", {"hidden": -1}, r"^hidden = -1 must be at least 1, or 0 for dim"),
    ("deepfm", {"hidden": -1}, r"^hidden = -1 must be at least 1, or 0 for dim"),
    ("deepfm", {"hidden": 5, "reference": True}, r"^hidden = 5 must be dim = 6 with reference = True"),
    ("nfm", {"dim": 0}, "dim = 0 must be at least 1"),
    ("nfm", {"dropout": 1.0}, r"^dropout = 1\.0 must be at least 0 and below 1"),
  ],
)
def test_options_out_of_range_are_refused(name, options, told):
  with pytest.raises(OptionError, match=told):
    models.create(name, num_items=9, max_length=4, rngs=nnx.Rngs(0), **{"dim": 6, **options})


@pytest.mark.parametrize("channels", [1, 16, 33])
def test_sums_of_relus_are_the_same_some_channels_at_a_time(channels):
  rng = np.random.default_rng(channels)
  users, items, weights = rng.normal(size=(3, channels)), rng.normal(size=(5, channels)), rng.normal(size=channels)
  wanted = np.maximum(users + items[:, None], 0) @ weights
  found = weighted_relus(*(jnp.asarray(x, jnp.float32) for x in (users, items, weights)))
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
