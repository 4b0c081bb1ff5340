import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.video.vjepa2 import rotation
from mlrec.models.items.video.vjepa2 import turned
from mlrec.models.items.video.vjepa2 import VARIANTS
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_GOLDEN = {"dim": 32, "depth": 3, "heads": 2, "hidden": 64, "patch": 4}
_TINY = {"dim": 16, "depth": 2, "heads": 2, "hidden": 24, "patch": 4}


def _tiny(**options):
  return tiny.filled(tiny.zeros("vjepa2_l", **_TINY | options))


def _clips(frames: int = 4, height: int = 8, width: int = 12):
  return tiny.clips(2, frames, height, width)


@pytest.mark.parametrize("case", range(3))
def test_golden_output(golden, case):
  arrays = golden("video_vjepa2_tiny")
  model = tiny.golden(tiny.zeros("vjepa2_l", **_GOLDEN), arrays)
  clips = np.moveaxis(arrays[f"input_{case}"], 2, -1)
  tiny.assert_near(tiny.run(model, clips), arrays[f"output_{case}"], 1e-5)


def test_names_and_shapes_are_the_published_ones(golden_path):
  wanted = tiny.published(golden_path / "keys" / "vjepa2_l.txt", without=r"^predictor\.")
  assert tiny.shapes(tiny.full_size("vjepa2_l")) == wanted


def test_stages_cut_the_published_parameters_in_order(golden_path):
  parameters = tiny.published(golden_path / "keys" / "vjepa2_l.net.params.txt")
  assert checks.numbers(parameters) == 303_885_312
  model, spec = tiny.full_size("vjepa2_l"), VARIANTS["vjepa2_l"]
  assert model.spec == spec
  starts = checks.stage_starts(model.stages, parameters)
  assert (starts[spec.top], starts[spec.half]) == (354, 194)


def test_what_is_loaded_comes_back_and_what_does_not_fit_is_named():
  model = tiny.zeros("vjepa2_l", **_TINY)
  checks.assert_comes_back(model)
  checks.assert_misfits_are_named(model, "encoder.layer.1.attention.proj.weight", unused="blocks.77.weight")


@pytest.mark.parametrize("first_trained", [0, 2])
def test_gradients_stop_at_the_first_trained_stage(first_trained):
  checks.assert_gradients_stop(_tiny(), _clips(), first_trained, least=1e-7)


def test_half_precision_is_near_the_exact_output():
  checks.assert_near_in_half_precision(_tiny, _clips())


def test_a_classifiers_file_loads_without_its_own_parts():
  model = _tiny()
  arrays = to_torch(model)
  file = {f"vjepa2.{key}": value for key, value in arrays.items()}
  file |= {
    "vjepa2.predictor.proj.bias": np.zeros(3),
    "pooler.query_tokens": np.zeros(2),
    "classifier.bias": np.zeros(5),
  }
  other = tiny.zeros("vjepa2_l", **_TINY)
  load_torch(other, file)
  checks.assert_holds(other, arrays)


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
  output = tiny.run(model, clips)
  for axis in (1, 2, 3):
    window = 2 if axis == 1 else 4
    shape = (*clips.shape[:axis], -1, window, *clips.shape[axis + 1 :])
    swapped = jnp.flip(clips.reshape(shape), axis).reshape(clips.shape)
    assert np.abs(tiny.run(model, swapped) - output).max() > 1e-4


def test_the_last_of_an_odd_number_of_frames_is_not_read_and_a_single_one_is_repeated():
  model, clips = _tiny(), _clips(5)
  np.testing.assert_array_equal(tiny.run(model, clips), tiny.run(model, clips.at[:, 4].set(7)))
  np.testing.assert_array_equal(tiny.run(model, clips[:, :1]), tiny.run(model, clips[:, [0, 0]]))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 0, 8, 8, 3), (2, 4, 8, 10, 3), (2, 4, 8, 8, 1)])
def test_what_is_no_clip_is_refused(shape):
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\].*" + re.escape(str(shape))):
    tiny.zeros("vjepa2_l", **_TINY)(jnp.zeros(shape))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depth": 0}, "depth = 0"),
    ({"dim": 18}, "dim = 18.*heads = 2.*nearest is 16"),
    ({"dim": 8}, "dim = 8.*nearest is 12"),
    ({"dept": 1}, "dept = 1: 'vjepa2_l' has no such option; did you mean.*'depth'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=message):
    tiny.zeros("vjepa2_l", **_TINY | options)
