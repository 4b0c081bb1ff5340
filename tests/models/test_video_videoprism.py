import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import convert
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.videoprism import CappedAttention
from mlrec.models.items.video.videoprism import OffsetNorm
from mlrec.models.items.video.videoprism import VARIANTS
from mlrec.models.layers.context import Context
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import google_files
from support import tiny_encoders as tiny

_TINY = {
  "dim": 12, "spatial_depth": 2, "temporal_depth": 2, "heads": 2, "hidden": 16, "patch": 6, "size": 12, "num_frames": 3,
}  # fmt: skip
_GOLDEN = _TINY | {"dim": 24, "hidden": 48, "size": 24, "num_frames": 4}


def _tiny(**options):
  return tiny.filled(tiny.zeros("videoprism_b", **_TINY | options))


def _golden(golden):
  arrays = golden("video_videoprism_tiny")
  return tiny.golden(tiny.zeros("videoprism_b", **_GOLDEN), arrays), arrays


def _clips(frames: int = 3, height: int = 12, width: int = 12):
  return tiny.clips(2, frames, height, width)


@pytest.mark.parametrize("case", range(3))
def test_golden_output(golden, case):
  model, arrays = _golden(golden)
  tiny.assert_near(tiny.run(model, np.moveaxis(arrays[f"input_{case}"], 2, -1)), arrays[f"output_{case}"], 1e-5)


def test_the_golden_output_needs_the_cap_on_scores(golden):
  model, arrays = _golden(golden)
  for block in (*model.spatial_layers, *model.temporal_layers):
    block.attention.cap = 1e6
  output = tiny.run(model, np.moveaxis(arrays["input_0"], 2, -1))
  assert np.abs(output - arrays["output_0"]).max() > 1e-3 * np.abs(arrays["output_0"]).max()


def test_names_and_shapes_are_the_published_ones(golden_path):
  wanted = tiny.published(golden_path / "keys" / "videoprism_b.txt", without=r"^text_model\.")
  assert tiny.shapes(tiny.full_size("videoprism_b")) == wanted


def test_stages_cut_the_published_parameters_in_order(golden_path):
  parameters = tiny.published(golden_path / "keys" / "videoprism_b.net.params.txt")
  assert checks.numbers(parameters) == 114_365_184
  model, spec = tiny.full_size("videoprism_b"), VARIANTS["videoprism_b"]
  assert model.spec == spec
  starts = checks.stage_starts(model.stages, parameters)
  assert (starts[spec.top], starts[spec.half]) == (230, 131)


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = tiny.zeros("videoprism_b", **_TINY)
  checks.assert_comes_back(model)
  checks.assert_misfits_are_named(model, "temporal_layers.1.attention.o_proj.weight", unused="blocks.77.weight")


@pytest.mark.parametrize("first_trained", [0, 4])
def test_gradients_stop_at_the_first_trained_stage(first_trained):
  checks.assert_gradients_stop(_tiny(), _clips(), first_trained, least=1e-7)


def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(_tiny, _clips())


@pytest.mark.parametrize("prefix", ["vision_model.", "video_model.vision_model."])
def test_files_of_larger_models_load_without_their_own_parts(prefix):
  model = _tiny()
  arrays = to_torch(model)
  outer = prefix.removesuffix("vision_model.")
  file = {prefix + key: value for key, value in arrays.items()} | {
    f"{outer}{name}": np.zeros(3)
    for name in ("auxiliary_layers.0.mlp.fc1.bias", "head.per_dim_scale", "head_layernorm.weight")
  }
  file |= {"text_model.layernorm.weight": np.zeros(2), "classifier.bias": np.zeros(5)}
  other = tiny.zeros("videoprism_b", **_TINY)
  load_torch(other, file)
  checks.assert_holds(other, arrays)


def test_googles_file_gives_the_golden_output(golden, tmp_path):
  arrays = golden("video_videoprism_tiny")
  published = tiny.under(arrays)
  np.savez(tmp_path / "flax.npz", **google_files.vision(published))
  model = tiny.zeros("videoprism_b", **_GOLDEN)
  load_torch(model, tmp_path / "flax.npz")
  checks.assert_holds(model, published)
  tiny.assert_near(tiny.run(model, np.moveaxis(arrays["input_0"], 2, -1)), arrays["output_0"], 1e-5)


def test_googles_names_and_shapes_are_read_at_full_size(golden_path):
  file = tiny.published(golden_path / "keys" / "videoprism_b.flax.txt")
  wanted = tiny.published(golden_path / "keys" / "videoprism_b.txt", without=r"^text_model\.")
  model = tiny.full_size("videoprism_b")
  # Values do not matter here, and one of each layer is as large as all.
  read = model.torch_prepared({key: np.broadcast_to(np.int8(0), shape) for key, shape in file.items()})
  assert {key: value.shape for key, value in read.items()} == wanted
  # The tiny file of the other tests has the same names.
  assert google_files.vision(to_torch(tiny.zeros("videoprism_b", **_TINY))).keys() == file.keys()


def test_what_does_not_fit_in_googles_file_is_named_as_it_is_there():
  model = tiny.zeros("videoprism_b", **_TINY)
  file = google_files.vision(to_torch(model))
  before = to_torch(model)
  key = "params/temporal_encoder/transformers_stack/x_layers/self_attention/query/w"
  with pytest.raises(ValueError, match=f"missing.*'{re.escape(key)}'"):
    load_torch(model, {other: value for other, value in file.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'params/head/bias'"):
    load_torch(model, file | {"params/head/bias": np.zeros(3)})
  # As many numbers, but in other heads, or in fewer layers.
  for shape in ((2, 12, 3, 4), (1, 24, 2, 6)):
    with pytest.raises(ValueError, match=re.escape(f"'{key}' has shape {shape}; expected (2, 12, 2, 6)")):
      load_torch(model, file | {key: file[key].reshape(shape)})
  checks.assert_holds(model, before)


def test_googles_file_of_a_model_for_text_loads_without_its_own_parts():
  model, arrays = tiny.zeros("videoprism_b", **_TINY), to_torch(_tiny())
  others = ("text_encoder/cls_emb", "auxiliary_encoder/x/w", "contrastive_vision_pooler/pooling_attention_query")
  file = google_files.vision(arrays, prefix="params/vision_encoder/")
  load_torch(model, file | {f"params/{name}": np.ones(2) for name in others})
  checks.assert_holds(model, arrays)
  with pytest.raises(ValueError, match=r"unused.*'params/spatial_ln/more'"):
    load_torch(model, file | {"params/spatial_ln/more": np.ones(2)})


def test_googles_file_converts_to_safetensors_that_load(tmp_path, capsys):
  arrays = to_torch(_tiny())
  np.savez(tmp_path / "flax.npz", **google_files.vision(arrays))
  assert convert.main(["convert", str(tmp_path / "flax.npz"), f"--to={tmp_path / 'out.safetensors'}"]) == 0
  assert "40 tensors" in capsys.readouterr().out
  model = tiny.zeros("videoprism_b", **_TINY)
  load_torch(model, tmp_path / "out.safetensors")
  checks.assert_holds(model, arrays)


def test_scores_below_the_cap_act_as_without_it_and_large_ones_do_not():
  x = jax.random.normal(jax.random.key(0), (1, 5, 8))
  attention = CappedAttention(8, 2, 0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))
  outputs = []
  for cap in (0.5, 1e3, 1e5):
    attention.cap = cap
    outputs.append(tiny.run(attention, x))
  tiny.assert_near(outputs[1], outputs[2], 1e-5)
  assert np.abs(outputs[0] - outputs[2]).max() > 1e-3


def test_a_scale_is_the_difference_from_one():
  norm = OffsetNorm(4)
  x = jnp.array([[1.0, 2.0, 3.0, 6.0]])
  wanted = (x - 3) / np.sqrt(3.5)
  np.testing.assert_allclose(norm(x), wanted, rtol=1e-5)
  norm.scale[...] = jnp.full(4, 0.5)
  np.testing.assert_allclose(norm(x), 1.5 * wanted, rtol=1e-5)


def test_frames_meet_in_the_temporal_layers_only():
  model, clips = _tiny(), _clips()
  graphdef, state = nnx.split(model)

  @functools.partial(jax.jit, compiler_options=tiny.QUICK)
  def after_each_stage(state, x):
    results = []
    for index in range(len(model.stages) - 1):
      x = nnx.merge(graphdef, state).stage(index, x, Context())
      results.append(x)
    return results

  stage = model.stages.index("temporal_layers.0")
  results = zip(after_each_stage(state, clips), after_each_stage(state, clips.at[:, 1].set(0)))
  for index, (one, other) in enumerate(results):
    assert np.array_equal(one[:, [0, 2]], other[:, [0, 2]]) == (index < stage)


@pytest.mark.parametrize("shape", [(2, 3, 12, 12), (2, 0, 12, 12, 3), (2, 3, 12, 16, 3), (2, 3, 12, 12, 1)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\].*" + re.escape(str(shape))):
    tiny.zeros("videoprism_b", **_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"spatial_depth": 0}, "spatial_depth = 0"),
    ({"cap": 0.0}, "cap = 0"),
    ({"dim": 9}, "dim = 9 must be a multiple of heads = 2"),
    ({"size": 20}, "size = 20.*patch = 6: the nearest is 18"),
    ({"dept": 1}, "dept = 1: 'videoprism_b' has no such option"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=message):
    tiny.zeros("videoprism_b", **_TINY | options)
