import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.slowfast import Pathways
from mlrec.models.items.video.slowfast import SlowFast
from mlrec.models.items.video.slowfast import VARIANTS
from mlrec.models.layers.context import EVALUATION
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_GOLDEN = {"widths": (4, 1), "num_classes": 10}
_TINY = {"widths": (4, 2), "num_classes": 6, "depths": (1, 1, 1, 1)}
# The published names, parameters, and the first parameter trained where only the top or the upper half is.
_PUBLISHED = {
  "slowfast_r50": ("slowfast-50", 34_566_488, 270, 153),
  "slowfast_r101": ("slowfast16x8-101", 53_774_808, 576, 153),
}
names = pytest.mark.parametrize("name", VARIANTS)


def _tiny(**options):
  return tiny.filled(tiny.zeros("slowfast_r50", **_TINY | options), tiny.rectified)


def _clips(frames: int = 5, size: int = 40):
  return tiny.clips(2, frames, size, size)


def test_golden_output(golden):
  arrays = golden("video_slowfast_tiny")
  model = tiny.golden(tiny.zeros("slowfast_r50", **_GOLDEN), arrays)
  slow, fast = (np.moveaxis(arrays[f"input_{n}"], 1, -1) for n in range(2))
  np.testing.assert_array_equal(model._pathways(fast).slow, slow)
  tiny.assert_near(tiny.run(model, fast), arrays["output"], 5e-5)


@names
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  wanted = tiny.published(golden_path / "keys" / f"{_PUBLISHED[name][0]}.net.txt")
  assert tiny.shapes(tiny.full_size(name)) == wanted


@names
def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path, name):
  file, number, top, half = _PUBLISHED[name]
  parameters = tiny.published(golden_path / "keys" / f"{file}.net.params.txt")
  assert checks.numbers(parameters) == number
  spec = VARIANTS[name][-1]
  starts = checks.stage_starts(SlowFast.stages, parameters)
  assert (starts[spec.top], starts[spec.half]) == (top, half)


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = tiny.zeros("slowfast_r101", **_TINY)
  checks.assert_comes_back(model)
  key = "blocks.1.multipathway_fusion.conv_fast_to_slow.weight"
  assert tiny.shapes(model)[key] == (16, 8, 5, 1, 1)
  checks.assert_misfits_are_named(model, key, "blocks.5.weight", (16, 8, 7, 1, 1))


@pytest.mark.slow
def test_gradient_reaches_every_parameter():
  for key, value in checks.gradients(_tiny(), _clips(), context=lambda: EVALUATION).items():
    assert np.isfinite(value).all(), key
    assert "running" in key or np.abs(value).max() > 1e-6, key


@pytest.mark.slow
def test_gradients_and_statistics_stop_at_the_first_trained_stage():
  checks.assert_gradients_stop(_tiny(), _clips(), 4)


@pytest.mark.slow
def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(_tiny, _clips())


@pytest.mark.parametrize("kernel", [5, 7])
@pytest.mark.parametrize(
  ("frames", "slow"), [(1, [0]), (2, [0]), (4, [0]), (5, [0, 4]), (6, [0, 4]), (9, [0, 4, 8]), (10, [0, 4, 8])]
)
def test_the_slow_pathway_keeps_the_times_of_the_lateral_connections(kernel, frames, slow):
  model = tiny.zeros("slowfast_r50", **_TINY | {"lateral_kernel": kernel})
  clips = jnp.broadcast_to(jnp.arange(float(frames))[:, None, None, None], (1, frames, 32, 48, 3))
  np.testing.assert_array_equal(model._pathways(clips).slow[0, :, 0, 0, 0], slow)
  assert jax.eval_shape(model, clips).shape == (1, 6)


def test_each_frame_has_a_part_in_the_output():
  model = _tiny()
  clips = _clips()
  output = tiny.run(model, clips)
  for frame in range(5):
    sign = np.where(np.arange(5) == frame, -1, 1)[:, None, None, None].astype(np.float32)
    assert np.abs(tiny.run(model, clips * sign) - output).max() > 1e-3


def test_without_classes_the_output_is_the_mean_below_them():
  whole, pooled = _tiny(), tiny.zeros("slowfast_r50", **_TINY | {"feature": "pooled"})
  load_torch(pooled, to_torch(whole))  # a published file holds classes that are not used
  assert pooled.spec.features == 32 * (4 + 2)
  rng = np.random.default_rng(0)
  x = Pathways(*(rng.normal(size=(2, frames, 2, 2, width)).astype(np.float32) for frames, width in [(2, 128), (5, 64)]))
  weight, bias = whole.head.proj.kernel[...], whole.head.proj.bias[...]
  output = pooled.stage(5, x, EVALUATION)
  assert output.shape == (2, 192)
  tiny.assert_near(output @ weight + bias, whole.stage(5, x, EVALUATION), 1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 0, 32, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=re.escape(str(shape)) + r".*\[B, T, H, W, 3\]"):
    tiny.zeros("slowfast_r50", **_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depths": (1, 1, 1)}, r"depths = \(1, 1, 1\)"),
    ({"lateral_kernel": 4}, "lateral_kernel = 4 must be odd"),
    ({"alpha": 0}, "alpha = 0"),
    ({"feature": "pool"}, "feature = 'pool'.*'pooled'"),
    ({"dept": 1}, "dept = 1: 'slowfast_r50' has no such option; did you mean.*'depths'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=message):
    tiny.zeros("slowfast_r50", **_TINY | options)
