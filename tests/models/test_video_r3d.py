import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.convert import to_torch
from mlrec.models.items.video.r3d import BasicBlock
from mlrec.models.layers.context import EVALUATION
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_TINY = {"stem": 2, "depths": (1, 2, 1, 1)}


def _tiny(**options):
  return tiny.filled(tiny.zeros("r3d_r18", **_TINY | options), tiny.rectified)


def _published(golden_path, file: str):
  """Names and shapes without `fc`: the benchmark's net ends in its projection, which is not the encoder's here."""
  shapes = tiny.published(golden_path / "keys" / file)
  assert {shapes.pop("fc.weight"), shapes.pop("fc.bias")} == {(512, 512), (512,)}
  return shapes


def _clips(frames: int = 3, size: int = 32):
  return tiny.clips(3, frames, size, size)


def test_golden_output(golden):
  arrays = golden("video_r3d_tiny")
  model = tiny.golden(tiny.zeros("r3d_r18", stem=3), arrays)
  assert model.spec.features == 24
  tiny.assert_near(tiny.run(model, np.moveaxis(arrays["input"], 1, -1)), arrays["output"], 1e-5)


def test_names_and_shapes_are_the_published_ones(golden_path):
  assert tiny.shapes(tiny.full_size("r3d_r18")) == _published(golden_path, "r3d18.net.txt")


def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path):
  parameters = _published(golden_path, "r3d18.net.params.txt")
  # The projection of 512 features to 512 counts there.
  assert checks.numbers(parameters) + 512 * 512 + 512 == 33_428_928
  model = tiny.full_size("r3d_r18")
  assert checks.stage_starts(model.stages, parameters)[model.spec.top] == 30
  assert model.spec.half is None


def test_stages_shorten_clips_as_published():
  model = tiny.full_size("r3d_r18")
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
  classes = {"fc.weight": np.zeros((400, 16), np.float32), "fc.bias": np.zeros(400, np.float32)}
  checks.assert_comes_back(tiny.zeros("r3d_r18", **_TINY), classes)


def test_missing_unused_and_misshapen_entries_are_named():
  model = tiny.zeros("r3d_r18", **_TINY)
  checks.assert_misfits_are_named(model, "layer2.0.downsample.0.weight", "layer1.0.fc.weight", (3, 3, 1, 1, 1))


@pytest.mark.parametrize("first_trained", [0, 3, 5])
def test_gradients_and_statistics_stop_at_the_first_trained_stage(first_trained):
  checks.assert_descends(_tiny(), _clips(), first_trained, rate=1e-3 if first_trained < 5 else None)


def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(_tiny, _clips())


def test_clips_of_other_lengths_and_sizes_are_encoded():
  model = tiny.zeros("r3d_r18", **_TINY)
  for frames, height, width in [(1, 16, 16), (2, 33, 40), (16, 112, 112)]:
    output = jax.eval_shape(model, jax.ShapeDtypeStruct((2, frames, height, width, 3), jnp.float32))
    assert output.shape == (2, 16)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 0, 32, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=re.escape(str(shape)) + r".*\[B, T, H, W, 3\] with at least 1 frame"):
    tiny.zeros("r3d_r18", **_TINY)(jnp.zeros(shape))


def test_depths_of_too_few_stages_are_refused():
  with pytest.raises(OptionError, match=r"depths = \(1, 2\).*four stages"):
    tiny.zeros("r3d_r18", depths=(1, 2))


def test_a_fresh_block_is_drawn_as_published():
  make = functools.partial(BasicBlock, 12, 24, 2, dtype=jnp.float32)
  arrays = to_torch(tiny.fresh(lambda: make(rngs=nnx.Rngs(0))))
  assert sum(value.ndim == 5 for value in arrays.values()) == 3
  for key, value in arrays.items():
    if value.ndim == 5:
      fan_out = value.shape[0] * np.prod(value.shape[2:])
      assert value.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.1), key
    else:
      # No norm starts at 0 here.
      assert (value == (0 if key.endswith(("bias", "running_mean")) else 1)).all(), key
