import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.videomae import VARIANTS
from mlrec.models.layers.context import EVALUATION
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_TINY = {"dim": 32, "depth": 2, "heads": 2, "hidden": 64, "patch": 8}


def _built(**options):
  return tiny.zeros("videomae_b", **_TINY | options)


def _tiny(**options):
  return tiny.filled(_built(**options))


def _clips(frames: int = 4, height: int = 16, width: int = 16):
  return tiny.clips(2, frames, height, width)


def test_golden_output(golden):
  arrays = golden("video_videomae_tiny")
  model = tiny.golden(_built(), arrays)
  assert model.spec.features == 32
  tiny.assert_near(tiny.run(model, np.moveaxis(arrays["input"], 2, -1)), arrays["output"].mean(1), 1e-5)


def test_golden_output_under_its_projection(golden):
  arrays = golden("video_encoder_videomae_tiny")
  model = tiny.golden(_built(), arrays, "sd/video_net.")
  projection = tiny.golden(nnx.Linear(32, 16, rngs=nnx.Rngs(0)), arrays, f"sd/{model.projection_name}.")
  output = jax.nn.gelu(projection(tiny.run(model, np.moveaxis(arrays["input"], 2, -1))), approximate=False)
  tiny.assert_near(output, arrays["output"], 1e-5)


def test_names_and_shapes_are_the_published_ones(golden_path):
  assert tiny.shapes(tiny.full_size("videomae_b")) == tiny.published(golden_path / "keys" / "video-mae.net.txt")


def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path):
  parameters = tiny.published(golden_path / "keys" / "video-mae.net.params.txt")
  assert checks.numbers(parameters) == 86_225_664
  spec = VARIANTS["videomae_b"]
  starts = checks.stage_starts(tiny.full_size("videomae_b").stages, parameters)
  assert (starts[spec.top], starts[spec.half]) == (152, 92)


def test_what_is_loaded_comes_back():
  checks.assert_comes_back(_built())


def test_missing_unused_and_misshapen_entries_are_named():
  key, unused = "encoder.layer.1.attention.attention.key.weight", "encoder.layer.2.output.dense.bias"
  checks.assert_misfits_are_named(_built(), key, unused, (32, 16))


def test_files_of_whole_models_are_read():
  model = _tiny()
  arrays = to_torch(model)
  others = ("decoder.decoder_layers.0.attention.attention.q_bias", "encoder_to_decoder.weight", "mask_token")
  others += ("videomae.layernorm.weight", "fc_norm.weight", "classifier.bias")
  file = {f"videomae.{key}": value for key, value in arrays.items()} | {key: np.zeros(3) for key in others}
  fresh = _built()
  load_torch(fresh, file)
  checks.assert_holds(fresh, arrays)


def _respelt(arrays):
  renamed = {"q_bias": "query.bias", "v_bias": "value.bias"}
  return {re.sub("[qv]_bias$", lambda match: renamed[match[0]], key): value for key, value in arrays.items()}


def test_both_spellings_of_the_biases_are_read():
  arrays = to_torch(_tiny())
  key = "encoder.layer.0.attention.attention."
  newer = _respelt(arrays)
  assert f"{key}query.bias" in newer
  assert f"{key}q_bias" not in newer
  for file in (newer, newer | {f"{key}key.bias": np.ones(32)}, arrays | newer):
    fresh = _built()
    load_torch(fresh, file)
    np.testing.assert_array_equal(to_torch(fresh)[f"{key}q_bias"], arrays[f"{key}q_bias"])
    np.testing.assert_array_equal(to_torch(fresh)[f"{key}v_bias"], arrays[f"{key}v_bias"])


@pytest.mark.parametrize("bias", ["q_bias", "v_bias"])
def test_a_file_without_biases_or_with_two_is_refused(bias):
  model = _tiny()
  arrays = to_torch(model)
  without = {key: value for key, value in arrays.items() if not key.endswith(bias)}
  with pytest.raises(ValueError, match=rf"missing.*attention\.attention\.{bias}"):
    load_torch(model, without)
  newer = next(key for key in _respelt({key: 0 for key in arrays if key not in without}))
  with pytest.raises(ValueError, match=rf"{newer}' and .*{bias}' are two spellings of one parameter, but differ"):
    load_torch(model, arrays | {newer: np.ones(32)})


@pytest.mark.parametrize("first_trained", [0, 2, 3])
def test_gradients_stop_at_the_first_trained_stage(first_trained):
  checks.assert_gradients_stop(_tiny(), _clips(), first_trained)


def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(_tiny, _clips())


def test_an_odd_last_frame_is_not_read():
  model, clips = _tiny(), _clips(frames=6)
  tokens = [model.stage(0, clips[:, :frames], EVALUATION) for frames in (4, 5, 6)]
  np.testing.assert_array_equal(tokens[1], tokens[0])
  np.testing.assert_allclose(tokens[2][:, : tokens[0].shape[1]], tokens[0], atol=1e-5)
  assert tokens[2].shape[1] == 1.5 * tokens[0].shape[1]


def test_clips_of_other_lengths_and_sizes_are_encoded():
  model = _built()
  for shape in [(2, 8, 8), (3, 16, 40), (16, 224, 224)]:
    output = jax.eval_shape(model, jax.ShapeDtypeStruct((2, *shape, 3), jnp.float32))
    assert output.shape == (2, 32)


@pytest.mark.parametrize("shape", [(2, 3, 4, 16, 16), (2, 1, 16, 16, 3), (2, 4, 16, 20, 3)])
def test_what_cannot_be_cut_into_patches_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\] of at least T = 2 frames.*" + re.escape(str(shape))):
    _tiny()(jnp.zeros(shape))


def test_options_that_cannot_be_are_refused():
  with pytest.raises(OptionError, match="depth = 0 must be at least 1"):
    models.create("videomae_b", rngs=nnx.Rngs(0), **_TINY | {"depth": 0})
  with pytest.raises(OptionError, match="dim = 32 must be a multiple of heads = 3"):
    models.create("videomae_b", rngs=nnx.Rngs(0), **_TINY | {"heads": 3})
  with pytest.raises(OptionError, match="layers = 3: 'videomae_b' has no such option"):
    models.create("videomae_b", rngs=nnx.Rngs(0), layers=3)
