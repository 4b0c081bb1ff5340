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
from mlrec.models.items.video.slowfast import Pathways
from mlrec.models.items.video.slowfast import SlowFast
from mlrec.models.items.video.slowfast import VARIANTS
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_GOLDEN = {"widths": (4, 1), "num_classes": 10}
_TINY = {"widths": (4, 2), "num_classes": 6, "depths": (1, 1, 1, 1)}
# The published names, parameters, and the first parameter trained where only the top or the upper half is.
_PUBLISHED = {
  "slowfast_r50": ("slowfast-50", 34_566_488, 270, 153),
  "slowfast_r101": ("slowfast16x8-101", 53_774_808, 576, 153),
}
names = pytest.mark.parametrize("name", VARIANTS)


def _built(name: str, **options):
  """A net without values; drawing them costs more than what is tested."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options)))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state))


def _tiny(**options):
  """A small net whose blocks act: a fresh one's are silent, for their last norm's scale is 0."""
  model = _built("slowfast_r50", **_TINY | options)
  rng = np.random.default_rng(1)
  arrays = to_torch(model)
  for key, value in arrays.items():
    fan = max(1, int(np.prod(value.shape[1:])))
    drawn = rng.uniform(0.5, 1.5, value.shape) if value.ndim == 1 else rng.normal(0, np.sqrt(2 / fan), value.shape)
    arrays[key] = drawn.astype(np.float32)
  load_torch(model, arrays)
  return model


def _clips(frames: int = 5, size: int = 40):
  return np.random.default_rng(3).normal(size=(2, frames, size, size, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def _run(model, x):
  return np.asarray(_compiled(*nnx.split(model), x))


def _close(actual, wanted, tolerance):
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def _published(golden_path, file: str):
  lines = (golden_path / "keys" / file).read_text().splitlines()
  pairs = [re.search(r"(\S+) \(([\d, ]*)\)$", line).groups() for line in lines]
  return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in pairs}


def test_golden_output(golden):
  arrays = golden("video_slowfast_tiny")
  model = _built("slowfast_r50", **_GOLDEN)
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  slow, fast = (np.moveaxis(arrays[f"input_{n}"], 1, -1) for n in range(2))
  np.testing.assert_array_equal(model._pathways(fast).slow, slow)
  _close(_run(model, fast), arrays["output"], 5e-5)


@names
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  wanted = _published(golden_path, f"{_PUBLISHED[name][0]}.net.txt")
  wanted = {key: shape for key, shape in wanted.items() if not key.endswith("num_batches_tracked")}
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0))))
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)
  assert {key: value.shape for key, value in to_torch(nnx.merge(graphdef, zeros)).items()} == wanted


@names
def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path, name):
  file, number, top, half = _PUBLISHED[name]
  parameters = _published(golden_path, f"{file}.net.params.txt")
  assert sum(int(np.prod(shape)) for shape in parameters.values()) == number
  spec = VARIANTS[name][-1]
  stages = [next(stage for stage in SlowFast.stages if key.startswith(f"{stage}.")) for key in parameters]
  assert stages == sorted(stages)
  assert tuple(dict.fromkeys(stages)) == SlowFast.stages
  assert (stages.index(spec.top), stages.index(spec.half)) == (top, half)


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = _built("slowfast_r101", **_TINY)
  rng = np.random.default_rng(2)
  arrays = {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])
  key = "blocks.1.multipathway_fusion.conv_fast_to_slow.weight"
  assert arrays[key].shape == (16, 8, 5, 1, 1)
  with pytest.raises(ValueError, match=f"missing.*'{re.escape(key)}'"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'blocks\.5\.weight'"):
    load_torch(model, arrays | {"blocks.5.weight": np.zeros(3)})
  with pytest.raises(ValueError, match=rf"'{re.escape(key)}' has shape \(16, 8, 7, 1, 1\).*\(16, 8, 5, 1, 1\)"):
    load_torch(model, arrays | {key: np.zeros((16, 8, 7, 1, 1))})


def _gradients(model, context: Context, first_trained: int):
  """Gradients of all parameters, and statistics, under PyTorch's names."""
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def step(params, rest):
    def scalar(params):
      model = nnx.merge(graphdef, params, rest, copy=True)
      outputs = model(_clips(), context, first_trained=first_trained)
      weights = np.random.default_rng(5).normal(size=outputs.shape)
      return jnp.sum(outputs * weights), nnx.state(model, nnx.BatchStat)

    return jax.grad(scalar, has_aux=True)(params)

  return to_torch(nnx.merge(graphdef, *step(params, rest)))


def test_gradient_reaches_every_parameter():
  for key, value in _gradients(_tiny(), EVALUATION, 0).items():
    assert np.isfinite(value).all(), key
    assert "running" in key or np.abs(value).max() > 1e-6, key


def test_gradients_and_statistics_stop_at_the_first_trained_stage():
  model = _tiny()
  before, after = to_torch(model), _gradients(model, Context(train=True), 4)
  frozen = tuple(f"{stage}." for stage in model.stages[:4])
  for key, value in after.items():
    assert np.isfinite(value).all(), key
    unmoved = np.array_equal(value, before[key]) if "running" in key else np.abs(value).max() == 0
    assert unmoved == key.startswith(frozen), key


def test_half_precision_is_near_the_exact_output():
  exact = _run(_tiny(), _clips())
  half_model = _tiny(dtype=jnp.bfloat16)
  half = _run(half_model, _clips())
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  _close(half, exact, 0.05)
  assert all(value.dtype == np.float32 for value in to_torch(half_model).values())


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize(
  ("frames", "slow"), [(1, [0]), (2, [0]), (4, [0]), (5, [0, 4]), (6, [0, 4]), (9, [0, 4, 8]), (10, [0, 4, 8])]
)
def test_the_slow_pathway_keeps_the_times_of_the_lateral_connections(kernel, frames, slow):
  model = _built("slowfast_r50", **_TINY | {"lateral_kernel": kernel})
  clips = jnp.broadcast_to(jnp.arange(float(frames))[:, None, None, None], (1, frames, 32, 48, 3))
  np.testing.assert_array_equal(model._pathways(clips).slow[0, :, 0, 0, 0], slow)
  assert jax.eval_shape(model, clips).shape == (1, 6)


def test_each_frame_has_a_part_in_the_output():
  model = _tiny()
  clips = _clips()
  output = _run(model, clips)
  for frame in range(5):
    sign = np.where(np.arange(5) == frame, -1, 1)[:, None, None, None].astype(np.float32)
    assert np.abs(_run(model, clips * sign) - output).max() > 1e-3


def test_without_classes_the_output_is_the_mean_below_them():
  whole, pooled = _tiny(), _built("slowfast_r50", **_TINY | {"feature": "pooled"})
  load_torch(pooled, to_torch(whole))  # a published file holds classes that are not used
  assert pooled.spec.features == 32 * (4 + 2)
  rng = np.random.default_rng(0)
  x = Pathways(*(rng.normal(size=(2, frames, 2, 2, width)).astype(np.float32) for frames, width in [(2, 128), (5, 64)]))
  weight, bias = whole.head.proj.kernel[...], whole.head.proj.bias[...]
  output = pooled.stage(5, x, EVALUATION)
  assert output.shape == (2, 192)
  _close(output @ weight + bias, whole.stage(5, x, EVALUATION), 1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 0, 32, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=re.escape(str(shape)) + r".*\[B, T, H, W, 3\]"):
    _built("slowfast_r50", **_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depths": (1, 1, 1)}, r"depths = \(1, 1, 1\)"),
    ({"lateral_kernel": 4}, "lateral_kernel = 4 must be odd"),
    ({"alpha": 0}, "alpha = 0"),
    ({"feature": "pool"}, "feature = 'pool'.*'pooled'"),
    ({"dept": 1}, "no option 'dept'.*'depths'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _built("slowfast_r50", **_TINY | options)
