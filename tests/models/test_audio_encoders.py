import re

import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.layers.log_mel import log_mel
from mlrec.models.layers.log_mel import num_frames
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_SILENCE = np.log(np.finfo(np.float32).eps)


def test_golden_spectrogram(golden):
  arrays = golden("log_mel")
  found = np.asarray(log_mel(jnp.asarray(arrays["waveforms"])))
  assert found.shape == (2, 23, 128)
  tiny.assert_near(found, arrays["log_mel"], 1e-4)


@pytest.mark.parametrize(("frames", "file"), [(30, "filled"), (16, "cut")])
def test_golden_spectrogram_of_as_many_rows_as_asked_for(golden, frames, file):
  arrays = golden("log_mel")
  model = tiny.built("ast_b", frames=frames, mels=128)
  # Bands that a loud one leaks into end in float32's last digits.
  tiny.assert_near(np.asarray(model.spectrogram(jnp.asarray(arrays["waveforms"]))), arrays[file], 2e-4)


def test_golden_output(golden):
  arrays = golden("audio_ast_tiny")
  model = tiny.golden(tiny.built("ast_b"), arrays)
  for case in range(2):
    tiny.assert_near(tiny.run(model, arrays[f"input_{case}"]), arrays[f"output_{case}"], 1e-4)


def test_integers_are_floats_on_a_scale_of_one():
  loud = np.random.default_rng(0).integers(-32768, 32768, (1, 1000)).astype(np.int16)
  np.testing.assert_array_equal(log_mel(jnp.asarray(loud)), log_mel(jnp.asarray(loud / np.float32(32768))))


@pytest.mark.parametrize("level", [0, 7, -32768])
def test_silence_whatever_its_offset_is_the_floor(level):
  np.testing.assert_allclose(log_mel(jnp.full((1, 2000), level, jnp.int16)), _SILENCE, rtol=1e-6)


def test_silence_and_audio_that_is_too_short_give_finite_vectors():
  model = tiny.drawn("ast_b")
  silent, short = (tiny.run(model, np.zeros((1, samples), np.int16)) for samples in (7000, 399))
  assert np.isfinite(silent).all()
  assert np.isfinite(short).all()
  # Without a whole window there are no rows but filler.
  assert (silent != short).any()


def test_a_tone_is_loudest_in_its_band():
  time = np.arange(1600) / 16_000
  for hertz in (200, 1000, 5000):
    bands = np.asarray(log_mel(jnp.asarray(np.sin(2 * np.pi * hertz * time)[None], jnp.float32), mels=40))[0].mean(0)
    low, high = 1127 * np.log1p(20 / 700), 1127 * np.log1p(8000 / 700)
    wanted = (1127 * np.log1p(hertz / 700) - low) / (high - low) * 41 - 1
    assert abs(bands.argmax() - wanted) < 1.01


def test_windows_are_counted_whole():
  assert [num_frames(samples, 16_000) for samples in (0, 399, 400, 559, 560, 160_000)] == [0, 0, 1, 1, 2, 998]


@pytest.mark.parametrize("waveforms", [np.zeros(400, np.int16), np.zeros((2, 400), np.int32), np.zeros((1, 2, 400))])
def test_what_is_no_waveform_is_refused(waveforms):
  with pytest.raises(ValueError, match=r"\[B, S\] of int16 or float.*" + re.escape(str(waveforms.shape))):
    log_mel(jnp.asarray(waveforms))


def test_names_and_shapes_are_the_published_ones(golden_path):
  model = tiny.full_size("ast_b")
  wanted = tiny.published(golden_path / "keys" / "ast_b.txt")
  assert tiny.shapes(model) == wanted
  checks.stage_starts(model.stages, wanted)
  assert (model.spec.rate, model.spec.samples, model.spec.features) == (16_000, 160_000, 768)
  assert (model.spec.top, model.spec.half) == ("encoder.layer.10", "encoder.layer.6")


def test_a_classifiers_file_fits_shorter_audio_by_the_middle_of_its_positions():
  # 12 bands of patches by 101 in time, each telling its place.
  model = tiny.drawn("ast_b", frames=216, mels=128)
  assert model.grid == (12, 21)
  arrays = to_torch(model)
  places = np.stack(np.indices((12, 101)), -1).reshape(-1, 2)
  table = np.zeros((1, 2 + 12 * 101, 32), np.float32)
  table[0, 2:, :2] = places
  table[0, :2, 0] = -1, -2
  file = {f"audio_spectrogram_transformer.{key}": value for key, value in arrays.items()}
  file["audio_spectrogram_transformer.embeddings.position_embeddings"] = table
  load_torch(model, file | {"classifier.dense.weight": np.zeros((3, 32)), "classifier.layernorm.bias": np.zeros(32)})
  found = to_torch(model)["embeddings.position_embeddings"][0]
  np.testing.assert_array_equal(found[:2, 0], [-1, -2])
  grid = found[2:].reshape(12, 21, 32)
  np.testing.assert_array_equal(grid[:, :, 0], np.broadcast_to(np.arange(12)[:, None], (12, 21)))
  np.testing.assert_array_equal(grid[:, :, 1], np.broadcast_to(np.arange(40, 61), (12, 21)))


def test_positions_for_longer_audio_are_interpolated():
  model = tiny.built("ast_b", frames=2050, mels=128)
  arrays = to_torch(model)
  table = np.zeros((1, 2 + 12 * 101, 32), np.float32)
  table[0, 2:, 0] = np.tile(np.arange(101), 12)
  load_torch(model, arrays | {"embeddings.position_embeddings": table})
  grid = to_torch(model)["embeddings.position_embeddings"][0, 2:].reshape(12, 204, 32)[..., 0]
  assert (np.diff(grid, axis=1) >= 0).all()
  np.testing.assert_allclose(grid[0, [0, 203]], [0, 100])


def test_options_say_how_much_audio_is_read():
  small = tiny.full_size("ast_s")
  assert (small.spec.samples, small.grid, small.spec.features) == (16_000, (5, 9), 192)
  assert tiny.built("ast_b", frames=200).spec.samples == 32_320
  assert tiny.built("ast_b", frames=2000).spec.samples == 160_000
  assert tiny.built("ast_b", samples=9000).spec.samples == 9000


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"depth": 0}, "depth = 0"),
    ({"frames": 15}, "frames = 15.*patch = 16"),
    ({"mels": 8}, "mels = 8"),
    ({"samples": -1}, "samples = -1"),
    ({"dim": 33}, "dim = 33.*heads = 2"),
    ({"mel": 8}, "mel = 8: 'ast_b' has no such option; did you mean.*'mels'"),
  ],
)
def test_impossible_options_are_named(options, message):
  with pytest.raises(OptionError, match=message):
    tiny.built("ast_b", **options)
