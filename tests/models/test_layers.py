from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.dropout import DropPath
from mlrec.models.layers.dropout import uniform_bits
from mlrec.models.layers.initializers import uniform
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.initializers import xavier_uniform


def _mask(rate: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  return np.asarray(Dropout(rate)(jnp.ones(shape), nnx.Rngs(dropout=seed))) == 0


def test_nothing_is_dropped_without_random_streams_or_at_rate_0():
  x = jnp.arange(12.0).reshape(3, 4)
  assert Dropout(0.5)(x, None) is x
  np.testing.assert_array_equal(Dropout(0.0)(x, nnx.Rngs(dropout=0)), x)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.25, 0.5, 0.9])
def test_as_many_elements_are_dropped_as_the_rate_says(rate):
  shares = [_mask(rate, (100, 50, 20), seed).mean() for seed in range(5)]
  assert np.mean(shares) == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / 500_000))


def test_kept_elements_grow_so_that_the_mean_stays():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 100)).astype(np.float32)) + 3
  y = np.asarray(Dropout(0.2)(x, nnx.Rngs(dropout=0)))
  kept = y != 0
  np.testing.assert_allclose(y[kept], np.asarray(x)[kept] / 0.8, rtol=1e-6)
  assert y.mean() == pytest.approx(float(x.mean()), rel=0.02)


def test_masks_of_rows_columns_and_neighbours_are_not_related():
  mask = _mask(0.5, (64, 64, 64)).astype(float) - 0.5
  for axis in range(3):
    for shift in (1, 2, 32):
      assert abs(np.mean(mask * np.roll(mask, shift, axis))) < 4 * 0.25 / np.sqrt(mask.size)
    others = tuple(a for a in range(3) if a != axis)
    assert np.abs(mask.mean(axis=others)).max() < 5 * 0.5 / 64


def test_masks_of_different_keys_are_not_related():
  one, other = (_mask(0.5, (256, 256), seed).astype(float) - 0.5 for seed in (0, 1))
  assert abs(np.mean(one * other)) < 4 * 0.25 / 256


def test_a_longer_array_has_the_same_mask_where_both_exist():
  longer = _mask(0.3, (9, 6, 5))
  for rows in (1, 8):
    np.testing.assert_array_equal(_mask(0.3, (rows, 6, 5)), longer[:rows])
  np.testing.assert_array_equal(_mask(0.3, (9 * 6 * 5,)), longer.reshape(-1))


def test_bits_are_uniform_over_their_whole_range():
  bits = np.asarray(uniform_bits(jax.random.key(4), (1 << 16,)))
  assert bits.dtype == np.uint32
  counts = np.bincount(bits >> 26, minlength=64)
  assert ((counts - 1024) ** 2 / 1024).sum() < 120  # chi-squared with 63 degrees of freedom: far beyond 1 in 10,000
  set_bits = [((bits >> n) & 1).mean() for n in range(32)]
  np.testing.assert_allclose(set_bits, 0.5, atol=4 * 0.5 / 256)


def test_gradient_passes_where_the_elements_are_kept():
  layer = Dropout(0.4)
  gradient = jax.grad(lambda x: jnp.sum(layer(x, nnx.Rngs(dropout=3))))(jnp.ones((30, 10)))
  mask = _mask(0.4, (30, 10), 3)
  np.testing.assert_allclose(gradient, np.where(mask, 0, 1 / 0.6), rtol=1e-6)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rates_that_are_no_rates_are_refused(rate):
  with pytest.raises(ValueError, match="dropout"):
    Dropout(rate)


def test_starts_have_the_spread_that_their_names_say():
  shape = (300, 500)
  normal = np.asarray(xavier_normal(jax.random.key(0), shape))
  assert normal.std() == pytest.approx(np.sqrt(2 / 800), rel=0.01)
  assert np.abs(normal).max() > 4 * np.sqrt(2 / 800), "not truncated"
  bounded = np.asarray(xavier_uniform(jax.random.key(0), shape))
  assert 0.999 * np.sqrt(6 / 800) < np.abs(bounded).max() <= np.sqrt(6 / 800)
  assert bounded.mean() == pytest.approx(0, abs=1e-3)
  within = np.asarray(uniform(0.25)(jax.random.key(0), shape))
  assert 0.2499 < np.abs(within).max() <= 0.25
  assert within.std() == pytest.approx(0.25 / np.sqrt(3), rel=0.01)


def test_whole_examples_are_dropped_and_the_others_grow():
  x = jnp.ones((4000, 2, 3))
  dropped = np.asarray(DropPath(0.25)(x, nnx.Rngs(dropout=0)))
  assert (dropped == dropped[:, :1, :1]).all()
  assert set(np.unique(dropped)) == {np.float32(0), np.float32(4 / 3)}
  assert abs((dropped[:, 0, 0] == 0).mean() - 0.25) < 0.03
  assert DropPath(0.25)(x, None) is x
  assert DropPath(0.0)(x, nnx.Rngs(dropout=0)) is x
