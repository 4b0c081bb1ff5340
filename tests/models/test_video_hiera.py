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
from mlrec.models.items.video.hiera import in_units
from mlrec.models.items.video.hiera import VARIANTS
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_GOLDEN = {"dim": 6, "depths": (1, 2, 2, 1), "num_frames": 6, "size": 64}
_TINY = {"dim": 4, "depths": (1, 1, 1, 1), "num_frames": 4, "size": 32}


def _tiny(**options):
  return tiny.filled(tiny.zeros("hiera_b", **_TINY | options))


def _clips():
  return tiny.clips(2, 4, 32, 32)


def test_golden_output(golden):
  arrays = golden("video_hiera_tiny")
  model = tiny.golden(tiny.zeros("hiera_b", **_GOLDEN), arrays)
  clips = np.moveaxis(arrays["input"].astype(np.float32) / 32, 1, -1)
  tiny.assert_near(tiny.run(model, clips), arrays["output"], 1e-5)


def test_names_and_shapes_are_the_published_ones(golden_path):
  wanted = tiny.published(golden_path / "keys" / "hiera_b.txt", without=r"^head\.")
  assert tiny.shapes(tiny.full_size("hiera_b")) == wanted


def test_stages_cut_the_published_parameters_in_order(golden_path):
  parameters = tiny.published(golden_path / "keys" / "hiera_b.net.params.txt")
  assert checks.numbers(parameters) == 50_784_960
  model, spec = tiny.full_size("hiera_b"), VARIANTS["hiera_b"]
  assert model.spec == spec
  starts = checks.stage_starts(model.stages, parameters)
  assert (starts[spec.top], starts[spec.half]) == (260, 152)


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = tiny.zeros("hiera_b", **_TINY)
  checks.assert_comes_back(model)
  checks.assert_misfits_are_named(model, "blocks.1.attn.qkv.weight", unused="blocks.77.weight")


@pytest.mark.parametrize("first_trained", [0, 2])
def test_gradients_stop_at_the_first_trained_stage(first_trained):
  checks.assert_gradients_stop(_tiny(), _clips(), first_trained, least=1e-7)


def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(_tiny, _clips())


def test_the_classes_of_a_published_file_are_not_used():
  model = _tiny()
  load_torch(model, to_torch(model) | {"head.projection.weight": np.zeros((400, 32))})


def test_frozen_stages_of_a_tower_take_the_positions_with_them():
  options = {"encoder": "hiera_b", "mode": "top", "weights": "random", "train_from": "blocks.0", "options": _TINY}
  tower = nnx.eval_shape(lambda: models.create("video", num_items=3, dim=4, rngs=nnx.Rngs(0), **options))
  trained = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(tower, nnx.Param))}
  for key in ("pos_embed_spatial", "pos_embed_temporal", "patches.kernel", "patches.bias"):
    assert f"encoder.{key}" not in trained
  assert {"encoder.blocks.0.qkv.kernel", "encoder.norm.scale"} <= trained


def test_pooling_takes_the_largest_of_neighbours():
  grid = jnp.arange(2 * 16 * 24.0).reshape(1, 2, 16, 24, 1)
  units = in_units(grid)
  assert units.shape == (1, 2 * 2 * 3, 64, 1)
  wanted = grid
  for side in (4, 2, 1):
    units = units.reshape(1, 12, 4, -1, 1).max(2)
    rows, columns = wanted.shape[2] // 2, wanted.shape[3] // 2
    wanted = wanted.reshape(1, 2, rows, 2, columns, 2, 1).max((3, 5))
    assert units.shape == (1, 12, side * side, 1)
  np.testing.assert_array_equal(units.reshape(1, 2, 2, 3, 1), wanted)


def test_a_unit_is_a_square_of_one_time():
  rows, columns = jnp.meshgrid(jnp.arange(16) // 8, jnp.arange(24) // 8, indexing="ij")
  label = jnp.arange(2)[:, None, None] * 6 + rows * 3 + columns
  units = in_units(label[None, ..., None])
  np.testing.assert_array_equal(units[0, :, :, 0], np.broadcast_to(np.arange(12)[:, None], (12, 64)))


def test_units_do_not_see_each_other_before_the_third_stage():
  model = _tiny(size=64, depths=(1, 1, 2, 1))
  graphdef, state = nnx.split(model)

  @functools.partial(jax.jit, compiler_options=tiny.QUICK)
  def after_each_block(state, x):
    results = []
    for block in nnx.merge(graphdef, state).blocks:
      x = block(x)
      results.append(x)
    return results

  x = jax.random.normal(jax.random.key(1), (1, 8, 64, 4))
  results = zip(after_each_block(state, x), after_each_block(state, x.at[:, 3].set(0)))
  others = [n for n in range(8) if n != 3]
  # The block that enters the third stage still attends as the second does.
  for (one, other), alone in zip(results, (True, True, True, False, False)):
    assert np.array_equal(one[:, others], other[:, others]) == alone


@pytest.mark.parametrize("shape", [(2, 5, 32, 32, 3), (2, 4, 32, 64, 3), (2, 4, 32, 32), (2, 3, 4, 32, 32)])
def test_clips_that_positions_do_not_fit_are_refused(shape):
  with pytest.raises(ValueError, match=r"\[B, 4, 32, 32, 3\], not " + re.escape(str(shape)) + ".*num_frames"):
    tiny.zeros("hiera_b", **_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depths": (1, 1, 1)}, r"depths = \(1, 1, 1\)"),
    ({"heads": 3}, "dim = 4 must be a multiple of heads = 3"),
    ({"num_frames": 5}, "num_frames = 5.*multiple of 2: the nearest is 4"),
    ({"size": 100}, "size = 100.*multiple of 32: the nearest is 96"),
    ({"dept": 1}, "dept = 1: 'hiera_b' has no such option; did you mean.*'depths'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=message):
    tiny.zeros("hiera_b", **_TINY | options)


def test_it_starts_as_its_authors_do():
  options = {"dim": 8, "depths": (1, 1, 1, 1), "num_frames": 4, "size": 32}
  state = to_torch(tiny.fresh(lambda: models.create("hiera_b", rngs=nnx.Rngs(0), **options)))
  for key, value in state.items():
    if "norm" in key and key.endswith("weight"):
      assert (value == 1).all()
    elif key == "patch_embed.proj.bias":
      assert 0 < np.abs(value).max() <= 1 / 21
    elif key.endswith("bias"):
      np.testing.assert_array_equal(value, np.float32(0.02))
    else:
      assert 0.015 < value.std() < 0.025, key
