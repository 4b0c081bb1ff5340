"""Batch normalisation against its formula in float64."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION


@pytest.fixture
def norm():
  norm = BatchNorm(3)
  rng = np.random.default_rng(1)
  norm.scale[...], norm.bias[...] = (jnp.asarray(rng.normal(size=3), jnp.float32) for _ in range(2))
  norm.mean[...] = jnp.asarray([0.5, -1.0, 2.0])
  norm.var[...] = jnp.asarray([0.5, 1.0, 2.0])
  return norm


def _expected(norm, x, mean, var):
  return (x - mean) / np.sqrt(var + 1e-5) * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])


X = np.random.default_rng(0).normal(1.0, 2.0, (6, 2, 4, 3))


def test_evaluation_uses_the_running_statistics_and_leaves_them(norm):
  before = np.asarray(norm.mean[...]), np.asarray(norm.var[...])
  np.testing.assert_allclose(norm(jnp.asarray(X, jnp.float32), EVALUATION), _expected(norm, X, *before), rtol=2e-5)
  np.testing.assert_array_equal(norm.mean[...], before[0])
  np.testing.assert_array_equal(norm.var[...], before[1])


@pytest.mark.parametrize("real", [6, 4])
def test_training_uses_the_real_examples_statistics_and_moves_a_tenth_towards_them(norm, real):
  weights = jnp.arange(6) < real
  before = np.asarray(norm.mean[...]), np.asarray(norm.var[...])
  among = X[:real].reshape(-1, 3)
  mean, var = among.mean(0), among.var(0)
  found = norm(jnp.asarray(X, jnp.float32), Context(True, None, weights))
  np.testing.assert_allclose(found, _expected(norm, X, mean, var), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(norm.mean[...], 0.9 * before[0] + 0.1 * mean, rtol=1e-5)
  np.testing.assert_allclose(norm.var[...], 0.9 * before[1] + 0.1 * among.var(0, ddof=1), rtol=1e-5)


def test_filler_alone_moves_nothing(norm):
  before = np.asarray(norm.mean[...]), np.asarray(norm.var[...])
  assert np.isfinite(norm(jnp.asarray(X, jnp.float32), Context(True, None, jnp.zeros(6)))).all()
  np.testing.assert_array_equal(norm.mean[...], before[0])
  np.testing.assert_array_equal(norm.var[...], before[1])


def test_bfloat16_is_normalised_in_float32(norm):
  x = jnp.asarray(X + 100, jnp.bfloat16)
  found = norm(x, Context(True))
  assert found.dtype == jnp.bfloat16
  wide = np.asarray(x, np.float64)
  wanted = _expected(norm, wide, wide.mean((0, 1, 2)), wide.var((0, 1, 2)))
  np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=0.03, rtol=0.01)


def test_arrays_are_of_one_type_before_and_after_a_step():
  """A weakly typed one would have the training step compiled twice."""
  norm = BatchNorm(3, scale=0.5)
  before = [jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(nnx.state(norm))]
  norm(jnp.asarray(X, jnp.float32), Context(True))
  assert before == [jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(nnx.state(norm))] == [False] * 4
