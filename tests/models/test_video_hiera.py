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
from mlrec.models.layers.context import Context

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_GOLDEN = {"dim": 6, "depths": (1, 2, 2, 1), "num_frames": 6, "size": 64}
_TINY = {"dim": 4, "depths": (1, 1, 1, 1), "num_frames": 4, "size": 32}


def _built(**options):
  """A net without values; drawing them costs more than what is tested."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("hiera_b", rngs=nnx.Rngs(0), **options)))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def _tiny(**options):
  model = _built(**_TINY | options)
  rng = np.random.default_rng(1)
  arrays = to_torch(model)
  for key, value in arrays.items():
    drawn = rng.normal(0, max(1, np.prod(value.shape[1:])) ** -0.5, value.shape)
    arrays[key] = (drawn + ("norm" in key and key.endswith("weight"))).astype(np.float32)
  load_torch(model, arrays)
  return model


def _golden(golden):
  arrays = golden("video_hiera_tiny")
  model = _built(**_GOLDEN)
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  return model, arrays


def _clips():
  return jax.random.normal(jax.random.key(3), (2, 4, 32, 32, 3))


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


def test_golden_output(golden):
  model, arrays = _golden(golden)
  clips = np.moveaxis(arrays["input"].astype(np.float32) / 32, 1, -1)
  _close(_run(model, clips), arrays["output"], 1e-5)


def test_names_and_shapes_are_the_published_ones(golden_path):
  wanted = _published(golden_path, "hiera_b.txt")
  wanted = {key: shape for key, shape in wanted.items() if not key.startswith("head.")}
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("hiera_b", rngs=nnx.Rngs(0))))
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)
  assert {key: value.shape for key, value in to_torch(nnx.merge(graphdef, zeros)).items()} == wanted


def test_stages_cut_the_published_parameters_in_order(golden_path):
  parameters = _published(golden_path, "hiera_b.net.params.txt")
  assert sum(int(np.prod(shape)) for shape in parameters.values()) == 50_784_960
  model = nnx.eval_shape(lambda: models.create("hiera_b", rngs=nnx.Rngs(0)))
  stages = [next(n for n, stage in enumerate(model.stages) if f"{key}.".startswith(f"{stage}.")) for key in parameters]
  assert stages == sorted(stages)
  assert set(stages) == set(range(len(model.stages)))
  spec = VARIANTS["hiera_b"]
  assert model.spec == spec
  assert [stages.index(model.stages.index(stage)) for stage in (spec.top, spec.half)] == [260, 152]


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = _built(**_TINY)
  rng = np.random.default_rng(2)
  arrays = {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])
  key = "blocks.1.attn.qkv.weight"
  with pytest.raises(ValueError, match=f"missing.*'{re.escape(key)}'"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'blocks\.77\.weight'"):
    load_torch(model, arrays | {"blocks.77.weight": np.zeros(3)})
  with pytest.raises(ValueError, match=f"'{re.escape(key)}' has shape.*77"):
    load_torch(model, arrays | {key: np.zeros((*arrays[key].shape[:-1], 77))})


@pytest.mark.parametrize("first_trained", [0, 2])
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

  @functools.partial(jax.jit, compiler_options=_QUICK)
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
    _built(**_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depths": (1, 1, 1)}, r"depths = \(1, 1, 1\)"),
    ({"heads": 3}, "dim = 4 must be a multiple of heads = 3"),
    ({"num_frames": 5}, "num_frames = 5.*multiple of 2: the nearest is 4"),
    ({"size": 100}, "size = 100.*multiple of 32: the nearest is 96"),
    ({"dept": 1}, "no option 'dept'.*'depths'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _built(**_TINY | options)


def test_it_starts_as_its_authors_do():
  def build():
    return models.create("hiera_b", rngs=nnx.Rngs(0), dim=8, depths=(1, 1, 1, 1), num_frames=4, size=32)

  graphdef, _ = nnx.split(nnx.eval_shape(build))
  drawn = jax.jit(lambda: nnx.split(build())[1], compiler_options=_QUICK)()
  state = to_torch(nnx.merge(graphdef, drawn))
  for key, value in state.items():
    if "norm" in key and key.endswith("weight"):
      assert (value == 1).all()
    elif key == "patch_embed.proj.bias":
      assert 0 < np.abs(value).max() <= 1 / 21
    elif key.endswith("bias"):
      np.testing.assert_array_equal(value, np.float32(0.02))
    else:
      assert 0.015 < value.std() < 0.025, key
