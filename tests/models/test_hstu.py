"""HSTU against its equations, a user at a time in float64."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.registry import OptionError

_DIM, _LENGTH, _HEADS = 8, 6, 2
_LENGTHS = (4, 3, 6, 1, 2)


def _model(**options):
  """A model none of whose parameters is 0 or 1, nor so small that a term could be missed."""
  model = models.create("hstu", dim=_DIM, max_length=_LENGTH, heads=_HEADS, rngs=nnx.Rngs(0), **options)
  rng = np.random.default_rng(0)
  graphdef, state = nnx.split(model)
  return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 2, jnp.float32), state))


_run = nnx.jit(lambda model, x, positions, segments: model(x, positions, segments))


def _normed(x: np.ndarray) -> np.ndarray:
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _silu(x: np.ndarray) -> np.ndarray:
  return x / (1 + np.exp(-x))


def _wide(parameter) -> np.ndarray:
  return np.asarray(parameter[...], np.float64)


def _expected(model, history: np.ndarray) -> np.ndarray:
  """The states of one user's `history [n, D]`."""
  number = len(history)
  places = np.arange(_LENGTH - number, _LENGTH)
  x = np.sqrt(_DIM) * history + _wide(model.position.embedding)[places]
  for block in model.blocks:
    gate, value, query, key = np.split(_silu(_normed(x) @ _wide(block.project.kernel)), 4, axis=1)
    mixed = np.zeros_like(x)
    for head in range(_HEADS):
      part = slice(head * _DIM // _HEADS, (head + 1) * _DIM // _HEADS)
      for m in range(number):
        for n in range(m + 1):
          weight = _silu(query[m, part] @ key[n, part] + _wide(block.bias)[m - n]) / _LENGTH
          mixed[m, part] += weight * value[n, part]
    x = x + (_normed(mixed) * gate) @ _wide(block.out.kernel) + _wide(block.out.bias)
  return _normed(x) * _wide(model.norm.scale) + _wide(model.norm.bias)


@pytest.fixture(scope="module")
def histories():
  rng = np.random.default_rng(1)
  return [rng.normal(size=(length, _DIM)) for length in _LENGTHS]


def _padded(histories):
  """Left-padded rows with noise for padding: `x`, `positions`, `segments`."""
  x = np.random.default_rng(2).normal(size=(len(histories), _LENGTH, _DIM)).astype(np.float32)
  segments = np.zeros((len(histories), _LENGTH), np.int32)
  for row, history in enumerate(histories):
    x[row, -len(history) :], segments[row, -len(history) :] = history, 1
  return x, np.tile(np.arange(_LENGTH), (len(histories), 1)), segments


def _packed(histories):
  """Rows of 8: users 0 and 1; then 2; then 3 and 4, with gaps; and where each user starts."""
  layout = {0: (0, 0), 1: (0, 4), 2: (1, 1), 3: (2, 1), 4: (2, 5)}
  x = np.random.default_rng(3).normal(size=(3, 8, _DIM)).astype(np.float32)
  positions, segments = np.zeros((3, 8), np.int32), np.zeros((3, 8), np.int32)
  for user, (row, start) in layout.items():
    number = len(histories[user])
    place = row, slice(start, start + number)
    x[place], positions[place], segments[place] = histories[user], np.arange(_LENGTH - number, _LENGTH), start + 1
  return (x, positions, segments), layout


def test_states_are_those_of_the_equations(histories):
  model = _model()
  states = _run(model, *_padded(histories))
  assert states.dtype == jnp.float32
  for row, history in enumerate(histories):
    np.testing.assert_allclose(states[row, -len(history) :], _expected(model, history), rtol=1e-4, atol=1e-4)


def test_packed_rows_give_the_states_of_padded_rows(histories):
  model = _model()
  padded = _run(model, *_padded(histories))
  rows, layout = _packed(histories)
  states = _run(model, *rows)
  for user, (row, start) in layout.items():
    number = len(histories[user])
    np.testing.assert_allclose(states[row, start : start + number], padded[user, -number:], rtol=0, atol=5e-6)
  # A neighbour's items change nothing, to the bit.
  rows[0][0, 4:7] += 1
  changed = _run(model, *rows)
  np.testing.assert_array_equal(changed[0, :4], states[0, :4])
  assert (changed[0, 4:7] != states[0, 4:7]).any()


def test_no_state_depends_on_later_items_and_the_last_on_all(histories):
  model = _model()
  x, positions, segments = _padded(histories)
  states = _run(model, x, positions, segments)
  for place in range(_LENGTH):
    moved = x + (np.arange(_LENGTH) == place)[:, None] * np.random.default_rng(5).normal(size=_DIM).astype(np.float32)
    changed = _run(model, moved, positions, segments)
    np.testing.assert_array_equal(changed[2, :place], states[2, :place])
    assert np.abs(changed[2, -1] - states[2, -1]).max() > 1e-4


def test_gradient_reaches_every_parameter(histories):
  graphdef, state = nnx.split(_model())
  weights = np.random.default_rng(4).normal(size=(len(histories), _LENGTH, _DIM))

  @jax.jit
  def gradients(state):
    return jax.grad(lambda s: jnp.sum(nnx.merge(graphdef, s)(*_padded(histories)) * weights))(state)

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(state)):
    assert np.abs(leaf).max() > 1e-6, path


def test_dropout_is_there_only_with_random_streams(histories):
  model = _model(dropout=0.4)
  rows = _padded(histories)
  still = model(*rows)
  first, again, other = (model(*rows, rngs=nnx.Rngs(dropout=n)) for n in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - still).max() > 1e-2
  assert np.abs(first - other).max() > 1e-2
  np.testing.assert_allclose(_model(dropout=0.0)(*rows, rngs=nnx.Rngs(dropout=1)), still, rtol=0, atol=1e-5)


def test_heads_that_do_not_divide_the_width_are_refused():
  with pytest.raises(OptionError, match="heads = 3: dim = 8 must be a multiple of heads = 3"):
    models.create("hstu", dim=8, heads=3, rngs=nnx.Rngs(0))
