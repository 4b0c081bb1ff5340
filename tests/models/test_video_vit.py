import functools
import math

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import to_torch
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.patches import sinusoids
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_TINY = {
  "vit_s": {"dim": 8, "depth": 2, "heads": 2, "patch": 4, "size": 8, "num_frames": 4, "positions": "learned"},
  "vivit_b": {
    "dim": 8, "depth": 1, "temporal_depth": 1, "heads": 2, "hidden": 12, "patch": 4, "size": 8, "num_frames": 4,
  },
}  # fmt: skip
names = pytest.mark.parametrize("name", _TINY)


def _built(name: str, **options):
  return tiny.zeros(name, **_TINY[name] | options)


def _tiny(name: str, **options):
  return tiny.filled(_built(name, **options))


def _clips(frames: int = 4, height: int = 8, width: int = 8):
  return tiny.clips(2, frames, height, width)


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
  tiny.assert_near(tiny.run(model, clips), wanted, 1e-5)


def test_vivit_does_as_stated():
  model, clips = _tiny("vivit_b"), _clips()
  wanted = np.stack([_vivit(model, np.asarray(clip, np.float64)) for clip in clips])
  tiny.assert_near(tiny.run(model, clips), wanted, 1e-5)


def test_vivit_has_the_published_size():
  block = 4 * 768 * 769 + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
  embeddings = 3 * 2 * 16 * 16 * 768 + 768 + (1 + 197) * 768 + (1 + 4) * 768
  assert checks.numbers(tiny.shapes(tiny.full_size("vivit_b"))) == 16 * block + embeddings + 4 * 768


def test_a_fresh_vit_is_small_and_acts():
  model = tiny.full_size("vit_s")
  assert checks.numbers(tiny.shapes(model)) == 1_853_760

  @functools.partial(jax.jit, compiler_options=tiny.QUICK)
  def run(clips):
    return models.create("vit_s", rngs=nnx.Rngs(0))(clips)

  outputs = np.asarray(run(_clips(5, 32, 32)))
  assert outputs.shape == (2, model.spec.features)
  assert np.isfinite(outputs).all()
  assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


@names
def test_names_fall_into_stages_that_can_be_trained(name):
  model = _built(name)
  keys = {key: [stage for stage in model.stages if key.startswith(f"{stage}.")] for key in to_torch(model)}
  assert all(len(stages) == 1 for stages in keys.values())
  assert {stage for (stage,) in keys.values()} == set(model.stages)
  full = tiny.full_size(name)
  assert {full.spec.top, full.spec.half} <= set(full.stages)


def test_a_vit_of_any_depth_has_a_top():
  for depth in (1, 2, 5):
    model = nnx.eval_shape(lambda depth=depth: models.create("vit_s", rngs=nnx.Rngs(0), depth=depth))
    assert {model.spec.top, model.spec.half} <= set(model.stages)


@names
def test_what_is_loaded_comes_back(name):
  checks.assert_comes_back(_built(name))


@names
def test_missing_unused_and_misshapen_entries_are_named(name):
  model = _built(name)
  key = next(key for key in to_torch(model) if "query.weight" in key)
  checks.assert_misfits_are_named(model, key, "classifier.bias", (8, 4))


@pytest.mark.parametrize(("name", "first_trained"), [("vit_s", 0), ("vivit_b", 0), ("vivit_b", 2)])
def test_gradients_stop_at_the_first_trained_stage(name, first_trained):
  checks.assert_gradients_stop(_tiny(name), _clips(), first_trained)


@names
def test_half_precision_is_near_the_exact_output(name):
  checks.assert_near_in_half_precision(functools.partial(_tiny, name), _clips())


@names
def test_clips_of_other_lengths_and_sizes_are_encoded(name):
  model = _built(name)
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
    _built(name)(jnp.zeros(shape))


def test_options_that_cannot_be_are_refused():
  with pytest.raises(OptionError, match=r"positions = 'sinus'.*'sinusoid'"):
    _built("vit_s", positions="sinus")
  for name in _TINY:
    with pytest.raises(OptionError, match="size = 9 must be a multiple of patch = 4"):
      _built(name, size=9)
    with pytest.raises(OptionError, match="depth = 0"):
      _built(name, depth=0)
    with pytest.raises(OptionError, match="dim = 8 must be a multiple of heads = 3"):
      _built(name, heads=3)
