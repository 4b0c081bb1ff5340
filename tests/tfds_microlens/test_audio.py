"""Sound tracks of any form to mono, 16 bits, 16 kHz."""

import numpy as np
import pytest

from support import clips
from support import sounds
from tfds_microlens import audio
from tfds_microlens.media_sources import MediaError


def test_samples_of_the_rate_kept_come_back_unchanged(tmp_path):
  samples = np.random.default_rng(0).integers(-32_768, 32_768, 30_001).astype(np.int16)
  path = sounds.write_wav(tmp_path / "1.wav", samples)
  read, notes = audio.read_audio(path, 10)
  assert np.array_equal(read, samples), "a shorter track is kept as it is"
  assert notes == []
  assert np.array_equal(audio.decode_flac(audio.encode_flac(read)), samples)
  assert np.array_equal(audio.read_audio(path, 1)[0], samples[:16_000]), "a longer one is cut"


def test_flac_holds_what_a_tone_is_in_half_of_its_bytes():
  samples = sounds.tone(2)
  coded = audio.encode_flac(samples)
  assert len(coded) < samples.nbytes / 2
  assert coded == audio.encode_flac(samples)


@pytest.mark.parametrize("count", [1, 2, 15, 4097])
def test_tracks_of_a_few_samples_are_kept(tmp_path, count):
  samples = np.arange(1000, 1000 + count, dtype=np.int16)
  assert np.array_equal(audio.read_audio(sounds.write_wav(tmp_path / "1.wav", samples), 1)[0], samples)
  assert np.array_equal(audio.decode_flac(audio.encode_flac(samples)), samples)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled(tmp_path, rate):
  path = sounds.write_wav(tmp_path / "1.wav", sounds.tone(1.5, rate), rate)
  read, notes = audio.read_audio(path, 10)
  assert len(read) == pytest.approx(24_000, abs=40)
  assert sounds.loudest_hz(read[:16_000]) == 440
  assert np.abs(read[2000:-2000]).max() == pytest.approx(16_384, rel=0.03)
  assert notes == []


@pytest.mark.parametrize(
  ("left", "right", "mean"), [(1000, 3000, 2000), (20_000, -10_000, 5_000), (0, 4000, 2000), (32_767, 32_767, 32_767)]
)
def test_two_channels_become_their_mean(tmp_path, left, right, mean):
  channels = np.tile(np.array([[left], [right]], np.int16), 16_000)
  read, notes = audio.read_audio(sounds.write_wav(tmp_path / "1.wav", channels), 1)
  np.testing.assert_allclose(read, mean, atol=1)
  assert notes == []


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("loudness", [-1.0, -0.9])
def test_of_channels_that_cancel_the_loudest_is_taken_and_that_is_noted(tmp_path, rate, loudness):
  tone = sounds.tone(1.2, rate)
  channels = np.stack([np.rint(loudness * tone).astype(np.int16), tone])
  read, notes = audio.read_audio(sounds.write_wav(tmp_path / "1.wav", channels, rate), 1)
  alone, _ = audio.read_audio(sounds.write_wav(tmp_path / "2.wav", tone, rate), 1)
  taken = 1 if loudness == -1.0 else 2
  assert notes == [f"its channels cancel when mixed, so channel {taken} of 2 is taken"]
  assert np.array_equal(
    read, alone if taken == 2 else audio.read_audio(sounds.write_wav(tmp_path / "3.wav", channels[0], rate), 1)[0]
  )


def test_channels_that_have_nothing_in_common_do_not_cancel(tmp_path):
  channels = np.stack([sounds.tone(1, hz=300), sounds.tone(1, hz=1000)])
  read, notes = audio.read_audio(sounds.write_wav(tmp_path / "1.wav", channels), 1)
  np.testing.assert_allclose(read, channels.mean(0), atol=1)
  assert notes == []


def test_silent_channels_do_not_cancel(tmp_path):
  _, notes = audio.read_audio(sounds.write_wav(tmp_path / "1.wav", np.zeros((2, 16_000), np.int16)), 1)
  assert notes == ["silent"]


def test_six_channels_are_mixed(tmp_path):
  channels = np.tile(sounds.tone(1, loudness=0.1), (6, 1))
  read, _ = audio.read_audio(sounds.write_wav(tmp_path / "1.wav", channels), 1)
  assert len(read) == 16_000
  assert sounds.loudest_hz(read) == 440


@pytest.mark.parametrize(
  ("suffix", "codec", "rate"),
  [("mp3", "libmp3lame", 44_100), ("m4a", "aac", 44_100), ("ogg", "libopus", 48_000), ("flac", "flac", 22_050)],
)
def test_codecs_give_what_was_coded(tmp_path, suffix, codec, rate):
  path = sounds.write_coded(tmp_path / f"1.{suffix}", sounds.tone(1.5, rate), codec, rate)
  read, notes = audio.read_audio(path, 1)
  assert len(read) == 16_000
  assert sounds.loudest_hz(read) == 440
  assert notes == []


@pytest.mark.parametrize("loudness", [0, 1])
def test_silence_is_content_and_is_noted(tmp_path, loudness):
  silence = np.full(8000, loudness, np.int16)
  read, notes = audio.read_audio(sounds.write_wav(tmp_path / "1.wav", silence), 1)
  assert np.array_equal(read, silence)
  assert notes == ["silent"]
  assert audio.read_audio(clips.write_sound(tmp_path / "1.mp4"), 1)[1] == ["silent"]


def test_damaged_packets_are_left_out_and_noted(tmp_path):
  path = sounds.write_coded(tmp_path / "1.m4a", sounds.tone(3, 44_100), "aac", 44_100)
  content = bytearray(path.read_bytes())
  content[len(content) // 2 : len(content) // 2 + 1500] = bytes(1500)
  path.write_bytes(content)
  read, notes = audio.read_audio(path, 10)
  assert 16_000 < len(read) < 48_000
  assert notes == ["damaged, what cannot be decoded is left out"]


@pytest.mark.parametrize("kind", sounds.BAD_SOUNDS)
def test_a_bad_file_is_refused_with_its_reason(tmp_path, kind):
  make, reason = sounds.BAD_SOUNDS[kind]
  make(tmp_path / "1.mp4")
  with pytest.raises(MediaError, match=reason):
    audio.read_audio(tmp_path / "1.mp4", 1)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
  with pytest.raises(MediaError, match="missing"):
    audio.read_audio(tmp_path / "1.mp3", 1)
