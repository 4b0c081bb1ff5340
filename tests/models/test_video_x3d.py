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
from mlrec.models.items.video.x3d import Block
from mlrec.models.items.video.x3d import VARIANTS
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_GOLDEN = {"stem": 8, "widths": (8, 16, 32, 64), "depths": (1, 2, 5, 3), "strides": (2, 2, 1, 1)}
_GOLDEN |= {"head": 64, "num_classes": 10}
_TINY = _GOLDEN | {"widths": (4, 8, 8, 12), "depths": (1, 2, 1, 1), "stem": 4, "head": 16}
_KEYS = {name: "x3d-xs" for name in ("x3d_xs", "x3d_s", "x3d_m")}
_KEYS |= {"x3d_l": "x3d-l", "efficient_x3d_xs": "efficient-x3d-xs", "efficient_x3d_s": "efficient-x3d-xs"}
# Parameters, and the first one that is trained where only the top is.
_SIZES = {"x3d-xs": (3_794_274, 226), "x3d-l": (6_153_384, 455), "efficient-x3d-xs": (3_794_322, 228)}
names = pytest.mark.parametrize("name", VARIANTS)
forms = pytest.mark.parametrize("name", ["x3d_xs", "efficient_x3d_xs"])


def _tiny(name: str, **options):
  return tiny.filled(tiny.zeros(name, **_TINY | options), tiny.rectified)


def _clips(frames: int = 3, size: int = 24):
  return tiny.clips(2, frames, size, size)


def test_golden_output(golden):
  arrays = golden("video_x3d_tiny")
  model = tiny.golden(tiny.zeros("x3d_xs", **_GOLDEN), arrays)
  assert model.spec.features == 10
  tiny.assert_near(tiny.run(model, np.moveaxis(arrays["input"], 1, -1)), arrays["output"], 1e-5)


@pytest.mark.parametrize("name", ["x3d_xs", pytest.param("x3d_l", marks=pytest.mark.slow), "efficient_x3d_xs"])
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  assert tiny.shapes(tiny.full_size(name)) == tiny.published(golden_path / "keys" / f"{_KEYS[name]}.net.txt")


def test_nets_of_one_shape_differ_in_their_weights_alone():
  for first, *others in [("x3d_xs", "x3d_s", "x3d_m"), ("efficient_x3d_xs", "efficient_x3d_s")]:
    for other in others:
      assert VARIANTS[other][:2] == VARIANTS[first][:2]
  assert len({spec.weights for _, _, spec in VARIANTS.values()}) == len(VARIANTS)


@names
def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path, name):
  parameters = tiny.published(golden_path / "keys" / f"{_KEYS[name]}.net.params.txt")
  number, top = _SIZES[_KEYS[name]]
  assert checks.numbers(parameters) == number
  family, _, spec = VARIANTS[name]
  assert checks.stage_starts(family.stages, parameters)[spec.top] == top
  assert spec.half is None


@forms
def test_what_is_loaded_comes_back(name):
  checks.assert_comes_back(tiny.zeros(name, **_TINY))


@forms
def test_missing_unused_and_misshapen_entries_are_named(name):
  model = tiny.zeros(name, **_TINY)
  key = next(key for key in to_torch(model) if ".norm_b.1.block.0.weight" in key or ".se.se.block.0.weight" in key)
  checks.assert_misfits_are_named(model, key, "blocks.9.weight", (3, 3, 1, 1, 1))


@pytest.mark.slow
def test_gradient_reaches_every_parameter():
  for key, value in checks.gradients(_tiny("x3d_xs"), _clips(), context=lambda: EVALUATION).items():
    assert np.isfinite(value).all(), key
    assert "running" in key or np.abs(value).max() > 1e-6, key


@forms
def test_gradients_and_statistics_stop_at_the_first_trained_stage(name):
  checks.assert_gradients_stop(_tiny(name), _clips(), 4)


def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(functools.partial(_tiny, "x3d_xs"), _clips())


def test_the_mobile_form_is_the_same_net_up_to_its_head():
  model, mobile = _tiny("x3d_xs"), _tiny("efficient_x3d_xs")
  nnx.update(mobile, nnx.state(model))
  extra = mobile.blocks[1].blocks[0].shortcut_norm
  extra.scale[...], extra.bias[...] = jnp.ones(4), jnp.zeros(4)
  extra.mean[...], extra.var[...] = jnp.zeros(4), jnp.full(4, 1 - extra.epsilon)
  # Where one frame and no more than a window of the last map are left, the heads do the same.
  tiny.assert_near(tiny.run(mobile, _clips(frames=1)), tiny.run(model, _clips(frames=1)), 1e-5)


def test_the_mobile_form_averages_the_whole_last_map():
  head = tiny.zeros("efficient_x3d_xs", **_TINY).head
  x = jax.ShapeDtypeStruct((2, 3, 9, 7, 12), jnp.float32)
  assert jax.eval_shape(lambda x: head(x, EVALUATION), x).shape == (2, 1, 1, 1, 16)


@forms
def test_clips_of_other_lengths_and_sizes_are_encoded(name):
  model = tiny.zeros(name, **_TINY)
  for frames, height, width in [(1, 16, 16), (2, 33, 40), (10, 160, 120), (5, 256, 256)]:
    output = jax.eval_shape(model, jax.ShapeDtypeStruct((2, frames, height, width, 3), jnp.float32))
    assert output.shape == (2, 10)


def test_the_last_map_is_averaged_in_windows():
  model = tiny.zeros("x3d_xs", **_TINY)
  for size, left in [(5, 1), (7, 1), (8, 2), (12, 6)]:
    x = jax.ShapeDtypeStruct((2, 3, size, 7, 12), jnp.float32)
    assert jax.eval_shape(lambda x: model.head(x, EVALUATION), x).shape == (2, 3, left, 1, 16)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 0, 32, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  model = tiny.zeros("x3d_xs", **_TINY)
  with pytest.raises(ValueError, match=re.escape(str(shape)) + r".*\[B, T, H, W, 3\]"):
    model(jnp.zeros(shape))


def test_impossible_options_are_named():
  with pytest.raises(OptionError, match=r"widths = \(4, 4\)"):
    models.create("x3d_xs", rngs=nnx.Rngs(0), **_TINY | {"widths": (4, 4)})
  with pytest.raises(OptionError, match=r"feature = 'pool'.*'pooled'"):
    models.create("x3d_xs", rngs=nnx.Rngs(0), **_TINY | {"feature": "pool"})
  with pytest.raises(OptionError, match=r"depths = .*at least one block"):
    models.create("x3d_xs", rngs=nnx.Rngs(0), **_TINY | {"depths": (1, 0, 1, 1)})


def test_an_unknown_option_answers_with_the_closest():
  with pytest.raises(OptionError, match=r"width = 3: 'x3d_s' has no such option; .*'widths'"):
    models.create("x3d_s", width=3, rngs=nnx.Rngs(0))


def test_dropout_acts_before_the_classes_where_there_are_streams():
  classes = _tiny("x3d_xs").classes
  x = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 16)).astype(np.float32)
  still = classes(x, EVALUATION)
  assert np.abs(classes(x, Context(rngs=nnx.Rngs(dropout=1))) - still).max() > 1e-4


@forms
def test_without_classes_the_output_is_the_mean_below_them(name):
  whole, pooled = _tiny(name), tiny.zeros(name, **_TINY | {"feature": "pooled"})
  load_torch(pooled, to_torch(whole))  # a published file holds classes that are not used
  assert pooled.spec.features == 16
  x = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 16)).astype(np.float32)
  weight, bias = whole.classes.proj.kernel[...], whole.classes.proj.bias[...]
  tiny.assert_near(pooled.classes(x, EVALUATION) @ weight + bias, whole.classes(x, EVALUATION), 1e-5)


def test_a_fresh_block_is_its_shortcut():
  @functools.partial(jax.jit, compiler_options=tiny.QUICK)
  def fresh(x):
    return Block(4, 4, 1, gated=True, normalised=False, dtype=jnp.float32, rngs=nnx.Rngs(0))(x, EVALUATION)

  x = np.random.default_rng(0).normal(size=(1, 2, 4, 4, 4)).astype(np.float32)
  np.testing.assert_array_equal(fresh(x), np.maximum(x, 0))
