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
from mlrec.models.items.video.r3d import BasicBlock
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_TINY = {"stem": 2, "depths": (1, 2, 1, 1)}


def _build(**options):
  """A model of zeros, which need no compilation."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("r3d_r18", rngs=nnx.Rngs(0), **options)))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), state))


@functools.cache
def _full():
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("r3d_r18", rngs=nnx.Rngs(0))))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state))


def _tiny(**options):
  model = _build(**_TINY | options)
  load_torch(model, _arrays(model))
  return model


def _arrays(model, seed: int = 1):
  rng = np.random.default_rng(seed)

  def draw(key, shape):
    if len(shape) > 1:
      return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    return rng.uniform(*((-0.3, 0.3) if key.endswith(("bias", "mean")) else (0.5, 1.5)), shape)

  return {key: draw(key, value.shape).astype(np.float32) for key, value in to_torch(model).items()}


def _published(golden_path, file: str):
  """Names and shapes without `fc`: the benchmark's net ends in its projection, which is not the encoder's here."""
  lines = (golden_path / "keys" / file).read_text().splitlines()
  pairs = [re.search(r"(\S+) \(([\d, ]*)\)$", line).groups() for line in lines]
  shapes = {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in pairs}
  assert {shapes.pop("fc.weight"), shapes.pop("fc.bias")} == {(512, 512), (512,)}
  return shapes


def _clips(frames: int = 3, size: int = 32):
  return jnp.asarray(np.random.default_rng(3).normal(size=(3, frames, size, size, 3)), jnp.float32)


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def _run(model, x):
  return np.asarray(_compiled(*nnx.split(model), x))


def _close(actual, wanted, tolerance):
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_golden_output(golden):
  arrays = golden("video_r3d_tiny")
  model = _build(stem=3)
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  assert model.spec.features == 24
  _close(_run(model, np.moveaxis(arrays["input"], 1, -1)), arrays["output"], 1e-5)


def test_names_and_shapes_are_the_published_ones(golden_path):
  wanted = _published(golden_path, "r3d18.net.txt")
  wanted = {key: shape for key, shape in wanted.items() if not key.endswith("num_batches_tracked")}
  assert {key: value.shape for key, value in to_torch(_full()).items()} == wanted


def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path):
  parameters = _published(golden_path, "r3d18.net.params.txt")
  # The projection of 512 features to 512 counts there.
  assert sum(int(np.prod(shape)) for shape in parameters.values()) + 512 * 512 + 512 == 33_428_928
  model = _full()
  stages = [[n for n, stage in enumerate(model.stages) if key.startswith(f"{stage}.")] for key in parameters]
  assert all(len(found) == 1 for found in stages)
  stages = [found[0] for found in stages]
  assert stages == sorted(stages)
  assert set(stages) == set(range(len(model.stages)))
  assert stages.index(model.stages.index(model.spec.top)) == 30
  assert model.spec.half is None


def test_stages_shorten_clips_as_published():
  model = _full()
  x = jax.ShapeDtypeStruct((1, 5, 224, 224, 3), jnp.float32)
  shapes = []
  for n in range(4):
    x = jax.eval_shape(functools.partial(model.stage, n, context=EVALUATION), x)
    shapes.append(x.shape)
  assert shapes == [(1, 5, 112, 112, 64), (1, 5, 112, 112, 64), (1, 3, 56, 56, 128), (1, 2, 28, 28, 256)]
  blocks = model.layers[3]
  x = jax.eval_shape(lambda x: blocks[0](x, EVALUATION), x)
  assert x.shape == (1, 1, 14, 14, 512)
  assert jax.eval_shape(model, jax.ShapeDtypeStruct((1, 5, 224, 224, 3), jnp.float32)).shape == (1, 512)
  assert model.spec.features == 512


def test_published_classes_are_dropped_and_what_is_loaded_comes_back():
  model = _build(**_TINY)
  arrays = _arrays(model)
  classes = {"fc.weight": np.zeros((400, 16), np.float32), "fc.bias": np.zeros(400, np.float32)}
  load_torch(model, arrays | classes)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])


def test_missing_unused_and_misshapen_entries_are_named():
  model = _build(**_TINY)
  arrays = _arrays(model)
  key = "layer2.0.downsample.0.weight"
  with pytest.raises(ValueError, match=f"missing.*{re.escape(repr(key))}"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'layer1\.0\.fc\.weight'"):
    load_torch(model, arrays | {"layer1.0.fc.weight": np.zeros(3)})
  with pytest.raises(ValueError, match=f"{re.escape(repr(key))} has shape"):
    load_torch(model, arrays | {key: np.zeros((3, 3, 1, 1, 1))})


def _scalar(graphdef, params, rest, first_trained: int = 0):
  model = nnx.merge(graphdef, params, rest, copy=True)
  outputs = model(_clips(), Context(train=True), first_trained=first_trained)
  weights = jnp.asarray(np.random.default_rng(5).normal(size=outputs.shape), jnp.float32)
  return jnp.mean(jnp.square(outputs - weights)), nnx.state(model, nnx.BatchStat)


@pytest.mark.parametrize("first_trained", [0, 3, 5])
def test_gradients_and_statistics_stop_at_the_first_trained_stage(first_trained):
  model = _tiny()
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def step(params, rest):
    of = functools.partial(_scalar, graphdef, first_trained=first_trained)
    (loss, statistics), gradients = jax.value_and_grad(of, has_aux=True)(params, rest)
    return loss, gradients, statistics

  loss, gradients, statistics = step(params, rest)
  if first_trained < 5:
    moved = jax.tree.map(lambda value, gradient: value - 1e-3 * gradient, params, gradients)
    assert step(moved, rest)[0] < loss
  before, after = to_torch(model), to_torch(nnx.merge(graphdef, gradients, statistics))
  frozen = tuple(f"{stage}." for stage in model.stages[:first_trained])
  for key, value in after.items():
    assert np.isfinite(value).all(), key
    if "running" in key:
      assert np.array_equal(value, before[key]) == (frozen != () and key.startswith(frozen)), key
    else:
      assert (np.abs(value).max() == 0) == (frozen != () and key.startswith(frozen)), key


def test_half_precision_is_near_the_exact_output():
  exact, model = _run(_tiny(), _clips()), _tiny(dtype=jnp.bfloat16)
  half = _run(model, _clips())
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  _close(half, exact, 0.05)
  assert all(value.dtype == np.float32 for value in to_torch(model).values())


def test_clips_of_other_lengths_and_sizes_are_encoded():
  model = _build(**_TINY)
  for frames, height, width in [(1, 16, 16), (2, 33, 40), (16, 112, 112)]:
    output = jax.eval_shape(model, jax.ShapeDtypeStruct((2, frames, height, width, 3), jnp.float32))
    assert output.shape == (2, 16)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 0, 32, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=re.escape(str(shape)) + r".*\[B, T, H, W, 3\] with at least 1 frame"):
    _build(**_TINY)(jnp.zeros(shape))


def test_depths_of_too_few_stages_are_refused():
  with pytest.raises(ValueError, match=r"depths = \(1, 2\).*four stages"):
    _build(depths=(1, 2))


def test_a_fresh_block_is_drawn_as_published():
  make = functools.partial(BasicBlock, 12, 24, 2, dtype=jnp.float32)
  block = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
  nnx.update(block, jax.jit(lambda: nnx.state(make(rngs=nnx.Rngs(0))), compiler_options=_QUICK)())
  arrays = to_torch(block)
  assert sum(value.ndim == 5 for value in arrays.values()) == 3
  for key, value in arrays.items():
    if value.ndim == 5:
      fan_out = value.shape[0] * np.prod(value.shape[2:])
      assert value.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.1), key
    else:
      # No norm starts at 0 here.
      assert (value == (0 if key.endswith(("bias", "running_mean")) else 1)).all(), key
