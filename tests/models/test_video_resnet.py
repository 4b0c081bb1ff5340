import dataclasses
import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.resnet import ResNet3D
from mlrec.models.items.video.resnet import VARIANTS
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.resnet3d import Bottleneck
from mlrec.models.layers.resnet3d import ResHead

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_GOLDEN = {
  "c2d_r50": ("video_c2d_tiny", {"stem": 4, "num_classes": 10}),
  "i3d_r50": ("video_i3d_tiny", {"stem": 4, "num_classes": 10}),
  "csn_r101": ("video_csn_tiny", {"stem": 8, "num_classes": 10, "depths": (3, 4, 6, 3)}),
  "r2plus1d_r50": ("video_r2plus1d_tiny_no_softmax", {"stem": 4, "num_classes": 10}),
}
_TINY = {"stem": 2, "num_classes": 7, "depths": (1, 2, 1, 1)}
# The published name, the number of parameters, and the first one that is trained where only the top is.
_SIZES = {
  "c2d_r50": ("c2d50", 24_327_632, 129),
  "i3d_r50": ("i3d50", 28_043_472, 72),
  "slow_r50": ("slow50", 32_454_096, 129),
  "csn_r101": ("csn101", 22_213_776, 282),
  "r2plus1d_r50": ("r3d50", 28_107_600, 168),
}
# Frames, and height, after each stage but the last, of 5 frames of 224 by 224.
_LENGTHS = {
  "c2d_r50": ((5, 2, 2, 2, 2), (56, 56, 28, 14, 7)),
  "i3d_r50": ((5, 2, 2, 2, 2), (56, 56, 28, 14, 7)),
  "slow_r50": ((5, 5, 5, 5, 5), (56, 56, 28, 14, 7)),
  "csn_r101": ((5, 5, 3, 2, 1), (56, 56, 28, 14, 7)),
  "r2plus1d_r50": ((5, 5, 5, 3, 2), (112, 56, 28, 14, 7)),
}
names = pytest.mark.parametrize("name", VARIANTS)


def _build(make):
  """A model of zeros, which need no compilation."""
  graphdef, state = nnx.split(nnx.eval_shape(make))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), state))


@functools.cache
def _full(name: str):
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0))))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state))


@functools.cache
def _tiny(name: str, **options):
  model = _build(lambda: models.create(name, rngs=nnx.Rngs(0), **_TINY | options))
  load_torch(model, _arrays(model))
  return model


def _arrays(model, seed: int = 1):
  """Arrays under which all blocks act: a fresh net's are silent, for their last norm's weight is 0."""
  rng = np.random.default_rng(seed)

  def draw(key, shape):
    if len(shape) > 1:
      return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    return rng.uniform(*((-0.3, 0.3) if key.endswith(("bias", "mean")) else (0.5, 1.5)), shape)

  return {key: draw(key, value.shape).astype(np.float32) for key, value in to_torch(model).items()}


def _published(golden_path, file: str):
  lines = (golden_path / "keys" / file).read_text().splitlines()
  pairs = [re.search(r"(\S+) \(([\d, ]*)\)$", line).groups() for line in lines]
  return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in pairs}


def _clips(number: int = 3, frames: int = 5, size: int = 40, seed: int = 3):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(number, frames, size, size, 3)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def _run(model, x):
  return np.asarray(_compiled(*nnx.split(model), x))


def _close(actual, wanted, tolerance):
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("name", _GOLDEN)
def test_golden_output(golden, name):
  file, options = _GOLDEN[name]
  arrays = golden(file)
  model = _build(lambda: models.create(name, rngs=nnx.Rngs(0), **options))
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  assert model.spec.features == 10
  # In float64 the golden arrays themselves are seen to be 2e-5 to 3e-5 away from the exact result.
  _close(_run(model, np.moveaxis(arrays["input"], 1, -1)), arrays["output"], 1e-4)


@names
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  wanted = _published(golden_path, f"{_SIZES[name][0]}.net.txt")
  wanted = {key: shape for key, shape in wanted.items() if not key.endswith("num_batches_tracked")}
  assert {key: value.shape for key, value in to_torch(_full(name)).items()} == wanted


@names
def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path, name):
  file, number, top = _SIZES[name]
  parameters = _published(golden_path, f"{file}.net.params.txt")
  assert sum(int(np.prod(shape)) for shape in parameters.values()) == number
  model = _full(name)
  stages = [[n for n, stage in enumerate(model.stages) if key.startswith(f"{stage}.")] for key in parameters]
  assert all(len(found) == 1 for found in stages)
  stages = [found[0] for found in stages]
  assert stages == sorted(stages)
  assert set(stages) == set(range(len(model.stages)))
  assert stages.index(model.stages.index(model.spec.top)) == top
  assert model.spec.half is None


@names
def test_stages_shorten_clips_as_published(name):
  model = _full(name)
  x = jax.ShapeDtypeStruct((1, 5, 224, 224, 3), jnp.float32)
  shapes = []
  for n in range(len(model.stages)):
    x = jax.eval_shape(functools.partial(model.stage, n, context=EVALUATION), x)
    shapes.append(x.shape)
  widths = (64, 256, 512, 1024, 2048)
  assert shapes[:-1] == [(1, t, h, h, width) for t, h, width in zip(*_LENGTHS[name], widths)]
  assert shapes[-1] == (1, 400)
  assert model.spec.features == 400


def test_one_frame_of_slow_meets_the_middle_of_its_kernels_alone():
  slow = _tiny("slow_r50")
  flat = dataclasses.replace(VARIANTS["c2d_r50"], time_pool=False)
  flat = _build(lambda: ResNet3D(flat, rngs=nnx.Rngs(0), **_TINY))
  arrays = to_torch(slow)
  long = {key for key, value in arrays.items() if value.shape[2:] == (3, 1, 1)}
  assert long == {f"blocks.{n}.res_blocks.0.branch2.conv_a.weight" for n in (3, 4)}
  load_torch(flat, {key: value[:, :, 1:2] if key in long else value for key, value in arrays.items()})
  _close(_run(slow, _clips(frames=1)), _run(flat, _clips(frames=1)), 1e-5)


@names
def test_what_is_loaded_comes_back(name):
  model = _build(lambda: models.create(name, rngs=nnx.Rngs(0), **_TINY))
  arrays = _arrays(model)
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])


@names
def test_missing_unused_and_misshapen_entries_are_named(name):
  model = _build(lambda: models.create(name, rngs=nnx.Rngs(0), **_TINY))
  arrays = _arrays(model)
  key = next(key for key in arrays if ".conv_b." in key and key.endswith("weight"))
  with pytest.raises(ValueError, match=f"missing.*{re.escape(repr(key))}"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'blocks\.9\.proj\.weight'"):
    load_torch(model, arrays | {"blocks.9.proj.weight": np.zeros(3)})
  with pytest.raises(ValueError, match=f"{re.escape(repr(key))} has shape"):
    load_torch(model, arrays | {key: np.zeros((3, 3, 1, 1, 1))})


def _scalar(graphdef, params, rest, first_trained: int = 0):
  model = nnx.merge(graphdef, params, rest, copy=True)
  outputs = model(_clips(frames=3, size=33), Context(train=True), first_trained=first_trained)
  weights = jnp.asarray(np.random.default_rng(5).normal(size=outputs.shape), jnp.float32)
  return jnp.mean(jnp.square(outputs - weights)), nnx.state(model, nnx.BatchStat)


@pytest.mark.parametrize(("name", "first_trained"), [("csn_r101", 0), ("r2plus1d_r50", 4), ("slow_r50", 6)])
def test_gradients_and_statistics_stop_at_the_first_trained_stage(name, first_trained):
  model = _tiny(name, depths=(1, 1, 1, 1))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def step(params, rest):
    of = functools.partial(_scalar, graphdef, first_trained=first_trained)
    (loss, statistics), gradients = jax.value_and_grad(of, has_aux=True)(params, rest)
    return loss, gradients, statistics

  loss, gradients, statistics = step(params, rest)
  before, after = to_torch(model), to_torch(nnx.merge(graphdef, gradients, statistics))
  frozen = tuple(f"{stage}." for stage in model.stages[:first_trained])
  for key, value in after.items():
    assert np.isfinite(value).all(), key
    if "running" in key:
      assert np.array_equal(value, before[key]) == (frozen != () and key.startswith(frozen)), key
    else:
      assert (np.abs(value).max() == 0) == (frozen != () and key.startswith(frozen)), key
  if first_trained == 0:
    moved = jax.tree.map(lambda value, gradient: value - 1e-4 * gradient, params, gradients)
    assert step(moved, rest)[0] < loss


def test_half_precision_is_near_the_exact_output():
  exact, model = _run(_tiny("r2plus1d_r50"), _clips()), _tiny("r2plus1d_r50", dtype=jnp.bfloat16)
  half = _run(model, _clips())
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  _close(half, exact, 0.05)
  assert all(value.dtype == np.float32 for value in to_torch(model).values())


def test_probabilities_are_averaged_over_time_where_asked():
  model, soft = _tiny("r2plus1d_r50"), _tiny("r2plus1d_r50", softmax_head=True)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 1, 1, 64)), jnp.float32)
  scores = [np.asarray(model.stage(5, x[:, t : t + 1], EVALUATION)) for t in range(2)]
  _close(model.stage(5, x, EVALUATION), np.mean(scores, 0), 1e-5)
  exponentials = np.exp(scores)
  wanted = (exponentials / exponentials.sum(-1, keepdims=True)).mean(0)
  _close(soft.stage(5, x, EVALUATION), wanted, 1e-5)


def test_the_last_map_may_take_the_place_of_classes():
  model = _tiny("slow_r50")
  pooled = _build(lambda: models.create("slow_r50", rngs=nnx.Rngs(0), feature="pooled", **_TINY))
  arrays = to_torch(model)
  load_torch(pooled, arrays)
  assert pooled.spec.features == 64
  assert pooled.stages == model.stages
  assert arrays.keys() - to_torch(pooled).keys() == {"blocks.5.proj.weight", "blocks.5.proj.bias"}
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 2, 2, 64)), jnp.float32)
  mean = np.asarray(pooled.stage(5, x, EVALUATION))
  _close(mean, np.asarray(x).mean((1, 2, 3)), 1e-5)
  _close(model.stage(5, x, EVALUATION), mean @ arrays["blocks.5.proj.weight"].T + arrays["blocks.5.proj.bias"], 1e-5)


@names
def test_clips_of_other_lengths_and_sizes_are_encoded(name):
  model = _tiny(name)
  for frames, height, width in [(2, 16, 16), (9, 257, 120)]:
    output = jax.eval_shape(model, jax.ShapeDtypeStruct((2, frames, height, width, 3), jnp.float32))
    assert output.shape == (2, 7)


def test_a_larger_last_map_is_averaged_in_windows():
  model = _tiny("slow_r50")
  x = np.random.default_rng(0).normal(size=(1, 1, 8, 8, 64)).astype(np.float32)
  windows = [x[:, :, i : i + 7, j : j + 7] for i in (0, 1) for j in (0, 1)]
  wanted = np.mean([np.asarray(model.stage(5, jnp.asarray(window), EVALUATION)) for window in windows], 0)
  _close(model.stage(5, jnp.asarray(x), EVALUATION), wanted, 1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 1, 32, 32, 3), (2, 5, 0, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=re.escape(str(shape)) + r".*\[B, T, H, W, 3\] with at least 2 frames"):
    _tiny("c2d_r50")(jnp.zeros(shape))


def test_options_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r"depths = \(1, 2, 0, 1\).*at least one block"):
    _tiny("i3d_r50", depths=(1, 2, 0, 1))
  with pytest.raises(ValueError, match=r"feature = 'poolde'.*'pooled'"):
    _tiny("i3d_r50", feature="poolde")
  with pytest.raises(ValueError, match=r"'csn_r101' has no option 'num_class'.*'num_classes'"):
    models.create("csn_r101", num_class=3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["c2d_r50", "csn_r101"])
def test_dropout_acts_before_the_classes_but_in_csn(name):
  model = _tiny(name)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 1, 1, 64)), jnp.float32)
  last = len(model.stages) - 1
  still = model.stage(last, x, EVALUATION)
  moved = model.stage(last, x, Context(rngs=nnx.Rngs(dropout=1)))
  assert np.array_equal(still, moved) == (name == "csn_r101")


def test_fresh_blocks_start_as_their_shortcuts():
  make = functools.partial(Bottleneck, 40, 20, 80, factorised=True)
  block = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
  nnx.update(block, jax.jit(lambda: nnx.state(make(rngs=nnx.Rngs(0))), compiler_options=_QUICK)())
  arrays = to_torch(block)
  assert sum(value.ndim == 5 for value in arrays.values()) == 5
  for key, value in arrays.items():
    if value.ndim == 5:
      fan_out = value.shape[0] * np.prod(value.shape[2:])
      assert value.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.08), key
    else:
      zero = key == "branch2.norm_c.weight" or key.endswith(("bias", "running_mean"))
      assert (value == (0 if zero else 1)).all(), key


def test_fresh_classes_are_drawn_small():
  arrays = to_torch(ResHead(80, 100, rngs=nnx.Rngs(0)))
  assert arrays["proj.weight"].std() == pytest.approx(0.01, rel=0.05)
  assert (arrays["proj.bias"] == 0).all()
