import types

from flax import nnx
import jax
from jax._src.cudnn import fused_attention_stablehlo
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
from support import tiny_encoders as tiny


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


def _attended(query, key, value, mask=None, bias=None, cap=None):
  """The definition in float64, for each query of each head on its own."""
  query, key, value = (np.asarray(part, np.float64) for part in (query, key, value))
  heads, size = query.shape[-2:]
  scores = np.empty((*query.shape[:-3], heads, query.shape[-3], key.shape[-3]))
  for head in range(heads):
    scores[..., head, :, :] = query[..., head, :] @ np.swapaxes(key[..., head, :], -1, -2) / np.sqrt(size)
  scores = scores if cap is None else cap * np.tanh(scores / cap)
  scores = scores if bias is None else scores + bias
  weights = np.exp(scores) if mask is None else np.where(mask, np.exp(scores), 0)
  weights /= weights.sum(-1, keepdims=True)
  mixed = [weights[..., head, :, :] @ value[..., head, :] for head in range(heads)]
  return np.stack(mixed, axis=-2)


def _heads(*leading, queries=5, keys=7):
  """Queries, keys and values of 3 heads of 4 channels."""
  return _random(*leading, queries, 3, 4), _random(*leading, keys, 3, 4, seed=1), _random(*leading, keys, 3, 4, seed=2)


@pytest.mark.parametrize("options", [(), ("mask",), ("bias",), ("cap",), ("mask", "bias", "cap")], ids="+".join)
def test_masks_biases_and_caps_change_scores_before_the_softmax(options):
  # Two batch axes, of which a mask may know the last alone, as of windows of an image.
  arrays = _heads(2, 6)
  mask = np.random.default_rng(3).random((6, 1, 5, 7)) < 0.6
  mask[..., 0] = True
  given = {"mask": mask, "bias": 3 * _random(3, 5, 7, seed=4), "cap": 0.5}
  given = {name: given[name] for name in options}
  found = _with_gradients(lambda: given)(*arrays)[0]
  np.testing.assert_allclose(found, _attended(*arrays, **given), atol=1e-5)


def test_a_query_that_sees_nothing_gets_the_mean_and_gradients_stay_finite():
  query, key, value = _heads(2)
  mask = np.array([True, False])[:, None, None, None]
  mixed, by_query, by_key, _ = map(np.asarray, _with_gradients(lambda: {"mask": mask})(query, key, value))
  np.testing.assert_allclose(mixed[1], np.broadcast_to(value[1].mean(0), mixed[1].shape), atol=1e-5)
  assert not by_query[1].any()
  assert not by_key[1].any()
  assert by_query[0].any()
  assert by_key[0].any()
  assert np.isfinite(by_query).all()


def _with_gradients(options=dict):
  """A function of queries, keys and values, new in each call, so that it is traced anew; `options` makes the others."""

  def run(*arrays):
    mixed, pull = jax.vjp(lambda *arrays: transformer.attend(*arrays, **options()), *arrays)
    return mixed, *pull(jnp.ones_like(mixed))

  return jax.jit(run, compiler_options=tiny.QUICK)


def _lowered(platform: str, dtype=jnp.bfloat16, size: int = 64, length: int = 6, options=dict) -> str:
  """The program of attention and its gradients for a platform, which need not be here."""
  x = jax.ShapeDtypeStruct((2, length, 3, size), dtype)
  return _with_gradients(options).trace(x, x, x).lower(lowering_platforms=(platform,)).as_text()


def _has_cudnn(monkeypatch, capability: str | None = None):
  """Lets JAX trace cuDNN's attention without cuDNN, beside a GPU of that capability, or none."""

  def local_devices(*, backend):
    assert backend == "cuda"
    if capability is None:
      raise RuntimeError("Unknown backend cuda")
    return [types.SimpleNamespace(compute_capability=capability)]

  monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
  monkeypatch.setattr(jax, "local_devices", local_devices)


@pytest.mark.parametrize(
  ("dtype", "size", "capability", "fused"),
  [
    (jnp.bfloat16, 64, "9.0", True),
    (jnp.bfloat16, 96, "8.0", True),
    (jnp.float16, 128, None, True),
    (jnp.float32, 64, "9.0", False),
    (jnp.bfloat16, 64, "7.5", False),
    (jnp.bfloat16, 20, "9.0", False),
    (jnp.bfloat16, 256, "9.0", False),
  ],
)
def test_cuda_programs_fuse_attention_where_the_gpu_can(monkeypatch, dtype, size, capability, fused):
  _has_cudnn(monkeypatch, capability)
  text = _lowered("cuda", dtype, size)
  assert text.count("@__cudnn$fmhaSoftmax(") == text.count("@__cudnn$fmhaSoftmaxBackward(") == fused
  # Two products forward and four back.
  assert text.count("stablehlo.dot_general") == (0 if fused else 6)


@pytest.mark.parametrize("platform", ["cpu", "rocm", "tpu"])
def test_programs_for_other_platforms_do_not(monkeypatch, platform):
  _has_cudnn(monkeypatch, "9.0")
  text = _lowered(platform)
  assert "cudnn" not in text
  assert text.count("stablehlo.dot_general") == 6


@pytest.mark.parametrize(
  "options",
  [
    lambda: {"mask": jnp.ones((1, 1, 6, 6), bool)},
    lambda: {"bias": jnp.zeros((3, 6, 6))},
    lambda: {"cap": 1.0},
    lambda: {"dropout": Dropout(0.5), "rngs": nnx.Rngs(dropout=0)},
  ],
  ids=["mask", "bias", "cap", "dropout"],
)
def test_what_changes_scores_is_not_fused(monkeypatch, options):
  _has_cudnn(monkeypatch)
  assert "cudnn" not in _lowered("cuda", options=options)


def test_without_cudnn_attention_is_not_fused(monkeypatch):
  def missing():
    raise RuntimeError("cuDNN is not detected.")

  monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", missing)
  # Of a length that no other test has: JAX remembers what it could trace.
  assert "cudnn" not in _lowered("cuda", length=7)


def test_a_host_with_cudnn_runs_the_plain_form_on_its_cpu(monkeypatch):
  arrays = [jnp.asarray(_random(2, 6, 3, 8, seed=seed), jnp.bfloat16) for seed in range(3)]
  wanted = _with_gradients()(*arrays)
  _has_cudnn(monkeypatch)
  run = _with_gradients()
  assert "platform_index" in str(run.trace(*arrays).jaxpr)
  for found, part in zip(run(*arrays), wanted):
    np.testing.assert_array_equal(found, part)


def test_heads_must_divide_channels():
  with pytest.raises(ValueError, match="dim = 6 must be a multiple of heads = 4"):
    transformer.Attention(6, 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(("biases", "out_bias"), [("qkv", True), ("qv", True), ("", False)])
def test_the_layer_projects_attends_and_projects_back(biases, out_bias):
  layer = tiny.blank(lambda: transformer.Attention(12, 3, biases=biases, out_bias=out_bias, rngs=nnx.Rngs(0)))
  for n, part in enumerate((layer.query, layer.key, layer.value, layer.out)):
    part.kernel[...] = _random(12, 12, seed=n)
    if part.bias is not None:
      part.bias[...] = _random(12, seed=4 + n)
  x, mask = _random(2, 5, 12, seed=8), np.tri(5, dtype=bool)

  def projected(part, x):
    return x @ np.asarray(part.kernel) + (0 if part.bias is None else np.asarray(part.bias))

  parts = [projected(part, x).reshape(2, 5, 3, 4) for part in (layer.query, layer.key, layer.value)]
  wanted = projected(layer.out, _attended(*parts, mask).reshape(2, 5, 12))
  graphdef, state = nnx.split(layer)
  found = jax.jit(lambda state: nnx.merge(graphdef, state)(x, mask), compiler_options=tiny.QUICK)(state)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("biases", ["qkv", "qv", ""])
def test_projections_have_the_biases_asked_for(biases):
  attention = transformer.Attention(4, 2, biases=biases, rngs=nnx.Rngs(0))
  layers = {"q": attention.query, "k": attention.key, "v": attention.value}
  assert {name for name, layer in layers.items() if layer.bias is not None} == set(biases)
  assert attention.out.bias is not None
  assert transformer.Attention(4, 2, biases=biases, out_bias=False, rngs=nnx.Rngs(0)).out.bias is None


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
