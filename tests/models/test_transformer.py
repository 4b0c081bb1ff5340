from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.layers import transformer
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.patches import PatchEmbedding
from mlrec.models.layers.patches import resized
from mlrec.models.layers.patches import sinusoids
from mlrec.models.layers.patches import whole_windows


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_attention_is_the_softmax_of_scaled_scores():
  query, key, value = _random(2, 5, 3, 4), _random(2, 7, 3, 4, seed=1), _random(2, 7, 3, 4, seed=2)
  scores = np.einsum("bnhc,bmhc->bhnm", query, key) / 2
  weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  wanted = np.einsum("bhnm,bmhc->bnhc", weights, value)
  np.testing.assert_allclose(transformer.attend(*map(jnp.asarray, (query, key, value))), wanted, atol=1e-5)


def test_half_precision_scores_are_normalised_in_float32():
  # In bfloat16 these scores would all be 256 apart from one, and sums of many weights would stop growing.
  query = jnp.full((1, 1, 1, 4), 16, jnp.bfloat16)
  key = jnp.full((1, 2048, 1, 4), 8, jnp.bfloat16).at[0, 0].add(0.0625)
  value = jnp.zeros((1, 2048, 1, 4), jnp.bfloat16).at[0, 1024:].set(1)
  out = transformer.attend(query, key, value)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float32), 0.5, atol=0.01)


@pytest.mark.parametrize(
  ("backend", "dtype", "size", "capability", "fused"),
  [
    ("gpu", jnp.bfloat16, 64, "9.0", True),
    ("gpu", jnp.bfloat16, 96, "8.0", True),
    ("gpu", jnp.float32, 64, "9.0", False),
    ("gpu", jnp.bfloat16, 64, "7.5", False),
    ("gpu", jnp.bfloat16, 64, "gfx90a", False),
    ("gpu", jnp.bfloat16, 20, "9.0", False),
    ("gpu", jnp.bfloat16, 256, "9.0", False),
    ("cpu", jnp.bfloat16, 64, "9.0", False),
    ("tpu", jnp.bfloat16, 64, "9.0", False),
  ],
)
def test_attention_is_fused_where_the_gpu_can(monkeypatch, backend, dtype, size, capability, fused):
  device = type("Device", (), {"compute_capability": capability})()
  asked = []
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  monkeypatch.setattr(jax, "local_devices", lambda: [device])
  monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *_, implementation: asked.append(implementation))
  x = jax.ShapeDtypeStruct((1, 2, 1, size), dtype)
  transformer.attend(x, x, x)
  assert asked == ["cudnn" if fused else "xla"]


def test_heads_must_divide_channels():
  with pytest.raises(ValueError, match="dim = 6 must be a multiple of heads = 4"):
    transformer.Attention(6, 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("biases", ["qkv", "qv", ""])
def test_projections_have_the_biases_asked_for(biases):
  attention = transformer.Attention(4, 2, biases=biases, rngs=nnx.Rngs(0))
  layers = {"q": attention.query, "k": attention.key, "v": attention.value}
  assert {name for name, layer in layers.items() if layer.bias is not None} == set(biases)
  assert attention.out.bias is not None


def test_norm_is_exact_beside_a_large_mean_and_in_half_precision():
  x = _random(3, 64) + 300
  wanted = (x - x.mean(-1, keepdims=True, dtype=np.float64)) / x.std(-1, keepdims=True, dtype=np.float64)
  norm = transformer.LayerNorm(64, 1e-12, rngs=nnx.Rngs(0))
  np.testing.assert_allclose(norm(jnp.asarray(x)), wanted, atol=1e-4)
  half = norm(jnp.asarray(x, jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  x = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)
  wanted = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
  np.testing.assert_allclose(np.asarray(half, np.float64), wanted, atol=0.02)


def test_patches_are_a_convolution_that_drops_what_fills_no_window():
  patches = PatchEmbedding(5, 2, 4, dtype=None, rngs=nnx.Rngs(0))
  patches.bias[...] = _random(5)
  conv = Conv3D(3, 5, (2, 4, 4), stride=(2, 4, 4), padding=(0, 0, 0), use_bias=True, rngs=nnx.Rngs(1))
  nnx.update(conv, nnx.state(patches))
  x = jnp.asarray(_random(2, 5, 8, 12, 3))
  assert patches(x).shape == (2, 2, 2, 3, 5)
  np.testing.assert_allclose(patches(x), conv(x), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 4, 8, 8, 1), (2, 1, 8, 8, 3), (2, 4, 8, 9, 3), (2, 4, 0, 8, 3)])
def test_clips_that_cannot_be_cut_are_refused(shape):
  with pytest.raises(ValueError, match="at least T = 2 frames, H and W multiples of 4") as error:
    PatchEmbedding(5, 2, 4, dtype=None, rngs=nnx.Rngs(0))(jnp.zeros(shape))
  assert str(shape) in str(error.value)


def test_the_last_frame_fills_its_window():
  x = jnp.arange(5).reshape(1, 5, 1)
  assert whole_windows(x, 2).ravel().tolist() == [0, 1, 2, 3, 4, 4]
  assert whole_windows(x, 4).ravel().tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
  assert whole_windows(x, 5) is x


def test_sinusoids_alternate_and_are_a_prefix_of_longer_ones():
  table = sinusoids(6, 4)
  np.testing.assert_allclose(table[3], [np.sin(3), np.cos(3), np.sin(0.03), np.cos(0.03)], rtol=1e-6)
  np.testing.assert_array_equal(sinusoids(9, 4)[:6], table)


@pytest.mark.parametrize(
  ("old", "new", "wanted"),
  [
    (8, 3, [5 / 6, 3.5, 37 / 6]),
    (16, 3, [13 / 6, 7.5, 77 / 6]),
    (2, 4, [0, 0.25, 0.75, 1]),
    (1, 3, [0, 0, 0]),
    (3, 1, [1]),
    (3, 3, [0, 1, 2]),
  ],
)
def test_tables_of_positions_are_interpolated_between_centres(old, new, wanted):
  np.testing.assert_allclose(
    resized(np.arange(old, dtype=np.float32)[:, None], (old,), (new,))[:, 0], wanted, atol=1e-6
  )


def test_tables_of_positions_are_interpolated_along_each_axis():
  rows, columns = np.arange(4.0, dtype=np.float32), np.arange(6.0, dtype=np.float32)
  table = (10 * rows[:, None] + columns).reshape(-1, 1)
  wanted = 10 * np.array([0.5, 2.5])[:, None] + np.array([0.5, 2.5, 4.5])
  np.testing.assert_allclose(resized(table, (4, 6), (2, 3)).reshape(2, 3), wanted, atol=1e-5)


def test_truncated_starts_have_no_outliers():
  # A draw in which one of a million underflows to the cut.
  values = truncated_normal(0.02)(jax.random.key(7), (1_000_000,))
  assert 0.09 < jnp.abs(values).max() < 0.15
  np.testing.assert_allclose(values.std(), 0.02, rtol=0.01)
  wide = truncated_normal(1.0)(jax.random.key(0), (10_000,))
  assert 1.9 < jnp.abs(wide).max() <= 2


def test_masked_keys_are_not_seen_and_dropped_weights_are_scaled():
  query, key, value = map(jnp.asarray, (_random(2, 5, 3, 4), _random(2, 7, 3, 4, seed=1), _random(2, 7, 3, 4, seed=2)))
  mask = (jnp.arange(7) < 3)[None, None, None] | jnp.asarray([False, True])[:, None, None, None]
  wanted = transformer.attend(query, key, value)
  masked = transformer.attend(query, key, value, mask)
  np.testing.assert_allclose(masked[1], wanted[1], atol=1e-6)
  np.testing.assert_allclose(masked[0], transformer.attend(query, key[:, :3], value[:, :3])[0], atol=1e-6)
  # So small a rate drops nothing, yet goes the way of those that do.
  drop = lambda rate: transformer.attend(query, key, value, mask, dropout=Dropout(rate), rngs=nnx.Rngs(dropout=0))  # noqa: E731
  np.testing.assert_allclose(drop(1e-9), masked, atol=1e-6)
  # With the same value everywhere a result is the sum of its weights, about 1.
  value = jnp.ones_like(value)
  sums = jnp.stack([drop(0.5)[..., 0], drop(0.25)[..., 0]])
  assert (sums.std(axis=(1, 2, 3)) > 0.1).all()
  np.testing.assert_allclose(sums.mean(axis=(1, 2, 3)), 1, atol=0.25)
