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
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

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


@functools.cache
def _tiny(name: str, **options):
  return tiny.filled(tiny.zeros(name, **_TINY | options), tiny.rectified)


def _clips(number: int = 3, frames: int = 5, size: int = 40):
  return tiny.clips(number, frames, size, size)


@pytest.mark.parametrize("name", _GOLDEN)
def test_golden_output(golden, name):
  file, options = _GOLDEN[name]
  arrays = golden(file)
  model = tiny.golden(tiny.zeros(name, **options), arrays)
  assert model.spec.features == 10
  # In float64 the golden arrays themselves are seen to be 2e-5 to 3e-5 away from the exact result.
  tiny.assert_near(tiny.run(model, np.moveaxis(arrays["input"], 1, -1)), arrays["output"], 1e-4)


@names
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  assert tiny.shapes(tiny.full_size(name)) == tiny.published(golden_path / "keys" / f"{_SIZES[name][0]}.net.txt")


@names
def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path, name):
  file, number, top = _SIZES[name]
  parameters = tiny.published(golden_path / "keys" / f"{file}.net.params.txt")
  assert checks.numbers(parameters) == number
  model = tiny.full_size(name)
  assert checks.stage_starts(model.stages, parameters)[model.spec.top] == top
  assert model.spec.half is None


@names
def test_stages_shorten_clips_as_published(name):
  model = tiny.full_size(name)
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
  flat = tiny.blank(lambda: ResNet3D(flat, rngs=nnx.Rngs(0), **_TINY))
  arrays = to_torch(slow)
  long = {key for key, value in arrays.items() if value.shape[2:] == (3, 1, 1)}
  assert long == {f"blocks.{n}.res_blocks.0.branch2.conv_a.weight" for n in (3, 4)}
  load_torch(flat, {key: value[:, :, 1:2] if key in long else value for key, value in arrays.items()})
  tiny.assert_near(tiny.run(slow, _clips(frames=1)), tiny.run(flat, _clips(frames=1)), 1e-5)


@names
def test_what_is_loaded_comes_back(name):
  checks.assert_comes_back(tiny.zeros(name, **_TINY))


@names
def test_missing_unused_and_misshapen_entries_are_named(name):
  model = tiny.zeros(name, **_TINY)
  key = next(key for key in to_torch(model) if ".conv_b." in key and key.endswith("weight"))
  checks.assert_misfits_are_named(model, key, "blocks.9.proj.weight", (3, 3, 1, 1, 1))


@pytest.mark.parametrize(
  ("name", "first_trained"), [pytest.param("csn_r101", 0, marks=pytest.mark.slow), ("r2plus1d_r50", 4), ("slow_r50", 6)]
)
def test_gradients_and_statistics_stop_at_the_first_trained_stage(name, first_trained):
  model, rate = _tiny(name, depths=(1, 1, 1, 1)), 1e-4 if first_trained == 0 else None
  checks.assert_descends(model, _clips(frames=3, size=33), first_trained, rate)


def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(functools.partial(_tiny, "r2plus1d_r50"), _clips())


def test_probabilities_are_averaged_over_time_where_asked():
  model, soft = _tiny("r2plus1d_r50"), _tiny("r2plus1d_r50", softmax_head=True)
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 1, 1, 64)), jnp.float32)
  scores = [np.asarray(model.stage(5, x[:, t : t + 1], EVALUATION)) for t in range(2)]
  tiny.assert_near(model.stage(5, x, EVALUATION), np.mean(scores, 0), 1e-5)
  exponentials = np.exp(scores)
  wanted = (exponentials / exponentials.sum(-1, keepdims=True)).mean(0)
  tiny.assert_near(soft.stage(5, x, EVALUATION), wanted, 1e-5)


def test_the_last_map_may_take_the_place_of_classes():
  model = _tiny("slow_r50")
  pooled = tiny.zeros("slow_r50", feature="pooled", **_TINY)
  arrays = to_torch(model)
  load_torch(pooled, arrays)
  assert pooled.spec.features == 64
  assert pooled.stages == model.stages
  assert arrays.keys() - to_torch(pooled).keys() == {"blocks.5.proj.weight", "blocks.5.proj.bias"}
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 2, 2, 64)), jnp.float32)
  mean = np.asarray(pooled.stage(5, x, EVALUATION))
  tiny.assert_near(mean, np.asarray(x).mean((1, 2, 3)), 1e-5)
  tiny.assert_near(
    model.stage(5, x, EVALUATION), mean @ arrays["blocks.5.proj.weight"].T + arrays["blocks.5.proj.bias"], 1e-5
  )


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
  tiny.assert_near(model.stage(5, jnp.asarray(x), EVALUATION), wanted, 1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 1, 32, 32, 3), (2, 5, 0, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=re.escape(str(shape)) + r".*\[B, T, H, W, 3\] with at least 2 frames"):
    _tiny("c2d_r50")(jnp.zeros(shape))


def test_options_that_do_not_fit_are_refused():
  with pytest.raises(OptionError, match=r"depths = \(1, 2, 0, 1\).*at least one block"):
    _tiny("i3d_r50", depths=(1, 2, 0, 1))
  with pytest.raises(OptionError, match=r"feature = 'poolde'.*'pooled'"):
    _tiny("i3d_r50", feature="poolde")
  with pytest.raises(OptionError, match=r"num_class = 3: 'csn_r101' has no such option; .*'num_classes'"):
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
  arrays = to_torch(tiny.fresh(lambda: make(rngs=nnx.Rngs(0))))
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
