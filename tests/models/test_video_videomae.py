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
from mlrec.models.items.video.videomae import VARIANTS
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_TINY = {"dim": 32, "depth": 2, "heads": 2, "hidden": 64, "patch": 8}


def _state(arrays, prefix="sd/"):
  return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def _built(**options):
  """A small net without values; drawing them costs more than what is tested."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("videomae_b", rngs=nnx.Rngs(0), **_TINY | options)))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def _tiny(**options):
  """A small net whose parameters are all away from their start."""
  model = _built(**options)
  rng = np.random.default_rng(1)
  arrays = {key: rng.normal(0, 0.2, value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  load_torch(model, arrays)
  return model


def _clips(frames: int = 4, height: int = 16, width: int = 16):
  return jax.random.normal(jax.random.key(3), (2, frames, height, width, 3))


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
  arrays = golden("video_videomae_tiny")
  model = _built()
  load_torch(model, _state(arrays))
  assert model.spec.features == 32
  _close(_run(model, np.moveaxis(arrays["input"], 2, -1)), arrays["output"].mean(1), 1e-5)


def test_golden_output_under_its_projection(golden):
  arrays = golden("video_encoder_videomae_tiny")
  model = _built()
  load_torch(model, _state(arrays, "sd/video_net."))
  projection = nnx.Linear(32, 16, rngs=nnx.Rngs(0))
  load_torch(projection, _state(arrays, f"sd/{model.projection_name}."))
  output = jax.nn.gelu(projection(_run(model, np.moveaxis(arrays["input"], 2, -1))), approximate=False)
  _close(output, arrays["output"], 1e-5)


def test_names_and_shapes_are_the_published_ones(golden_path):
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("videomae_b", rngs=nnx.Rngs(0))))
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)
  shapes = {key: value.shape for key, value in to_torch(nnx.merge(graphdef, zeros)).items()}
  assert shapes == _published(golden_path, "video-mae.net.txt")


def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path):
  parameters = _published(golden_path, "video-mae.net.params.txt")
  assert sum(int(np.prod(shape)) for shape in parameters.values()) == 86_225_664
  model = nnx.eval_shape(lambda: models.create("videomae_b", rngs=nnx.Rngs(0)))
  stages = [next(n for n, stage in enumerate(model.stages) if key.startswith(f"{stage}.")) for key in parameters]
  assert stages == sorted(stages)
  assert set(stages) == set(range(len(model.stages)))
  spec = VARIANTS["videomae_b"]
  assert stages.index(model.stages.index(spec.top)) == 152
  assert stages.index(model.stages.index(spec.half)) == 92


def test_what_is_loaded_comes_back():
  model = _built()
  rng = np.random.default_rng(2)
  arrays = {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])


def test_missing_unused_and_misshapen_entries_are_named():
  model = _built()
  arrays = to_torch(model)
  key = "encoder.layer.1.attention.attention.key.weight"
  with pytest.raises(ValueError, match=f"missing.*{re.escape(repr(key))}"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'encoder\.layer\.2\.output\.dense\.bias'"):
    load_torch(model, arrays | {"encoder.layer.2.output.dense.bias": np.zeros(32)})
  with pytest.raises(ValueError, match=f"{re.escape(repr(key))} has shape"):
    load_torch(model, arrays | {key: np.zeros((32, 16))})


def test_files_of_whole_models_are_read():
  model = _tiny()
  arrays = to_torch(model)
  others = ("decoder.decoder_layers.0.attention.attention.q_bias", "encoder_to_decoder.weight", "mask_token")
  others += ("videomae.layernorm.weight", "fc_norm.weight", "classifier.bias")
  file = {f"videomae.{key}": value for key, value in arrays.items()} | {key: np.zeros(3) for key in others}
  fresh = _built()
  load_torch(fresh, file)
  for key, value in to_torch(fresh).items():
    np.testing.assert_array_equal(value, arrays[key])


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
  model = _tiny()
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def gradients(params):
    def scalar(params):
      outputs = nnx.merge(graphdef, params, rest)(_clips(), Context(train=True), first_trained=first_trained)
      return jnp.sum(outputs * jax.random.normal(jax.random.key(5), outputs.shape))

    return jax.grad(scalar)(params)

  frozen = tuple(f"{stage}." for stage in model.stages[:first_trained])
  for key, value in to_torch(nnx.merge(graphdef, gradients(params), rest)).items():
    assert np.isfinite(value).all(), key
    assert (np.abs(value).max() == 0) == (frozen != () and key.startswith(frozen)), key


def test_half_precision_is_near_the_exact_output():
  model = _tiny(dtype=jnp.bfloat16)
  exact, half = _run(_tiny(), _clips()), _run(model, _clips())
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  _close(half, exact, 0.05)
  assert all(value.dtype == np.float32 for value in to_torch(model).values())


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
  with pytest.raises(ValueError, match="depth = 0 must be at least 1"):
    models.create("videomae_b", rngs=nnx.Rngs(0), **_TINY | {"depth": 0})
  with pytest.raises(ValueError, match="dim = 32 must be a multiple of heads = 3"):
    models.create("videomae_b", rngs=nnx.Rngs(0), **_TINY | {"heads": 3})
  with pytest.raises(ValueError, match="has no option 'layers'"):
    models.create("videomae_b", rngs=nnx.Rngs(0), layers=3)
