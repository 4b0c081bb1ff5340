import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import convert
from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.videoprism import CappedAttention
from mlrec.models.items.video.videoprism import OffsetNorm
from mlrec.models.items.video.videoprism import VARIANTS
from mlrec.models.layers.context import Context

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_TINY = {
  "dim": 12, "spatial_depth": 2, "temporal_depth": 2, "heads": 2, "hidden": 16, "patch": 6, "size": 12, "num_frames": 3,
}  # fmt: skip
_GOLDEN = _TINY | {"dim": 24, "hidden": 48, "size": 24, "num_frames": 4}


def _built(**options):
  """A net without values; drawing them costs more than what is tested."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("videoprism_b", rngs=nnx.Rngs(0), **options)))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def _tiny(**options):
  model = _built(**_TINY | options)
  rng = np.random.default_rng(1)
  arrays = to_torch(model)
  for key, value in arrays.items():
    drawn = rng.normal(0, max(1, np.prod(value.shape[1:])) ** -0.5, value.shape)
    arrays[key] = (drawn + 0).astype(np.float32)
  load_torch(model, arrays)
  return model


def _golden(golden):
  arrays = golden("video_videoprism_tiny")
  model = _built(**_GOLDEN)
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  return model, arrays


def _clips(frames: int = 3, height: int = 12, width: int = 12):
  return jax.random.normal(jax.random.key(3), (2, frames, height, width, 3))


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def _run(model, x):
  return np.asarray(_compiled(*nnx.split(model), jnp.asarray(x)))


def _close(actual, wanted, tolerance):
  np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def _published(golden_path, file: str):
  lines = (golden_path / "keys" / file).read_text().splitlines()
  pairs = [re.search(r"(\S+) \(([\d, ]*)\)$", line).groups() for line in lines]
  return {key: tuple(int(n) for n in re.findall(r"\d+", shape)) for key, shape in pairs}


@pytest.mark.parametrize("case", range(3))
def test_golden_output(golden, case):
  model, arrays = _golden(golden)
  _close(_run(model, np.moveaxis(arrays[f"input_{case}"], 2, -1)), arrays[f"output_{case}"], 1e-5)


def test_the_golden_output_needs_the_cap_on_scores(golden):
  model, arrays = _golden(golden)
  for block in (*model.spatial_layers, *model.temporal_layers):
    block.attention.cap = 1e6
  output = _run(model, np.moveaxis(arrays["input_0"], 2, -1))
  assert np.abs(output - arrays["output_0"]).max() > 1e-3 * np.abs(arrays["output_0"]).max()


def test_names_and_shapes_are_the_published_ones(golden_path):
  wanted = _published(golden_path, "videoprism_b.txt")
  wanted = {key: shape for key, shape in wanted.items() if not key.startswith("text_model.")}
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("videoprism_b", rngs=nnx.Rngs(0))))
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)
  assert {key: value.shape for key, value in to_torch(nnx.merge(graphdef, zeros)).items()} == wanted


def test_stages_cut_the_published_parameters_in_order(golden_path):
  parameters = _published(golden_path, "videoprism_b.net.params.txt")
  assert sum(int(np.prod(shape)) for shape in parameters.values()) == 114_365_184
  model = nnx.eval_shape(lambda: models.create("videoprism_b", rngs=nnx.Rngs(0)))
  stages = [next(n for n, stage in enumerate(model.stages) if f"{key}.".startswith(f"{stage}.")) for key in parameters]
  assert stages == sorted(stages)
  assert set(stages) == set(range(len(model.stages)))
  spec = VARIANTS["videoprism_b"]
  assert model.spec == spec
  assert [stages.index(model.stages.index(stage)) for stage in (spec.top, spec.half)] == [230, 131]


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = _built(**_TINY)
  rng = np.random.default_rng(2)
  arrays = {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])
  key = "temporal_layers.1.attention.o_proj.weight"
  with pytest.raises(ValueError, match=f"missing.*'{re.escape(key)}'"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'blocks\.77\.weight'"):
    load_torch(model, arrays | {"blocks.77.weight": np.zeros(3)})
  with pytest.raises(ValueError, match=f"'{re.escape(key)}' has shape.*77"):
    load_torch(model, arrays | {key: np.zeros((*arrays[key].shape[:-1], 77))})


@pytest.mark.parametrize("first_trained", [0, 4])
def test_gradients_stop_at_the_first_trained_stage(first_trained):
  model = _tiny()
  graphdef, params = nnx.split(model)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def gradients(params):
    def scalar(params):
      outputs = nnx.merge(graphdef, params)(_clips(), Context(train=True), first_trained=first_trained)
      return jnp.sum(outputs * jax.random.normal(jax.random.key(5), outputs.shape))

    return jax.grad(scalar)(params)

  frozen = tuple(f"{stage}." for stage in model.stages[:first_trained])
  found = to_torch(nnx.merge(graphdef, gradients(params)))
  for key, value in found.items():
    assert np.isfinite(value).all(), key
    below = bool(frozen) and f"{key}.".startswith(frozen)
    if below:
      assert not value.any(), key
    else:
      assert np.abs(value).max() > 1e-7, key


def test_half_precision_is_near_the_exact_output():
  exact = _run(_tiny(), _clips())
  half_model = _tiny(dtype=jnp.bfloat16)
  half = _run(half_model, _clips())
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  _close(half, exact, 0.05)
  assert all(value.dtype == np.float32 for value in to_torch(half_model).values())


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
  other = _built(**_TINY)
  load_torch(other, file)
  for key, value in to_torch(other).items():
    np.testing.assert_array_equal(value, arrays[key])


def _by_heads(weight):
  """A weight to two heads, `[2 * head, dim]`, as `[dim, 2, head]`."""
  return weight.reshape(2, -1, weight.shape[1]).transpose(2, 0, 1)


# Of a block in Google's file, how it comes out of PyTorch's form.
_GOOGLE_BLOCK = {
  "layer_norm/scale": ("layernorm_before.weight", np.array),
  "layer_norm/bias": ("layernorm_before.bias", np.array),
  "ff_layer/layer_norm/scale": ("layernorm_after.weight", np.array),
  "ff_layer/layer_norm/bias": ("layernorm_after.bias", np.array),
  "ff_layer/ffn_layer1/linear/kernel": ("mlp.fc1.weight", np.transpose),
  "ff_layer/ffn_layer1/linear/bias": ("mlp.fc1.bias", np.array),
  "ff_layer/ffn_layer2/linear/kernel": ("mlp.fc2.weight", np.transpose),
  "ff_layer/ffn_layer2/linear/bias": ("mlp.fc2.bias", np.array),
  "self_attention/query/w": ("attention.q_proj.weight", _by_heads),
  "self_attention/key/w": ("attention.k_proj.weight", _by_heads),
  "self_attention/value/w": ("attention.v_proj.weight", _by_heads),
  "self_attention/query/b": ("attention.q_proj.bias", lambda bias: bias.reshape(2, -1)),
  "self_attention/key/b": ("attention.k_proj.bias", lambda bias: bias.reshape(2, -1)),
  "self_attention/value/b": ("attention.v_proj.bias", lambda bias: bias.reshape(2, -1)),
  "self_attention/post/w": ("attention.o_proj.weight", lambda weight: weight.reshape(len(weight), 2, -1)),
  "self_attention/post/b": ("attention.o_proj.bias", np.array),
}


def _google(arrays, prefix: str = "params/"):
  """Google's published file, by its own names and axes, of arrays under PyTorch's: two blocks of a sort, two heads."""
  embedded = "spatial_embeddings.patch_embeddings.projection."
  kernel = arrays[f"{embedded}weight"][:, :, 0].transpose(2, 3, 1, 0)
  file = {
    "patch_projection/linear/bias": arrays[f"{embedded}bias"],
    "patch_projection/linear/kernel": kernel.reshape(-1, kernel.shape[-1]),
  }
  for norm, part in (("layernorm1", "spatial"), ("layernorm2", "temporal")):
    file[f"{part}_pos_emb/emb_var"] = arrays[f"{part}_embeddings.position_embeddings"][0]
    file |= {f"{part}_ln/scale": arrays[f"{norm}.weight"], f"{part}_ln/bias": arrays[f"{norm}.bias"]}
    for name, (torch_name, form) in _GOOGLE_BLOCK.items():
      layers = [form(arrays[f"{part}_layers.{number}.{torch_name}"]) for number in range(2)]
      file[f"{part}_encoder/transformers_stack/x_layers/{name}"] = np.stack(layers)
  return {prefix + name: array for name, array in file.items()}


def test_googles_file_gives_the_golden_output(golden, tmp_path):
  arrays = golden("video_videoprism_tiny")
  published = {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")}
  np.savez(tmp_path / "flax.npz", **_google(published))
  model = _built(**_GOLDEN)
  load_torch(model, tmp_path / "flax.npz")
  for key, value in to_torch(model).items():
    np.testing.assert_array_equal(value, published[key], err_msg=key)
  _close(_run(model, np.moveaxis(arrays["input_0"], 2, -1)), arrays["output_0"], 1e-5)


def test_googles_names_and_shapes_are_read_at_full_size(golden_path):
  file = _published(golden_path, "videoprism_b.flax.txt")
  wanted = _published(golden_path, "videoprism_b.txt")
  wanted = {key: shape for key, shape in wanted.items() if not key.startswith("text_model.")}
  model = nnx.eval_shape(lambda: models.create("videoprism_b", rngs=nnx.Rngs(0)))
  # Values do not matter here, and one of each layer is as large as all.
  read = model.torch_prepared({key: np.broadcast_to(np.int8(0), shape) for key, shape in file.items()})
  assert {key: value.shape for key, value in read.items()} == wanted
  # The tiny file of the other tests has the same names.
  assert _google(to_torch(_built(**_TINY))).keys() == file.keys()


def test_what_does_not_fit_in_googles_file_is_named_as_it_is_there():
  model = _built(**_TINY)
  file = _google(to_torch(model))
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
  for name, value in to_torch(model).items():
    np.testing.assert_array_equal(value, before[name])


def test_googles_file_of_a_model_for_text_loads_without_its_own_parts():
  model, arrays = _built(**_TINY), to_torch(_tiny())
  others = ("text_encoder/cls_emb", "auxiliary_encoder/x/w", "contrastive_vision_pooler/pooling_attention_query")
  file = _google(arrays, prefix="params/vision_encoder/")
  load_torch(model, file | {f"params/{name}": np.ones(2) for name in others})
  for key, value in to_torch(model).items():
    np.testing.assert_array_equal(value, arrays[key])
  with pytest.raises(ValueError, match=r"unused.*'params/spatial_ln/more'"):
    load_torch(model, file | {"params/spatial_ln/more": np.ones(2)})


def test_googles_file_converts_to_safetensors_that_load(tmp_path, capsys):
  arrays = to_torch(_tiny())
  np.savez(tmp_path / "flax.npz", **_google(arrays))
  assert convert.main(["convert", str(tmp_path / "flax.npz"), f"--to={tmp_path / 'out.safetensors'}"]) == 0
  assert "40 tensors" in capsys.readouterr().out
  model = _built(**_TINY)
  load_torch(model, tmp_path / "out.safetensors")
  for key, value in to_torch(model).items():
    np.testing.assert_array_equal(value, arrays[key])


def test_scores_below_the_cap_act_as_without_it_and_large_ones_do_not():
  x = jax.random.normal(jax.random.key(0), (1, 5, 8))
  attention = CappedAttention(8, 2, 0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))
  outputs = []
  for cap in (0.5, 1e3, 1e5):
    attention.cap = cap
    outputs.append(_run(attention, x))
  _close(outputs[1], outputs[2], 1e-5)
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

  @functools.partial(jax.jit, compiler_options=_QUICK)
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
    _built(**_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"spatial_depth": 0}, "spatial_depth = 0"),
    ({"cap": 0.0}, "cap = 0"),
    ({"dim": 9}, "dim = 9 must be a multiple of heads = 2"),
    ({"size": 20}, "size = 20.*patch = 6: the nearest is 18"),
    ({"dept": 1}, "no option 'dept'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _built(**_TINY | options)
