import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import losses
from mlrec import models
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.data.interactions import Interactions
from mlrec.losses import in_batch_softmax
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_COLUMNS = 41


def _built(num_items=40, dim=16, user="sasrec", blocks=1, **options):
  user = {"name": user, "blocks": blocks, **options}
  return models.create("sequential", num_items=num_items, dim=dim, user=user, rngs=nnx.Rngs(0))


def _sequential(**options):
  return tiny.fresh(lambda: _built(**options))


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _value_and_grad(graphdef, state, batch):
  return jax.value_and_grad(lambda state: nnx.merge(graphdef, state).loss(batch))(state)


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _compiled_loss(graphdef, state, batch, key):
  rngs = None if key is None else nnx.Rngs(dropout=key)
  return nnx.merge(graphdef, state).loss(batch, rngs=rngs)


def _loss(model, batch, seed=None) -> float:
  return float(_compiled_loss(*nnx.split(model), batch, None if seed is None else jax.random.key(seed)))


def _loss_and_gradients(model, batch):
  """The loss, and its gradients under the names of the parameters."""
  graphdef, state = nnx.split(model)
  loss, gradients = _value_and_grad(graphdef, state, batch)
  return float(loss), to_torch(nnx.merge(graphdef, gradients))


@pytest.fixture(scope="module")
def golden_model(golden):
  arrays = golden("id_model_loss_sasrec")
  model = _sequential(dim=32, blocks=2)
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  return model, arrays


def test_golden_loss_and_gradients_of_the_whole_model(golden_model, padded_batch):
  model, arrays = golden_model
  batch = padded_batch(arrays["sample_items_id"], np.log(arrays["pop_prob_list"]))
  loss, gradients = _loss_and_gradients(model, batch)
  assert loss == pytest.approx(float(arrays["loss"]), rel=1e-6)
  wanted = {key.removeprefix("grad/"): value for key, value in arrays.items() if key.startswith("grad/")}
  assert gradients.keys() == wanted.keys()
  for key, value in wanted.items():
    np.testing.assert_allclose(gradients[key], value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=key)
  assert not gradients["id_encoder.weight"][0].any(), "the padding row takes no gradient"
  np.testing.assert_array_equal(to_torch(model)["id_encoder.weight"][0], arrays["padding_row"])
  assert arrays["padding_row"].any()


def test_golden_logits(golden_model, padded_batch):
  model, arrays = golden_model
  rows = arrays["sample_items_id"]
  batch = padded_batch(rows, np.log(arrays["pop_prob_list"]))
  vectors, states = _vectors_and_states(*nnx.split(model), batch)
  states = np.asarray(states)[batch.weights != 0]
  logits = states @ np.asarray(vectors)[batch.slots.reshape(-1)].T - np.log(arrays["pop_prob_list"])[rows.reshape(-1)]
  masked = arrays["masked"]
  np.testing.assert_allclose(logits[~masked], arrays["logits_at_real_positions"][~masked], rtol=0, atol=1e-4)


def _batches(*, packed, batch_size=8, num_users=24, groups=1, width=0, num_items=40, seed=0, negatives=0):
  rng = np.random.default_rng(seed)
  lists = [rng.integers(1, num_items + 1, rng.integers(5, 10)) for _ in range(num_users)]
  # Four users whose histories hold every item between them, so that all exist.
  split = leave_one_out(
    Interactions(np.arange(num_users + 4), Rows.from_lists([*lists, *np.arange(1, 41).reshape(4, 10)]))
  )
  assert split.num_items == num_items
  layout = Layout(10, packed, width or 10)
  return TrainBatches(split, layout, batch_size=batch_size, seed=seed, negative_groups=groups, negatives=negatives)


@pytest.mark.parametrize(("width", "groups"), [(0, 1), (24, 4)])
def test_packed_rows_give_the_loss_and_gradients_of_padded_rows(width, groups):
  model = _sequential()
  packed = _batches(packed=True, width=width, groups=groups)
  padded = _batches(packed=False, groups=groups)
  assert packed.batch(0).weights.size < padded.batch(0).weights.size or width or groups > 1
  for step in (0, 3):
    loss, gradients = _loss_and_gradients(model, packed.batch(step))
    wanted, wanted_gradients = _loss_and_gradients(model, padded.batch(step))
    assert loss == pytest.approx(wanted, rel=1e-5)
    for key, value in wanted_gradients.items():
      np.testing.assert_allclose(gradients[key], value, rtol=0, atol=2e-5 * np.abs(value).max(), err_msg=key)


def test_pipeline_batch_gives_the_loss_of_the_batch_stated_by_loops(padded_batch):
  model = _sequential()
  batches = _batches(packed=True)
  batch = batches.batch(1)
  stated = _small_batch(padded_batch, batch.items[batch.slots], np.log(np.maximum(batches.split.popularity, 1e-30)))
  loss, gradients = _loss_and_gradients(model, batch)
  wanted, wanted_gradients = _loss_and_gradients(model, stated)
  assert loss == pytest.approx(wanted, rel=1e-5)
  for key, value in wanted_gradients.items():
    np.testing.assert_allclose(gradients[key], value, rtol=0, atol=2e-5 * np.abs(value).max(), err_msg=key)


def _with_columns(batch, columns=_COLUMNS):
  """A batch with filler columns, so that one compilation serves several batches."""
  filler = columns - len(batch.items)
  return batch._replace(
    items=np.pad(batch.items, (0, filler)),
    counts=np.pad(batch.counts, ((0, 0), (0, filler))),
    log_popularity=np.pad(batch.log_popularity, (0, filler)),
  )


def _small_batch(padded_batch, rows, log_share=None):
  """A batch of a few rows in the one shape of these tests, whose other rows and columns are filler."""
  whole = np.zeros((8, 11), int)
  whole[: len(rows), 11 - rows.shape[1] :] = rows
  log_share = np.log(np.full(_COLUMNS, 1 / 12)) if log_share is None else log_share
  return _with_columns(padded_batch(whole, log_share))


_ROWS = np.array([[0, 0, 1, 2, 3, 4], [0, 0, 0, 0, 9, 2]])


def _by_group(batch):
  groups = len(batch.counts)
  return [
    batch._replace(users=u, weights=w) for u, w in zip(*(np.split(x, groups) for x in (batch.users, batch.weights)))
  ]


@pytest.mark.parametrize("packed", [True, False])
def test_groups_of_negatives_give_the_weighted_mean_of_their_own_losses(packed, padded_batch):
  model = _sequential()
  batches = _batches(packed=packed, groups=4)
  for step in (0, 3):
    batch = batches.batch(step)
    rows = batch.items[batch.slots]
    log_share = np.log(np.maximum(batches.split.popularity, 1e-30))
    places = [part.users[part.weights != 0] for part in _by_group(batch)]
    parts = [rows[np.unique(users)] for users in places]
    assert sum(len(part) for part in parts) == 7
    alone = [_small_batch(padded_batch, part, log_share) for part in parts]
    weights = [part.weights.sum() for part in alone]
    each = [_loss(model, part) for part in alone]
    assert len(set(np.round(each, 4))) == len(each)
    wanted = np.average(each, weights=weights)
    assert _loss(model, batch) == pytest.approx(wanted, rel=1e-5)
    whole = _loss(model, batch._replace(counts=batch.counts.sum(axis=0, keepdims=True)))
    assert abs(whole - wanted) > 0.1, "fewer negatives are another loss"


def test_loss_is_the_public_one_of_its_parts(padded_batch):
  model = _sequential()
  batch = _small_batch(padded_batch, np.array([[0, 0, 1, 2, 3, 4], [5, 6, 2, 7, 1, 8], [0, 0, 0, 0, 9, 2]]))
  vectors, states = _vectors_and_states(*nnx.split(model), batch)
  own = np.zeros((len(batch.slots), len(batch.items)), bool)
  np.put_along_axis(own, batch.slots, True, axis=1)
  wanted = jax.jit(in_batch_softmax)(
    np.asarray(states).reshape(-1, 16), vectors, targets=batch.targets.reshape(-1), users=batch.users.reshape(-1),
    own=own, counts=batch.counts[0], log_popularity=batch.log_popularity, weights=batch.weights.reshape(-1),
  )  # fmt: skip
  assert _loss(model, batch) == pytest.approx(float(wanted), rel=1e-6)


_DRAWN = {"sampled_softmax": {}, "gbce": {"calibration": 0.3}}
drawn = pytest.mark.parametrize("loss", _DRAWN)


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _vectors_and_states(graphdef, state, batch):
  model = nnx.merge(graphdef, state)
  vectors = model.item_vectors(batch.items)
  return vectors, model.user_states(vectors, batch.history)


def _with_drawn(loss, user="sasrec", negatives=6):
  options = {"user": {"name": user, "blocks": 1}, "loss": loss, "negatives": negatives, **_DRAWN[loss]}
  return tiny.fresh(lambda: models.create("sequential", num_items=40, dim=16, **options, rngs=nnx.Rngs(0)))


@drawn
def test_loss_of_items_drawn_is_the_public_one_of_its_parts(loss):
  """The public losses are compared with float64 loops in test_drawn_losses.py; here their arguments are."""
  model = _with_drawn(loss)
  batch = _batches(packed=True, negatives=6).batch(1)
  vectors, states = _vectors_and_states(*nnx.split(model), batch)
  places = [(r, w) for r, w in np.ndindex(batch.weights.shape) if batch.weights[r, w]]
  own = np.array([[int(item) in set(batch.items[row].tolist()) for item in batch.items] for row in batch.slots])
  arguments = {
    "targets": jnp.array([batch.targets[place] for place in places]),
    "users": jnp.array([batch.users[place] for place in places]),
    "own": jnp.asarray(own),
    "negatives": jnp.asarray(batch.negatives),
    "weights": jnp.ones(len(places)),
  }
  states = jnp.asarray(np.array([np.asarray(states)[place] for place in places]))
  if loss == "sampled_softmax":
    total, weight = jax.jit(losses.sampled_softmax_sums)(states, vectors, **arguments)
  else:
    sums = functools.partial(losses.calibrated_bce_sums, num_items=40, calibration=0.3)
    total, weight = jax.jit(sums)(states, vectors, **arguments)
  assert float(weight) == len(places) == batch.weights.sum()
  assert own[:, batch.negatives].any(), "some drawn are a user's own"
  assert _loss(model, batch) == pytest.approx(float(total / weight), rel=1e-5)


@pytest.mark.parametrize(("loss", "user"), [("gbce", "sasrec"), ("sampled_softmax", "gru4rec")])
def test_loss_of_items_drawn_does_not_depend_on_the_layout_of_the_batch(loss, user):
  model = _with_drawn(loss, user)
  padded = _batches(packed=False, negatives=6).batch(2)
  wanted = _loss(model, padded)
  others = [_batches(packed=False, negatives=6, groups=4).batch(2), _with_columns(padded, 57)]
  if not model.reads_padding:
    others.append(_batches(packed=True, negatives=6).batch(2))
  for batch in others:
    assert _loss(model, batch) == pytest.approx(wanted, rel=1e-5)
  moved = padded._replace(negatives=padded.negatives % 5 + 1)
  assert abs(_loss(model, moved) - wanted) > 1e-4, "other items, another loss"


def test_items_drawn_by_popularity_are_corrected_by_that_of_the_batch():
  options = {"user": {"name": "sasrec", "blocks": 1}, "loss": "sampled_softmax", "negatives": 6}
  model = tiny.fresh(
    lambda: models.create("sequential", num_items=40, dim=16, drawn_by="popularity", **options, rngs=nnx.Rngs(0))
  )
  assert model.negatives_by_popularity
  batch = _batches(packed=True, negatives=6).batch(1)
  told = _loss(model, batch)
  vectors, states = _vectors_and_states(*nnx.split(model), batch)
  own = np.zeros((len(batch.slots), len(batch.items)), bool)
  np.put_along_axis(own, batch.slots, True, axis=1)
  total, weight = jax.jit(losses.sampled_softmax_sums)(
    np.asarray(states).reshape(-1, 16), vectors, targets=batch.targets.ravel(), users=batch.users.ravel(), own=own,
    negatives=batch.negatives, weights=batch.weights.ravel(), log_proposal=batch.log_popularity,
  )  # fmt: skip
  assert told == pytest.approx(float(total / weight), rel=1e-5)
  assert _loss(model, batch._replace(log_popularity=batch.log_popularity - 1)) == pytest.approx(told, rel=1e-5)
  assert abs(_loss(model, batch._replace(log_popularity=0 * batch.log_popularity)) - told) > 1e-3


def test_the_full_softmax_is_that_of_all_items_whatever_the_batch_holds():
  options = {"user": {"name": "sasrec", "blocks": 1}, "loss": "full_softmax", "block": 7}
  model = tiny.fresh(lambda: models.create("sequential", num_items=40, dim=16, **options, rngs=nnx.Rngs(0)))
  assert model.scores_all_items
  batch = _batches(packed=True, batch_size=3).batch(1)
  loss, gradients = _loss_and_gradients(model, batch)
  _, states = _vectors_and_states(*nnx.split(model), batch)
  real = batch.weights.ravel() != 0
  scores = np.float64(np.asarray(states).reshape(-1, 16)[real]) @ np.float64(to_torch(model)["id_encoder.weight"][1:]).T
  targets = batch.items[batch.targets].ravel()[real] - 1
  wanted = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(targets)), targets]
  assert loss == pytest.approx(wanted.mean(), rel=1e-6)
  moved = np.abs(gradients["id_encoder.weight"]).max(axis=1)
  assert len(set(batch.items)) < 41
  assert not moved[0]
  assert moved[1:].min() > 0, "items outside the batch too"


@drawn
def test_items_drawn_get_a_gradient_and_items_outside_the_batch_do_not(loss):
  model = _with_drawn(loss)
  batch = _batches(packed=False, negatives=6, batch_size=2).batch(1)
  _, gradients = _loss_and_gradients(model, batch)
  touched = set(np.flatnonzero(np.abs(gradients["id_encoder.weight"]).max(axis=1)).tolist())
  held = {int(item) for row in batch.items[batch.slots] for item in row} - {0}
  drawn_items = set(batch.items[batch.negatives].tolist())
  assert drawn_items - held, "some are no user's"
  assert drawn_items - held <= touched <= held | drawn_items


@drawn
def test_a_batch_without_users_has_no_loss_of_items_drawn(loss, padded_batch):
  model = _with_drawn(loss)
  batch = _small_batch(padded_batch, np.zeros((3, 6), int))._replace(negatives=np.zeros(6, np.int32))
  value, gradients = _loss_and_gradients(model, batch)
  assert value == 0
  assert all((gradient == 0).all() for gradient in gradients.values())


@pytest.mark.parametrize(
  ("options", "pattern"),
  [
    ({"loss": "gbse"}, r"^loss = 'gbse': did you mean 'gbce'"),
    ({"loss": "nothing"}, r"^loss = 'nothing': expected one of 'full_softmax', 'gbce', 'in_batch_softmax'"),
    ({"loss": "full_softmax", "negatives": 3}, r"^negatives = 3 must be 0, as the loss draws none, with loss = 'full"),
    (
      {"loss": "full_softmax", "item": {"name": "features"}, "item_data": {"feature_dim": 3}},
      r"^loss = 'full_softmax': each step would read \w+ of all items; give 'in_batch_softmax'",
    ),
    ({"loss": "full_softmax", "block": 0}, r"^block = 0 must be at least 1"),
    ({"loss": "ful_softmax"}, r"^loss = 'ful_softmax': did you mean 'full_softmax'"),
    ({"loss": "gbce", "negatives": 1, "drawn_by": "popularity"}, r"^drawn_by = 'popularity' must be 'uniform', with"),
    ({"loss": "sampled_softmax", "negatives": 1, "drawn_by": "popular"}, r"^drawn_by = 'popular': did you mean 'popul"),
    ({"negatives": 3}, r"^negatives = 3 must be 0, as the loss draws none, with loss = 'in_batch_softmax'"),
    ({"loss": "gbce"}, r"^negatives = 0 must be at least 1, with loss = 'gbce'"),
    (
      {"loss": "sampled_softmax", "negatives": -1},
      r"^negatives = -1 must be at least 1, with loss = 'sampl",
    ),
    ({"negatives": -1}, r"^negatives = -1 must be 0"),
    ({"loss": "gbce", "negatives": 1, "calibration": 1.1}, r"^calibration = 1\.1 must be between 0 and 1"),
    ({"loss": "gbce", "negatives": 1, "calibration": float("nan")}, r"^calibration = nan must be"),
    ({"item": {"dim": 3}}, r"^item\.name is missing beside \['dim'\]: it chooses the item tower"),
    ({"user": {}}, r"^user\.name is missing beside \[\]: it chooses the user encoder"),
    ({"user": {"name": "sasrec", "heads": 3}}, r"^user.heads = 3: dim = 4 must be a multiple of heads = 3"),
    ({"user": {"name": "hstu", "heads": 3}}, r"^user.heads = 3: dim = 4 must be a multiple of heads = 3"),
    ({"user": {"name": "hstu", "heads": 0}}, r"^user.heads = 0 must be at least 1"),
    ({"user": {"name": "sasrec", "blocks": 0}}, r"^user.blocks = 0 must be at least 1"),
    ({"user": {"name": "gru4rec", "blocks": -1}}, r"^user.blocks = -1 must be at least 1"),
    ({"user": {"name": "nextitnet", "blocks": 0}}, r"^user.blocks = 0 must be at least 1"),
    ({"user": {"name": "nextitnet", "dropout": 1.5}}, r"^user.dropout = 1\.5 must be at least 0 and below 1"),
    ({"item": {"name": "id", "dim": 3}}, r"^item.dim = 3 cannot be set here"),
    ({"item": {"name": "fused", "towers": 3}}, r"^item.towers = 3 must be a section of options"),
    ({"dim": 0}, r"^dim = 0 must be at least 1"),
    ({"dim": 2.5}, r"^dim = 2\.5 must be an integer"),
  ],
)
def test_options_that_do_not_fit_are_refused_by_name(options, pattern):
  with pytest.raises(OptionError, match=pattern):
    nnx.eval_shape(lambda: models.create("sequential", **{"num_items": 4, "dim": 4} | options, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("user", ["gru4rec", "nextitnet"])
def test_encoders_that_read_the_padding_read_row_0_of_the_table(user, padded_batch):
  model = _sequential(user=user)
  assert model.reads_padding
  batch = _small_batch(padded_batch, _ROWS)
  loss, gradients = _loss_and_gradients(model, batch)
  assert not gradients["id_encoder.weight"][0].any()
  table = model.items.table.embedding
  table[...] = jnp.asarray(np.asarray(table[...]) + np.eye(41, 1, dtype=np.float32))
  assert abs(_loss(model, batch) - loss) > 1e-4


def test_sasrec_loss_does_not_read_row_0_of_the_table(padded_batch):
  model = _sequential()
  assert not model.reads_padding
  batch = _small_batch(padded_batch, _ROWS)
  loss = _loss(model, batch)
  table = model.items.table.embedding
  table[...] = jnp.asarray(np.asarray(table[...]) + np.eye(41, 1, dtype=np.float32))
  assert _loss(model, batch) == pytest.approx(loss, rel=1e-6)


def test_items_outside_the_batch_get_no_gradient(padded_batch):
  model = _sequential()
  batch = _small_batch(padded_batch, _ROWS)
  _, gradients = _loss_and_gradients(model, batch)
  touched = np.flatnonzero(np.abs(gradients["id_encoder.weight"]).max(axis=1))
  assert touched.tolist() == [1, 2, 3, 4, 9]


def test_a_batch_without_users_has_no_loss_and_no_gradient(padded_batch):
  model = _sequential()
  batch = _small_batch(padded_batch, np.zeros((3, 6), int))
  loss, gradients = _loss_and_gradients(model, batch)
  assert loss == 0
  assert all((value == 0).all() for value in gradients.values())


def test_dropout_acts_in_training_alone(padded_batch):
  model = _sequential(dropout=0.3)
  batch = _small_batch(padded_batch, _ROWS)
  still = _loss(model, batch)
  assert _loss(model, batch) == still
  assert _loss(model, batch, seed=0) != still
  assert _loss(model, batch, seed=0) == _loss(model, batch, seed=0)


def test_id_table_starts_xavier_normal_with_its_padding_row():
  model = models.create("id", num_items=2000, dim=64, rngs=nnx.Rngs(3))
  table = np.asarray(model.table.embedding[...])
  assert table.shape == (2001, 64)
  std = np.sqrt(2 / (2001 + 64))
  assert table.std() == pytest.approx(std, rel=0.02)
  assert np.abs(table).max() > 3.5 * std
  assert 0.6 * std < table[0].std() < 1.5 * std
  np.testing.assert_array_equal(model(jnp.array([[5, 0], [2000, 5]])), table[[[5, 0], [2000, 5]]])


@pytest.mark.parametrize(
  ("user", "parameters", "unused"), [("sasrec", 16_413_184, 0), ("nextitnet", 16_672_768, 512 * 512 + 512)]
)
def test_full_size_parameter_counts(user, parameters, unused):
  state = nnx.state(nnx.eval_shape(lambda: _built(19_738, 512, user, blocks=2)), nnx.Param)
  assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state)) + unused == parameters
