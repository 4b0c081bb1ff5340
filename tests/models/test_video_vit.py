import functools
import math
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.patches import sinusoids

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_TINY = {
  "vit_s": {"dim": 8, "depth": 2, "heads": 2, "patch": 4, "size": 8, "num_frames": 4, "positions": "learned"},
  "vivit_b": {
    "dim": 8, "depth": 1, "temporal_depth": 1, "heads": 2, "hidden": 12, "patch": 4, "size": 8, "num_frames": 4,
  },
}  # fmt: skip
names = pytest.mark.parametrize("name", _TINY)


def _built(name: str, **options):
  """A net without values; drawing them costs more than what is tested."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options)))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def _values(model):
  rng = np.random.default_rng(1)
  return {key: rng.normal(0, 0.3, value.shape).astype(np.float32) for key, value in to_torch(model).items()}


def _tiny(name: str, **options):
  """A small net whose parameters are all away from their start."""
  model = _built(name, **_TINY[name] | options)
  load_torch(model, _values(model))
  return model


def _clips(frames: int = 4, height: int = 8, width: int = 8):
  return jax.random.normal(jax.random.key(3), (2, frames, height, width, 3))


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def _run(model, x):
  return np.asarray(_compiled(*nnx.split(model), x))


def _close(actual, wanted, tolerance):
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


class Reference:
  """The parts of a vision transformer in plain float64 NumPy, from arrays under PyTorch's names."""

  def __init__(self, arrays, heads: int, spelling: dict[str, str]):
    self.arrays = {key: value.astype(np.float64) for key, value in arrays.items()}
    self.heads, self.spelling = heads, spelling

  def linear(self, x, name):
    return x @ self.arrays[f"{name}.weight"].T + self.arrays[f"{name}.bias"]

  def norm(self, x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * self.arrays[f"{name}.weight"] + self.arrays[f"{name}.bias"]

  def patches(self, clip, name):
    """`clip [T, H, W, 3]` to `[T / 2, H / 4, W / 4, D]`."""
    kernel = self.arrays[f"{name}.weight"]
    out = np.empty((clip.shape[0] // 2, clip.shape[1] // 4, clip.shape[2] // 4, len(kernel)))
    for t, h, w in np.ndindex(*out.shape[:3]):
      window = clip[2 * t : 2 * t + 2, 4 * h : 4 * h + 4, 4 * w : 4 * w + 4]
      out[t, h, w] = np.einsum("octhw,thwc->o", kernel, window)
    return out + self.arrays[f"{name}.bias"]

  def block(self, x, name):
    """`x [N, D]` to the same shape."""
    names = {part: f"{name}.{spelt}" for part, spelt in self.spelling.items()}
    n = self.norm(x, names["attention_norm"])
    query, key, value = (self.linear(n, names[part]) for part in ("query", "key", "value"))
    width = x.shape[-1] // self.heads
    mixed = np.empty_like(x)
    for head in range(self.heads):
      part = slice(head * width, (head + 1) * width)
      scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(width))
      mixed[:, part] = scores / scores.sum(-1, keepdims=True) @ value[:, part]
    x = x + self.linear(mixed, names["out"])
    inner = self.linear(self.norm(x, names["mlp_norm"]), names["up"])
    inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    return x + self.linear(inner, names["down"])


def _vit(model, clip, positions):
  parts = ("query", "key", "value", "out")
  spelling = {part: f"attention.{part}" for part in parts} | {part: f"mlp.{part}" for part in ("up", "down")}
  net = Reference(to_torch(model), 2, spelling | {"attention_norm": "attention_norm", "mlp_norm": "mlp_norm"})
  x = net.patches(clip, "embedding.patches")
  if positions == "learned":
    temporal, spatial = net.arrays["embedding.temporal"], net.arrays["embedding.spatial"]
    x = x + temporal[:, None, None] + spatial.reshape(2, 2, -1)
  x = x.reshape(-1, x.shape[-1])
  if positions == "sinusoid":
    x = x + sinusoids(*x.shape)
  for n in range(2):
    x = net.block(x, f"blocks.{n}")
  return net.norm(x, "norm").mean(0)


def _vivit(model, clip):
  spelling = {part: f"attention.attention.{part}" for part in ("query", "key", "value")}
  spelling |= {"out": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
  spelling |= {"attention_norm": "layernorm_before", "mlp_norm": "layernorm_after"}
  net = Reference(to_torch(model), 2, spelling)

  def read_out(x, prefix):
    token, positions = (net.arrays[f"{prefix}embeddings.{name}"][0] for name in ("cls_token", "position_embeddings"))
    x = net.block(np.concatenate([token, x]) + positions, f"{prefix}encoder.layer.0")
    return net.norm(x[0], f"{prefix}layernorm")

  patches = net.patches(clip, "embeddings.patch_embeddings.projection")
  return read_out(np.stack([read_out(part.reshape(4, -1), "") for part in patches]), "temporal_")


@pytest.mark.parametrize("positions", ["learned", "sinusoid"])
def test_vit_does_as_stated(positions):
  model, clips = _tiny("vit_s", positions=positions), _clips()
  wanted = np.stack([_vit(model, np.asarray(clip, np.float64), positions) for clip in clips])
  _close(_run(model, clips), wanted, 1e-5)


def test_vivit_does_as_stated():
  model, clips = _tiny("vivit_b"), _clips()
  wanted = np.stack([_vivit(model, np.asarray(clip, np.float64)) for clip in clips])
  _close(_run(model, clips), wanted, 1e-5)


def test_vivit_has_the_published_size():
  state = nnx.state(nnx.eval_shape(lambda: models.create("vivit_b", rngs=nnx.Rngs(0))))
  block = 4 * 768 * 769 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
  embeddings = 3 * 2 * 16 * 16 * 768 + 768 + (1 + 197) * 768 + (1 + 4) * 768
  assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state)) == 16 * block + embeddings + 4 * 768


def test_a_fresh_vit_is_small_and_acts():
  model = _built("vit_s")
  assert sum(value.size for value in to_torch(model).values()) == 1_853_760

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def run(clips):
    return models.create("vit_s", rngs=nnx.Rngs(0))(clips)

  outputs = np.asarray(run(_clips(5, 32, 32)))
  assert outputs.shape == (2, model.spec.features)
  assert np.isfinite(outputs).all()
  assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@names
def test_names_fall_into_stages_that_can_be_trained(name):
  model = _built(name, **_TINY[name])
  keys = {key: [stage for stage in model.stages if key.startswith(f"{stage}.")] for key in to_torch(model)}
  assert all(len(stages) == 1 for stages in keys.values())
  assert {stage for (stage,) in keys.values()} == set(model.stages)
  full = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0)))
  assert {full.spec.top, full.spec.half} <= set(full.stages)


def test_a_vit_of_any_depth_has_a_top():
  for depth in (1, 2, 5):
    model = nnx.eval_shape(lambda depth=depth: models.create("vit_s", rngs=nnx.Rngs(0), depth=depth))
    assert {model.spec.top, model.spec.half} <= set(model.stages)


@names
def test_what_is_loaded_comes_back(name):
  model = _built(name, **_TINY[name])
  arrays = _values(model)
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])


@names
def test_missing_unused_and_misshapen_entries_are_named(name):
  model = _built(name, **_TINY[name])
  arrays = to_torch(model)
  key = next(key for key in arrays if "query.weight" in key)
  with pytest.raises(ValueError, match=f"missing.*{re.escape(repr(key))}"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'classifier\.bias'"):
    load_torch(model, arrays | {"classifier.bias": np.zeros(3)})
  with pytest.raises(ValueError, match=f"{re.escape(repr(key))} has shape"):
    load_torch(model, arrays | {key: np.zeros((8, 4))})


@pytest.mark.parametrize(("name", "first_trained"), [("vit_s", 0), ("vivit_b", 0), ("vivit_b", 2)])
def test_gradients_stop_at_the_first_trained_stage(name, first_trained):
  model = _tiny(name)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def gradients(params):
    def scalar(params):
      outputs = nnx.merge(graphdef, params, rest)(_clips(), Context(train=True), first_trained=first_trained)
      return jnp.sum(outputs * jax.random.normal(jax.random.key(5), outputs.shape))

    return jax.grad(scalar)(params)

  frozen = tuple(f"{stage}." for stage in model.stages[:first_trained])
  for key, value in to_torch(nnx.merge(graphdef, gradients(params), rest)).items():
    assert np.isfinite(value).all(), key
    assert (np.abs(value).max() == 0) == (frozen != () and key.startswith(frozen)), key


@names
def test_half_precision_is_near_the_exact_output(name):
  model = _tiny(name, dtype=jnp.bfloat16)
  exact, half = _run(_tiny(name), _clips()), _run(model, _clips())
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  _close(half, exact, 0.05)
  assert all(value.dtype == np.float32 for value in to_torch(model).values())


@names
def test_clips_of_other_lengths_and_sizes_are_encoded(name):
  model = _built(name, **_TINY[name])
  for shape in [(1, 8, 8), (7, 4, 12), (16, 112, 112)]:
    output = jax.eval_shape(model, jax.ShapeDtypeStruct((2, *shape, 3), jnp.float32))
    assert output.shape == (2, 8)


@names
def test_the_last_frame_fills_its_tubelet(name):
  model, clips = _tiny(name), _clips(5)
  filled = jnp.concatenate([clips, clips[:, -1:]], axis=1)
  np.testing.assert_array_equal(model.stage(0, clips, EVALUATION), model.stage(0, filled, EVALUATION))


@names
@pytest.mark.parametrize("shape", [(2, 3, 4, 8, 8), (2, 0, 8, 8, 3), (2, 4, 8, 9, 3), (2,)])
def test_what_cannot_be_cut_into_patches_is_refused(name, shape):
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\] of at least.*, H and W multiples of 4"):
    _built(name, **_TINY[name])(jnp.zeros(shape))


def test_options_that_cannot_be_are_refused():
  def create(name, **options):
    return _built(name, **_TINY[name] | options)

  with pytest.raises(ValueError, match=r"positions = 'sinus'.*'sinusoid'"):
    create("vit_s", positions="sinus")
  for name in _TINY:
    with pytest.raises(ValueError, match="size = 9 must be a multiple of patch = 4"):
      create(name, size=9)
    with pytest.raises(ValueError, match="depth = 0"):
      create(name, depth=0)
    with pytest.raises(ValueError, match="dim = 8 must be a multiple of heads = 3"):
      create(name, heads=3)
