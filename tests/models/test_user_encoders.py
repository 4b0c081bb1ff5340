import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch

_DIM, _LENGTH = 8, 10
# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_NAMES = ("sasrec", "gru4rec", "nextitnet")
names = pytest.mark.parametrize("name", _NAMES)

_GOLDEN = {
  "sasrec": ("sasrec_user_encoder", {"heads": 2, "blocks": 2}),
  "gru4rec": ("gru4rec_user_encoder_b1", {"blocks": 1}),
  "nextitnet": ("nextitnet_user_encoder_b1", {"blocks": 1}),
}


def _places(rows: int, width: int = _LENGTH):
  return jnp.tile(jnp.arange(width), (rows, 1))


def _state(arrays, prefix="sd/"):
  return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _encoder(name: str, dim: int = _DIM, *, blocks: int = 1, **options):
  return models.create(name, dim=dim, blocks=blocks, rngs=nnx.Rngs(0), **options)


def _inputs(rows: int = 3, dim: int = _DIM, seed: int = 0):
  return jax.random.normal(jax.random.key(seed), (rows, _LENGTH, dim))


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _compiled(graphdef, state, x, positions, segments, key):
  rngs = None if key is None else nnx.Rngs(dropout=key)
  return nnx.merge(graphdef, state)(x, positions, segments, rngs=rngs)


def _run(model, x, segments=None, positions=None, seed=None) -> np.ndarray:
  """The states of full left-padded rows, or of those described."""
  positions = _places(len(x), x.shape[1]) if positions is None else jnp.asarray(positions)
  segments = jnp.ones(x.shape[:2], jnp.int32) if segments is None else jnp.asarray(segments)
  key = None if seed is None else jax.random.key(seed)
  return np.asarray(_compiled(*nnx.split(model), jnp.asarray(x), positions, segments, key))


def _close(actual, wanted, tolerance):
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@names
def test_golden_outputs_and_gradients(golden, name):
  file, options = _GOLDEN[name]
  arrays = golden(file)
  model = _encoder(name, 32, **options)
  load_torch(model, _state(arrays))
  mask = arrays.get("log_mask", np.ones((6, _LENGTH), np.float32))
  graphdef, state = nnx.split(model)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def gradients(state):
    def scalar(state):
      output = nnx.merge(graphdef, state)(arrays["input_embs"], _places(6), jnp.asarray(mask, jnp.int32))
      return jnp.sum(output * mask[..., None] * arrays["loss_weight"])

    return jax.grad(scalar)(state)

  real = mask != 0
  _close(_run(model, arrays["input_embs"], mask.astype(np.int32))[real], arrays["output"][real], 1e-5)
  wanted = {key: value for key, value in _state(arrays, "grad/").items() if not key.startswith("final_layer")}
  actual = to_torch(nnx.merge(graphdef, gradients(state)))  # under the names of the parameters
  assert actual.keys() == wanted.keys()
  for key in wanted:
    _close(actual[key], wanted[key], 1e-4)


def test_golden_sasrec_output_without_padding(golden):
  arrays = golden("sasrec_user_encoder")
  model = _encoder("sasrec", 32, blocks=2)
  load_torch(model, _state(arrays))
  _close(_run(model, arrays["input_embs"]), arrays["output_full_mask"], 1e-5)


@names
def test_states_have_the_shape_of_the_inputs(name):
  x = _inputs()
  output = _run(_encoder(name), x)
  assert output.shape == x.shape
  assert output.dtype == np.float32
  assert np.isfinite(output).all()


@names
def test_half_precision_inputs_give_states_near_the_exact_ones(name):
  model = _encoder(name)
  x = _inputs().astype(jnp.bfloat16)
  np.testing.assert_allclose(_run(model, x).astype(np.float32), _run(model, x.astype(jnp.float32)), rtol=0, atol=0.15)


@names
def test_gradient_reaches_every_parameter(name):
  graphdef, state = nnx.split(_encoder(name, blocks=2))

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def gradients(state):
    def scalar(state):
      output = nnx.merge(graphdef, state)(_inputs(), _places(3), jnp.ones((3, _LENGTH), jnp.int32))
      return jnp.sum(_inputs(seed=1) * output)

    return jax.grad(scalar)(state)

  leaves = jax.tree_util.tree_leaves_with_path(gradients(state))
  assert len(leaves) >= 4
  for path, leaf in leaves:
    assert np.abs(leaf).max() > 1e-6, path


@names
def test_no_state_depends_on_later_items(name):
  model = _encoder(name)
  x = _inputs()
  output = _run(model, x)
  for place in (1, 5, 9):
    changed = _run(model, x.at[:, place].add(_inputs(seed=2)[:, 0]))
    np.testing.assert_array_equal(changed[:, :place], output[:, :place])
    assert (np.abs(changed[:, place] - output[:, place]) > 1e-4).any()


@names
def test_the_last_state_depends_on_every_item_of_the_history(name):
  model = _encoder(name)
  x = _inputs()
  output = _run(model, x)[:, -1]
  reach = [np.abs(_run(model, x.at[:, n].add(_inputs(seed=2)[:, 0]))[:, -1] - output).max() for n in range(10)]
  assert min(reach) > 1e-6


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "nextitnet"])
def test_dropout_is_there_only_with_random_streams(name):
  model = _encoder(name, dropout=0.4)
  x = _inputs()
  still = _run(model, x)
  np.testing.assert_array_equal(still, _run(model, x))
  first = _run(model, x, seed=1)
  assert np.abs(first - still).max() > 1e-2
  np.testing.assert_array_equal(first, _run(model, x, seed=1))
  assert np.abs(first - _run(model, x, seed=2)).max() > 1e-2
  none = _encoder(name, dropout=0.0)
  np.testing.assert_allclose(_run(none, x, seed=1), still, rtol=0, atol=1e-6)


def test_sasrec_drops_in_four_places_of_two_blocks():
  drawn = []

  class Counted(nnx.Rngs):
    def dropout(self):
      drawn.append(1)
      return jax.random.key(len(drawn))

  model = _encoder("sasrec", blocks=2, dropout=0.1)
  jax.eval_shape(lambda: model(_inputs(), _places(3), jnp.ones((3, _LENGTH), jnp.int32), rngs=Counted(0)))
  assert len(drawn) == 1 + 2 * 3


def test_nextitnet_has_no_dropout_unless_asked():
  model = _encoder("nextitnet")
  np.testing.assert_array_equal(_run(model, _inputs(), seed=1), _run(model, _inputs()))


def test_sasrec_does_not_read_the_padding():
  model = _encoder("sasrec")
  assert not model.reads_padding
  segments = np.array([[0] * 6 + [7] * 4, [0] * 1 + [3] * 9, [1] * 10])
  real = segments != 0
  x = _inputs()
  loud = jnp.where(real[..., None], x, 100 * _inputs(seed=5))
  np.testing.assert_allclose(_run(model, loud, segments)[real], _run(model, x, segments)[real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gru4rec", "nextitnet"])
def test_others_read_the_padding_vector(name):
  model = _encoder(name)
  assert model.reads_padding
  segments = np.array([[0] * 6 + [1] * 4] * 3)
  x = _inputs()
  other = x.at[:, :6].set(_inputs(seed=9)[:, :1])
  moved = np.abs(_run(model, other, segments) - _run(model, x, segments))[:, 6:]
  assert (moved.max(axis=-1) > 1e-4).all()


def test_sasrec_in_packed_rows_gives_the_states_of_padded_rows():
  model = _encoder("sasrec")
  lengths = [4, 3, 10, 1, 6, 2, 4]
  rng = np.random.default_rng(0)
  histories = [rng.normal(size=(length, _DIM)).astype(np.float32) for length in lengths]
  padded = np.zeros((len(lengths), _LENGTH, _DIM), np.float32)
  for row, history in zip(padded, histories):
    row[_LENGTH - len(history) :] = history
  wanted = _run(model, padded, np.array([[0] * (_LENGTH - n) + [1] * n for n in lengths]))

  # Rows of 12: users 0, 1, 3 and 5; then 2; then 4 and 6, with gaps before, between and after.
  layout = [[(0, 0), (1, 4), (3, 7), (5, 9)], [(2, 1)], [(4, 1), (6, 8)]]
  x = rng.normal(size=(3, 12, _DIM)).astype(np.float32)
  positions, segments = np.zeros((3, 12), int), np.zeros((3, 12), int)
  for r, row in enumerate(layout):
    for user, start in row:
      place = slice(start, start + lengths[user])
      x[r, place] = histories[user]
      positions[r, place] = np.arange(_LENGTH - lengths[user], _LENGTH)
      segments[r, place] = start + 1
  states = _run(model, x, segments, positions)
  for r, row in enumerate(layout):
    for user, start in row:
      np.testing.assert_allclose(
        states[r, start : start + lengths[user]], wanted[user, _LENGTH - lengths[user] :], rtol=0, atol=2e-6
      )

  # A neighbour's items change nothing, to the bit.
  x[0, 4:7] += rng.normal(size=(3, _DIM))
  changed = _run(model, x, segments, positions)
  others = [0, 1, 2, 3, 7, 9, 10]
  np.testing.assert_array_equal(changed[0, others], states[0, others])
  assert (changed[0, 4:7] != states[0, 4:7]).any()


def test_sasrec_reads_the_place_in_the_left_padded_row():
  model = _encoder("sasrec")
  x = _inputs(1)[:, :3]
  late, early = (_run(model, x, positions=[[first, first + 1, first + 2]]) for first in (7, 0))
  assert np.abs(late - early).max() > 1e-3


def test_sasrec_needs_a_width_that_its_heads_divide():
  with pytest.raises(ValueError, match="heads"):
    _encoder("sasrec", 10, heads=4)


def _spread(values) -> tuple[float, float]:
  return float(np.mean(values)), float(np.std(values))


def _normal(values, std):
  mean, spread = _spread(values)
  count = np.size(values)
  assert abs(mean) < 5 * std / np.sqrt(count)
  assert spread == pytest.approx(std, rel=5 / np.sqrt(2 * count))
  assert np.abs(values).max() > 2.7 * std, "not truncated"


def _uniform(values, bound):
  assert np.abs(values).max() <= bound * (1 + 1e-6)
  assert np.abs(values).max() > 0.99 * bound
  assert _spread(values)[1] == pytest.approx(bound / np.sqrt(3), rel=0.03)


def test_sasrec_starts_xavier_normal_with_plain_norms():
  dim = 64
  state = to_torch(_encoder("sasrec", dim, blocks=2))
  prefix = "transformer_encoder."
  _normal(state[prefix + "position_embedding.weight"], np.sqrt(2 / (_LENGTH + dim)))
  for block in range(2):
    for part in ("w_Q", "w_K", "w_V", "fc"):
      key = f"{prefix}transformer_blocks.{block}.multi_head_attention.{part}.weight"
      _normal(state[key], np.sqrt(2 / (2 * dim)))
    for part in ("w_1", "w_2"):
      key = f"{prefix}transformer_blocks.{block}.feed_forward.{part}"
      _normal(state[key + ".weight"], np.sqrt(2 / (5 * dim)))
      assert not state[key + ".bias"].any()
  norms = [key for key in state if "layer_norm" in key]
  assert len(norms) == 2 * 5
  for key in norms:
    assert (state[key] == (1 if key.endswith("weight") else 0)).all()


def test_gru4rec_starts_xavier_uniform_below_and_by_its_width_above():
  dim = 64
  state = to_torch(_encoder("gru4rec", dim, blocks=3))
  assert len(state) == 6
  for gates in ("ih", "hh"):
    _uniform(state[f"gru_layers.weight_{gates}_l0"], np.sqrt(6 / (3 * dim + dim)))
    for layer in (1, 2):
      _uniform(state[f"gru_layers.weight_{gates}_l{layer}"], 1 / np.sqrt(dim))


def test_nextitnet_starts_uniform_by_its_fan_in():
  dim = 64
  state = to_torch(_encoder("nextitnet", dim, blocks=2))
  for block in range(4):
    for part in (1, 2):
      prefix = f"residual_blocks.{block}."
      _uniform(state[f"{prefix}conv{part}.weight"], 1 / np.sqrt(3 * dim))
      bias = state[f"{prefix}conv{part}.bias"]
      assert 0.8 / np.sqrt(3 * dim) < np.abs(bias).max() <= 1 / np.sqrt(3 * dim)
      assert (state[f"{prefix}ln{part}.weight"] == 1).all()
      assert not state[f"{prefix}ln{part}.bias"].any()


def test_nextitnet_dilates_by_one_and_four_and_twice_that():
  model = models.create("nextitnet", dim=1, blocks=2, rngs=nnx.Rngs(0))
  dilations = [(block.conv1.dilation, block.conv2.dilation) for block in model.blocks]
  assert dilations == [(1, 2), (4, 8)] * 2


@names
def test_parameters_differ_by_seed_and_not_otherwise(name):
  def state(seed):
    return to_torch(models.create(name, dim=_DIM, rngs=nnx.Rngs(seed)))

  one, same, other = state(1), state(1), state(2)
  assert all(np.array_equal(one[key], same[key]) for key in one)
  drawn = [key for key in one if np.std(one[key]) > 0]
  assert drawn
  assert not any(np.array_equal(one[key], other[key]) for key in drawn)
  # No two parameters start alike.
  assert len({one[key].tobytes() for key in drawn}) == len(drawn)


@pytest.mark.parametrize("name", [*_NAMES, "hstu"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_states_at_some_places_are_those_of_all_places(name, blocks):
  model = _encoder(name, blocks=blocks)
  x, positions, segments = _inputs(), _places(3), jnp.asarray([[1] * 4 + [2] * 6, [0] * 3 + [1] * 7, [1] * 10])
  places = jnp.asarray([29, 3, 9, 9, 19, 24])
  wanted = _run(model, x, segments, positions).reshape(-1, _DIM)[np.asarray(places)]
  at = nnx.jit(lambda model, *arguments: model.at(*arguments))
  _close(np.asarray(at(model, x, positions, segments, places)), wanted, 1e-5)
