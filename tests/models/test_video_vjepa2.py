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
from mlrec.models.items.video.vjepa2 import rotation
from mlrec.models.items.video.vjepa2 import turned
from mlrec.models.items.video.vjepa2 import VARIANTS
from mlrec.models.layers.context import Context

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_GOLDEN = {"dim": 32, "depth": 3, "heads": 2, "hidden": 64, "patch": 4}
_TINY = {"dim": 16, "depth": 2, "heads": 2, "hidden": 24, "patch": 4}


def _built(**options):
  """A net without values; drawing them costs more than what is tested."""
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("vjepa2_l", rngs=nnx.Rngs(0), **options)))
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
  arrays = golden("video_vjepa2_tiny")
  model = _built(**_GOLDEN)
  load_torch(model, {key.removeprefix("sd/"): value for key, value in arrays.items() if key.startswith("sd/")})
  return model, arrays


def _clips(frames: int = 4, height: int = 8, width: int = 12):
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


def test_names_and_shapes_are_the_published_ones(golden_path):
  wanted = _published(golden_path, "vjepa2_l.txt")
  wanted = {key: shape for key, shape in wanted.items() if not key.startswith("predictor.")}
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create("vjepa2_l", rngs=nnx.Rngs(0))))
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)
  assert {key: value.shape for key, value in to_torch(nnx.merge(graphdef, zeros)).items()} == wanted


def test_stages_cut_the_published_parameters_in_order(golden_path):
  parameters = _published(golden_path, "vjepa2_l.net.params.txt")
  assert sum(int(np.prod(shape)) for shape in parameters.values()) == 303_885_312
  model = nnx.eval_shape(lambda: models.create("vjepa2_l", rngs=nnx.Rngs(0)))
  stages = [next(n for n, stage in enumerate(model.stages) if f"{key}.".startswith(f"{stage}.")) for key in parameters]
  assert stages == sorted(stages)
  assert set(stages) == set(range(len(model.stages)))
  spec = VARIANTS["vjepa2_l"]
  assert model.spec == spec
  assert [stages.index(model.stages.index(stage)) for stage in (spec.top, spec.half)] == [354, 194]


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = _built(**_TINY)
  rng = np.random.default_rng(2)
  arrays = {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])
  key = "encoder.layer.1.attention.proj.weight"
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


def test_a_classifiers_file_loads_without_its_own_parts():
  model = _tiny()
  arrays = to_torch(model)
  file = {f"vjepa2.{key}": value for key, value in arrays.items()}
  file |= {
    "vjepa2.predictor.proj.bias": np.zeros(3),
    "pooler.query_tokens": np.zeros(2),
    "classifier.bias": np.zeros(5),
  }
  other = _built(**_TINY)
  load_torch(other, file)
  for key, value in to_torch(other).items():
    np.testing.assert_array_equal(value, arrays[key])


def test_scores_depend_on_the_way_between_places_in_the_first_pair_of_channels():
  # Frequencies repeat over half a third, so with thirds of two channels each pair has one angle and keeps its length.
  grid = (3, 2, 4)
  query, key = (jax.random.normal(jax.random.key(n), (1, 1, 1, 6)) for n in range(2))
  query, key = (np.asarray(turned(jnp.broadcast_to(x, (1, 24, 1, 6)), grid))[0, :, 0] for x in (query, key))
  scores = (query @ key.T).reshape(*grid, *grid)
  np.testing.assert_allclose(scores[0, 0, 1, 1, 1, 3], scores[1, 0, 0, 2, 1, 2], rtol=1e-5)
  assert abs(scores[0, 0, 1, 1, 1, 3] - scores[1, 0, 0, 1, 1, 2]) > 1e-3


def test_each_third_of_the_channels_is_turned_by_its_axis_and_the_rest_by_none():
  cosines, sines = rotation((2, 3, 4), 16)
  assert cosines.shape == sines.shape == (24, 16)
  np.testing.assert_array_equal(sines[:, 12:], 0)
  np.testing.assert_array_equal(cosines[:, 12:], 1)
  places = np.indices((2, 3, 4)).reshape(3, -1)
  for axis in range(3):
    wanted = places[axis][:, None] * np.array([1, 0.01, 1, 0.01])
    np.testing.assert_allclose(sines[:, 4 * axis : 4 * axis + 4], np.sin(wanted), atol=1e-6)


def test_the_order_of_frames_rows_and_columns_acts():
  model, clips = _tiny(), _clips()
  output = _run(model, clips)
  for axis in (1, 2, 3):
    window = 2 if axis == 1 else 4
    shape = (*clips.shape[:axis], -1, window, *clips.shape[axis + 1 :])
    swapped = jnp.flip(clips.reshape(shape), axis).reshape(clips.shape)
    assert np.abs(_run(model, swapped) - output).max() > 1e-4


def test_the_last_of_an_odd_number_of_frames_is_not_read_and_a_single_one_is_repeated():
  model, clips = _tiny(), _clips(5)
  np.testing.assert_array_equal(_run(model, clips), _run(model, clips.at[:, 4].set(7)))
  np.testing.assert_array_equal(_run(model, clips[:, :1]), _run(model, clips[:, [0, 0]]))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 0, 8, 8, 3), (2, 4, 8, 10, 3), (2, 4, 8, 8, 1)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\].*" + re.escape(str(shape))):
    _built(**_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depth": 0}, "depth = 0"),
    ({"dim": 18}, "dim = 18.*heads = 2.*nearest is 16"),
    ({"dim": 8}, "dim = 8.*nearest is 12"),
    ({"dept": 1}, "no option 'dept'.*'depth'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _built(**_TINY | options)
