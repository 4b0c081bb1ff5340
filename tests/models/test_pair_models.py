"""DSSM, VBPR and YouTube against loops over their equations in float64; padding, filler, gradients."""

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
from mlrec.data.interaction_batches import InteractionBatches
from mlrec.data.interactions import Interactions
from mlrec.models.layers.variables import Frozen
from support import tiny_encoders as tiny

_USERS, _ITEMS, _WIDTH = 9, 12, 5
_FEATURES = np.random.default_rng(5).normal(size=(_ITEMS + 1, _WIDTH)).astype(np.float32)
_FEATURES[0] = 0


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(0)
  rows = [list(rng.choice(_ITEMS, rng.integers(5, 9), replace=False) + 1) for _ in range(_USERS - 1)]
  return leave_one_out(Interactions(np.arange(_USERS), Rows.from_lists([*rows, list(range(1, _ITEMS + 1))])))


def _model(name, **options):
  def build():
    model = models.create(name, num_items=_ITEMS, rngs=nnx.Rngs(0), **options)
    # Larger than at the start, so that scores differ by more than rounding.
    nnx.update(model, jax.tree.map(lambda x: 3 * x + 0.1, nnx.state(model, nnx.Param)))
    return model

  return tiny.fresh(build)


def _batch(split, *, inputs=False, negatives=0, multiple_of=1, step=0):
  stream = InteractionBatches(split, batch_size=11, seed=1, inputs=inputs, negatives=negatives, multiple_of=multiple_of)
  batch = stream.batch(step)
  return batch._replace(content={"features": _FEATURES[batch.items]})


def _array(x):
  return np.asarray(x, np.float64)


def _lists(rows):
  return [rows[n].tolist() for n in range(len(rows))]


def _cross_entropy(logits, label):
  return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _compiled(graphdef, state, batch, key):
  def loss(params, rest):
    model = nnx.merge(graphdef, params, rest, copy=True)
    value = model.loss(batch, rngs=None if key is None else nnx.Rngs(dropout=key))
    return value, nnx.state(model, nnx.BatchStat)

  (value, statistics), gradients = jax.value_and_grad(loss, has_aux=True)(*state)
  return value, gradients, statistics


def _loss(model, batch, seed=None):
  return float(_step(model, batch, seed)[0])


def _step(model, batch, seed=None):
  """The loss, its gradients, and the statistics of batch normalisation after it."""
  graphdef, *state = nnx.split(model, nnx.Param, ...)
  return _compiled(graphdef, state, batch, None if seed is None else jax.random.key(seed))


def _states(model, split, name="valid"):
  """Users' states and the items' vectors, as evaluation asks for them."""
  layout = Layout.of(split.max_length, packed=not model.reads_padding)
  (batch,) = eval_batches(split, name, layout, batch_size=16)
  states, table = _compiled_states(*nnx.split(model), batch)
  return _array(states)[:_USERS], _array(table)


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _compiled_states(graphdef, state, batch):
  model = nnx.merge(graphdef, state)
  table = model.item_vectors(jnp.arange(_ITEMS + 1), {"features": jnp.asarray(_FEATURES)})
  return model.states(table, model.user_table(), batch), table


def _pair_loss(users, items, batch, split):
  """The in-batch softmax over pairs, a logit for each of the batch's places whichever item it holds."""
  real = batch.weights > 0
  whom, ids = batch.users[real], batch.items[batch.targets[real]]
  out = []
  for a in range(len(ids)):
    logits = np.array([users[whom[a]] @ items[i] - np.log(split.popularity[i]) for i in ids])
    logits[[b for b in range(len(ids)) if b != a and ids[b] == ids[a]]] = -1e8
    out.append(_cross_entropy(logits, a))
  return np.mean(out)


@pytest.mark.parametrize("options", [{}, {"visual_dim": 3, "feature_dim": _WIDTH}], ids=["ids", "ids and vectors"])
def test_dssm_is_its_equation(split, options):
  model = _model("dssm", num_users=_USERS, dim=4, **options)
  users, items = _array(model.users.embedding[...]), _array(model.items.table.embedding[...])
  if options:
    users = np.concatenate([users, _array(model.tastes.embedding[...])], axis=1)
    items = np.concatenate([items, _FEATURES @ _array(model.projection.kernel[...])], axis=1)
  for step in (0, 1):
    batch = _batch(split, step=step)
    targets = batch.targets[batch.weights > 0]
    assert len(np.unique(targets)) < len(targets), "an item twice, which is excluded"
    assert _loss(model, batch) == pytest.approx(_pair_loss(users, items, batch, split), rel=1e-5)
  states, table = _states(model, split)
  np.testing.assert_allclose(states @ table.T, users @ items.T, rtol=1e-4, atol=1e-5)


def test_the_reference_adds_a_term_of_the_vectors_in_evaluation_alone(split):
  options = {"num_users": _USERS, "dim": 4, "visual_dim": 3, "feature_dim": _WIDTH}
  plain, reference = _model("dssm", **options), _model("dssm", reference=True, **options)
  batch = _batch(split)
  assert _loss(reference, batch) == _loss(plain, batch)
  states, table = _states(plain, split)
  wanted = states @ table.T + (_FEATURES @ _array(reference.visual_bias[...])).T
  states, table = _states(reference, split)
  np.testing.assert_allclose(states @ table.T, wanted, rtol=1e-4, atol=1e-5)
  assert isinstance(reference.visual_bias, Frozen)
  assert np.abs(wanted - states[:, :-1] @ table[:, :-1].T).max() > 0.1


def test_dssms_layers_normalise_over_the_batchs_interactions(split):
  """As if each interaction had been put through the tower for itself, an item as often as it is named."""
  model = _model("dssm", num_users=_USERS, dim=4, hidden=(6, 3))
  batch = _batch(split, multiple_of=8)
  real = batch.weights > 0
  assert not real.all()

  def through(x, layers):
    for linear, norm in zip(layers.layers, layers.norms):
      x = x @ _array(linear.kernel[...]) + _array(linear.bias[...])
      x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * _array(norm.scale[...]) + _array(norm.bias[...])
      x = np.tanh(x)
    return x

  whom, ids = batch.users[real], batch.items[batch.targets[real]]
  users = through(_array(model.users.embedding[...])[whom], model.user_layers)
  items = through(_array(model.items.table.embedding[...])[ids], model.item_layers)
  logits = users @ items.T - np.log(split.popularity[ids])
  logits[(ids[:, None] == ids) & ~np.eye(len(ids), dtype=bool)] = -1e8
  wanted = np.mean([_cross_entropy(row, a) for a, row in enumerate(logits)])
  assert _loss(model, batch, seed=0) == pytest.approx(wanted, rel=1e-4)
  statistics = dict(nnx.to_flat_state(_step(model, batch, seed=0)[2]))
  raw = _array(model.items.table.embedding[...])[ids] @ _array(model.item_layers.layers[0].kernel[...])
  np.testing.assert_allclose(
    statistics["item_layers", "norms", 0, "mean"][...],
    0.1 * (raw.mean(0) + _array(model.item_layers.layers[0].bias[...])), rtol=1e-4, atol=1e-6,
  )  # fmt: skip
  states, table = _states(model, split)
  assert states.shape[1] == table.shape[1] == 3


def test_dropout_acts_in_training_alone_and_by_its_key(split):
  model = _model("dssm", num_users=_USERS, dim=8, hidden=(8,), dropout=0.5)
  batch = _batch(split)
  first, again, other = (_loss(model, batch, seed) for seed in (0, 0, 1))
  assert first == again != other
  states, table = _states(model, split)
  np.testing.assert_array_equal(_states(model, split)[0], states)
  assert np.isfinite(table).all()


@pytest.mark.parametrize("negatives", [1, 3])
def test_vbpr_is_its_equation(split, negatives):
  model = _model("vbpr", num_users=_USERS, dim=4, visual_dim=3, negatives=negatives, feature_dim=_WIDTH)
  users, tastes = _array(model.users.embedding[...]), _array(model.tastes.embedding[...])
  items, bias = _array(model.items.table.embedding[...]), _array(model.bias.embedding[...])
  projection, visual_bias = _array(model.projection.kernel[...]), _array(model.visual_bias.kernel[...])
  model.bias.embedding[...] = jnp.asarray(bias + np.arange(_ITEMS + 1)[:, None] / 10, jnp.float32)
  bias = _array(model.bias.embedding[...])

  def score(u, i):
    by_vector = tastes[u] @ (_FEATURES[i] @ projection) + _FEATURES[i] @ visual_bias[:, 0]
    return bias[i, 0] + users[u] @ items[i] + by_vector

  batch = _batch(split, negatives=negatives)
  out = []
  for u, target, drawn in zip(batch.users, batch.items[batch.targets], batch.items[batch.negatives]):
    out.append(np.mean([np.log1p(np.exp(score(u, j) - score(u, target))) for j in drawn]))
  assert _loss(model, batch) == pytest.approx(np.mean(out), rel=1e-5)
  states, table = _states(model, split)
  wanted = [[score(u, i) for i in range(_ITEMS + 1)] for u in range(_USERS)]
  np.testing.assert_allclose(states @ table.T, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (6, 4)])
def test_youtube_is_its_equation(split, hidden):
  model = _model("youtube", dim=4, hidden=hidden)
  items = _array(model.items.table.embedding[...])

  def user(history):
    state = np.mean([items[i] for i in history], axis=0)
    for layer in model.layers.layers:
      state = np.maximum(state @ _array(layer.kernel[...]) + _array(layer.bias[...]), 0)
    return state

  batch = _batch(split, inputs=True)
  ids = batch.items
  rows = [([int(ids[c]) for c in row if c], int(ids[target])) for row, target in zip(batch.inputs, batch.targets)]
  slots = [i for history, target in rows for i in (*history, target)]
  losses = []
  for history, target in rows:
    assert sorted([*history, target]) in [sorted(row) for row in _lists(split.train)]
    candidates = [i for i in slots if i not in (*history, target)]
    logits = np.array([user(history) @ items[i] - np.log(split.popularity[i]) for i in (target, *candidates)])
    losses.append(_cross_entropy(logits, 0))
  assert _loss(model, batch) == pytest.approx(np.mean(losses), rel=1e-5)
  for name in ("valid", "test"):
    states, table = _states(model, split, name)
    wanted = [user(history) for history in _lists(split.inputs(name))]
    np.testing.assert_allclose(states, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table, items, rtol=1e-6)


_KINDS = [
  ("dssm", {"num_users": _USERS, "dim": 4, "hidden": (5,)}),
  ("dssm", {"num_users": _USERS, "dim": 4, "visual_dim": 3, "feature_dim": _WIDTH}),
  ("vbpr", {"num_users": _USERS, "dim": 4, "visual_dim": 3, "feature_dim": _WIDTH}),
  ("youtube", {"dim": 4}),
  ("youtube", {"dim": 4, "item": {"name": "id_features"}, "item_data": {"feature_dim": _WIDTH}}),
]


@pytest.mark.parametrize(("name", "options"), _KINDS)
def test_filler_changes_neither_loss_nor_gradients(split, name, options):
  model = _model(name, **options)
  exact, filled = (
    _batch(split, inputs=model.reads_inputs, negatives=model.negatives, multiple_of=multiple) for multiple in (1, 8)
  )
  assert len(filled.targets) > len(exact.targets)
  assert len(filled.items) > len(exact.items)
  (wanted, *wanted_arrays), (found, *found_arrays) = (_step(model, batch, seed=0) for batch in (exact, filled))
  assert float(found) == pytest.approx(float(wanted), rel=1e-5)
  for one, other in zip(jax.tree.leaves(found_arrays), jax.tree.leaves(wanted_arrays), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), _KINDS)
def test_the_padding_items_row_and_users_not_named_take_no_gradient(split, name, options):
  model = _model(name, **options)
  batch = _batch(split, inputs=model.reads_inputs, negatives=model.negatives, multiple_of=8)
  gradients = nnx.to_flat_state(_step(model, batch)[1])
  tables = {path: np.asarray(gradient[...]) for path, gradient in gradients if path[-1] == "embedding"}
  named = {"items": batch.items, "bias": batch.items, "users": batch.users, "tastes": batch.users}
  for path, gradient in tables.items():
    others = np.setdiff1d(np.arange(len(gradient)), named[path[0]])
    assert not gradient[others].any(), path
    assert gradient.any(), path
    if path[0] in ("items", "bias"):
      assert not gradient[0].any(), path


def test_youtubes_history_of_no_item_is_no_division_by_zero(split):
  batch = _batch(split, inputs=True)
  assert np.isfinite(_loss(_model("youtube", dim=4), batch._replace(inputs=np.zeros_like(batch.inputs))))


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("dssm", {"num_users": 3, "dim": 0}, r"^dim = 0 must be at least 1"),
    ("dssm", {"num_users": 3, "hidden": (4, 0)}, r"^hidden = \(4, 0\) must be widths of at least 1"),
    ("dssm", {"num_users": 3, "hidden": (4, 2.5)}, r"^hidden = \(4, 2\.5\) must be a list of integers"),
    ("dssm", {"num_users": 3, "visual_dim": -1}, r"^visual_dim = -1 must be at least 0"),
    ("dssm", {"num_users": 3, "visual_dim": 2}, r"config\.data\.features is empty, and 'dssm' with .*visual_dim = 2"),
    ("dssm", {"num_users": 3, "reference": True}, r"^reference = True .* visual_dim above 0"),
    ("dssm", {"num_users": 3, "hiden": (4,)}, r"^hiden = \(4,\): 'dssm' has no such option; did you mean 'hidden'"),
    ("vbpr", {"num_users": 3}, r"config\.data\.features is empty, and 'vbpr' reads vectors"),
    ("vbpr", {"num_users": 3, "negatives": 0}, r"^negatives = 0 must be at least 1"),
    ("youtube", {"dim": 4, "hidden": (8, 6)}, r"^hidden = \(8, 6\) must end in dim = 4"),
    ("youtube", {"dim": 0}, r"^dim = 0 must be at least 1"),
    (
      "youtube",
      {"dim": 4, "item": {"name": "ids"}},
      r"^item\.name = 'ids': .* item tower; did you mean 'id'",
    ),
    ("youtube", {"dim": 4, "item": {"name": "features"}}, r"config\.data\.features is empty, .*'features'"),
  ],
)
def test_what_cannot_be_built_is_refused_by_name(name, options, message):
  with pytest.raises(ValueError, match=message):
    models.create(name, num_items=3, rngs=nnx.Rngs(0), **options)
