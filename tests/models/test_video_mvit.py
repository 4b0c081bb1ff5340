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
from mlrec.models.items.video.mvit import Tokens
from mlrec.models.items.video.mvit import VARIANTS
from mlrec.models.items.video.tower import VideoTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_GOLDEN = {
  "mvit_b_16x4": {"dim": 16, "depth": 4, "halved": (1, 3), "kv_stride": 4, "size": 32, "num_classes": 10},
  "mvit_b_16": {"dim": 16, "depth": 3, "halved": (1,), "kv_stride": 2, "size": 32, "num_classes": 10},
}
_TINY = {"dim": 4, "depth": 2, "halved": (1,), "kv_stride": 2, "size": 16, "num_classes": 5}
_PARAMETERS = {"mvit-base-16x4+400": 36_610_192, "mvit-base-16": 36_982_696}
_TABLE = "cls_positional_encoding.pos_embed_"
# The published image net has ImageNet's classes.
full = pytest.mark.parametrize(("name", "keys"), [("mvit_b_16x4", "mvit-base-16x4+400"), ("mvit_b_16", "mvit-base-16")])
forms = pytest.mark.parametrize("name", ["mvit_b_16x4", "mvit_b_16"])


def _tiny(name: str = "mvit_b_16x4", **options):
  return tiny.filled(tiny.zeros(name, **_TINY | options))


def _clips(frames: int = 3, size: int = 16):
  return tiny.clips(2, frames, size, size)


def test_golden_output(golden):
  arrays = golden("video_mvit_tiny")
  model = tiny.golden(tiny.zeros("mvit_b_16x4", **_GOLDEN["mvit_b_16x4"]), arrays)
  assert model.spec.features == 10
  tiny.assert_near(tiny.run(model, np.moveaxis(arrays["input"], 1, -1)), arrays["output"], 1e-5)


def test_golden_output_of_images(golden):
  arrays = golden("video_mvit_image_tiny")
  model = tiny.golden(tiny.zeros("mvit_b_16", **_GOLDEN["mvit_b_16"]), arrays)
  images, outputs = np.moveaxis(arrays["input"], 1, -1), arrays["output"]
  clips = np.stack([images, images[::-1], images], axis=1)
  tiny.assert_near(tiny.run(model, clips), (2 * outputs + outputs[::-1]) / 3, 1e-5)


@full
def test_names_and_shapes_are_the_published_ones(golden_path, name, keys):
  wanted = tiny.published(golden_path / "keys" / f"{keys}.net.txt")
  assert len(wanted) == 482
  wanted = {key: shape for key, shape in wanted.items() if "_attention_pool_" not in key}
  assert tiny.shapes(tiny.full_size(name)) == wanted


@full
def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path, name, keys):
  parameters = tiny.published(golden_path / "keys" / f"{keys}.net.params.txt")
  assert checks.numbers(parameters) == _PARAMETERS[keys]
  model = tiny.full_size(name)
  assert model.spec.features == parameters["head.proj.bias"][0]
  starts = checks.stage_starts(model.stages, parameters)
  assert (starts[model.spec.top], starts[model.spec.half]) == (326, 192)


def test_the_video_nets_differ_in_weights_alone():
  first, second = VARIANTS["mvit_b_16x4"], VARIANTS["mvit_b_32x3"]
  assert first[:2] == second[:2]
  assert first[2] == dataclasses.replace(second[2], weights=first[2].weights)


@pytest.mark.parametrize(
  ("name", "frames", "keys"),
  [
    ("mvit_b_16x4", 3, [7, 14, 7, 14, *[7] * 10, 14, 7]),
    ("mvit_b_16", 1, [14, 28, 14, 28, *[14] * 11, 7]),
  ],
)
def test_grids_are_the_published_ones(name, frames, keys):
  queries = [56, *[28] * 2, *[14] * 11, *[7] * 2]
  widths = [*[192] * 2, *[384] * 11, *[768] * 3]
  heads = [1, *[2] * 2, *[4] * 11, *[8] * 2]
  graphdef, state = nnx.split(tiny.full_size(name))

  def shapes(state, x):
    model = nnx.merge(graphdef, state)
    x = model.stage(1, model.stage(0, x, EVALUATION), EVALUATION)
    for n, block in enumerate(model.blocks):
      key, grid = block.attention._projected("key", x.values, x.grid)
      assert grid == (frames, keys[n], keys[n]), n
      assert key.shape[1:] == (1 + frames * keys[n] ** 2, heads[n], 96), n
      x = block(x)
      assert x.grid == (frames, queries[n], queries[n]), n
      assert x.values.shape[1:] == (1 + frames * queries[n] ** 2, widths[n]), n
    return x

  jax.eval_shape(shapes, state, jax.ShapeDtypeStruct((1, 5, 224, 224, 3), jnp.float32))


@forms
def test_what_is_loaded_comes_back(name):
  checks.assert_comes_back(tiny.zeros(name, **_TINY))


@forms
def test_missing_unused_and_misshapen_entries_are_named(name):
  model = tiny.zeros(name, **_TINY)
  key, unused = "blocks.1.attn.pool_q.weight", "blocks.0.attn.pool_q.weight"
  checks.assert_misfits_are_named(model, key, unused, (4, 1, 3, 3))
  # Tables that are no grid's.
  arrays = to_torch(model)
  with pytest.raises(ValueError, match=f"{_TABLE}spatial' has shape"):
    load_torch(model, arrays | {f"{_TABLE}spatial": np.zeros((1, 15, 4))})
  with pytest.raises(ValueError, match=f"{_TABLE}temporal' has shape"):
    load_torch(model, arrays | {f"{_TABLE}temporal": np.zeros((8, 4))})


def test_pools_may_be_named_twice_but_not_differ():
  model = _tiny()
  arrays = to_torch(model)
  long = {re.sub(r"\.(pool|norm)_([qkv])\.", r"._attention_pool_\2.\1.", key): value for key, value in arrays.items()}
  assert "blocks.0.attn._attention_pool_k.norm.bias" in long
  assert "blocks.0.attn.norm_k.bias" not in long
  for file in (long, arrays | long):
    fresh = tiny.zeros("mvit_b_16x4", **_TINY)
    load_torch(fresh, file)
    checks.assert_holds(fresh, arrays)
  with pytest.raises(ValueError, match=r"_attention_pool_k\.pool\.weight' and .*pool_k\.weight' are two names.*differ"):
    load_torch(model, arrays | {"blocks.0.attn._attention_pool_k.pool.weight": np.ones((4, 1, 3, 3, 3))})


def test_published_tables_of_positions_are_interpolated():
  model = _tiny()
  arrays = to_torch(model)
  times = np.arange(8, dtype=np.float32)[None, :, None] * np.ones(4, np.float32)
  rows, columns = np.mgrid[:8, :8].astype(np.float32)
  places = (10 * rows + columns).reshape(1, 64, 1) * np.ones(4, np.float32)
  load_torch(model, arrays | {f"{_TABLE}temporal": times, f"{_TABLE}spatial": places})
  loaded = to_torch(model)
  np.testing.assert_allclose(loaded[f"{_TABLE}temporal"][0, :, 0], [5 / 6, 3.5, 37 / 6], atol=1e-5)
  wanted = 10 * (2 * np.arange(4) + 0.5)[:, None] + 2 * np.arange(4) + 0.5
  np.testing.assert_allclose(loaded[f"{_TABLE}spatial"][0, :, 0], wanted.ravel(), atol=1e-4)


def test_positions_are_interpolated_for_other_clips_as_at_loading():
  shallow = {"depth": 1, "halved": ()}
  model = _tiny(num_frames=16, size=32, **shallow)
  fitted = tiny.zeros("mvit_b_16x4", **_TINY | shallow)
  load_torch(fitted, to_torch(model))
  x = Tokens(jax.random.normal(jax.random.key(0), (2, 3 * 4 * 4, 4)), (3, 4, 4))
  np.testing.assert_allclose(model.stage(1, x, EVALUATION).values, fitted.stage(1, x, EVALUATION).values, atol=1e-5)


def test_a_tower_keeps_a_files_positions_where_its_clips_are_what_they_were_made_for():
  tiny = {name: value for name, value in _TINY.items() if name != "size"}

  def grid(options=None, **clip):
    item = {"encoder": "mvit_b_16x4", "mode": "full", "weights": "random", "options": tiny | (options or {})} | clip
    return nnx.eval_shape(lambda: VideoTower(9, 4, rngs=nnx.Rngs(0), **item)).encoder.positions.grid

  assert grid(frames=16, size=32) == (8, 8, 8)
  assert grid() == (3, 56, 56)
  assert grid({"num_frames": 6}, frames=16) == (3, 56, 56)


@pytest.mark.parametrize(
  ("name", "depth", "first_trained", "remat"),
  [("mvit_b_16", 2, 0, False), ("mvit_b_16", 2, 3, True), ("mvit_b_16x4", 1, 0, True)],
)
def test_gradients_stop_at_the_first_trained_stage(name, depth, first_trained, remat):
  model = _tiny(name, depth=depth, halved=range(1, depth))
  model.remat = remat
  # The class token alone is read from the last block, and no convolution reaches it.
  checks.assert_gradients_stop(model, _clips(), first_trained, unreached=r"^blocks\.1\.attn\.pool_q\.weight$")


def test_half_precision_is_near_the_exact_output():
  make = functools.partial(_tiny, "mvit_b_16", depth=1, halved=())
  checks.assert_near_in_half_precision(make, _clips())


@forms
def test_clips_of_other_lengths_and_sizes_are_encoded(name):
  model = tiny.zeros(name, **_TINY)
  for shape in [(1, 4, 4), (2, 33, 40), (16, 160, 120)]:
    output = jax.eval_shape(model, jax.ShapeDtypeStruct((2, *shape, 3), jnp.float32))
    assert output.shape == (2, 5)


def test_features_below_the_classes_are_offered():
  shallow = {"depth": 1, "halved": ()}
  with_classes = _tiny("mvit_b_16", **shallow)
  model = tiny.zeros("mvit_b_16", **_TINY | shallow | {"feature": "pooled"})
  load_torch(model, to_torch(with_classes))
  assert model.spec.features == 4
  features = tiny.run(model, _clips())
  scores = features @ np.asarray(with_classes.classes.kernel[...]) + np.asarray(with_classes.classes.bias[...])
  tiny.assert_near(scores, tiny.run(with_classes, _clips()), 1e-5)


def test_dropout_acts_before_the_classes_where_there_are_streams():
  model = _tiny(depth=1, halved=())
  head = len(model.stages) - 1
  x = Tokens(jax.random.normal(jax.random.key(0), (2, 1, 4)), (1, 1, 1))
  still = model.stage(head, x, EVALUATION)
  assert np.abs(model.stage(head, x, Context(rngs=nnx.Rngs(dropout=1))) - still).max() > 1e-4
  np.testing.assert_array_equal(model.stage(head, x, EVALUATION), still)


@pytest.mark.parametrize("shape", [(2, 5, 32, 32), (2, 3, 5, 32, 32), (2, 0, 32, 32, 3)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\].*" + re.escape(str(shape))):
    tiny.zeros("mvit_b_16x4", **_TINY)(jnp.zeros(shape))


def test_options_that_cannot_be_are_refused():
  for wrong in ({"halved": (2,)}, {"halved": (0,)}, {"depth": 0}, {"heads": 3}):
    with pytest.raises(OptionError, match=r"halved = .* must be among blocks 1 to depth - 1"):
      tiny.zeros("mvit_b_16x4", **_TINY | wrong)
  with pytest.raises(OptionError, match="frames = 3: 'mvit_b_16' has no such option"):
    models.create("mvit_b_16", frames=3, rngs=nnx.Rngs(0))


def test_a_fresh_net_starts_as_published():
  options = _TINY | {"dim": 32, "depth": 1, "halved": ()}
  arrays = to_torch(tiny.fresh(lambda: models.create("mvit_b_16x4", rngs=nnx.Rngs(0), **options)))
  bound = 1 / np.sqrt(441)
  for name in ("weight", "bias"):
    patches = arrays[f"patch_embed.patch_model.{name}"]
    assert 0.8 * bound < np.abs(patches).max() <= bound
  np.testing.assert_allclose(arrays["blocks.0.mlp.fc1.weight"].std(), 0.02, rtol=0.05)
  assert not arrays["blocks.0.mlp.fc1.bias"].any()
  assert 0.8 < np.abs(arrays["blocks.0.attn.pool_k.weight"]).max() * np.sqrt(27) <= 1
