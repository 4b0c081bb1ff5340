"""Published videos, where `MLREC_REAL_DATA` names the folder that holds `videos/<item>.mp4`."""

import os
import pathlib

import numpy as np
import pytest

from mlrec.content.audio import Audio
from mlrec.content.videos import Frames
import tfds_microlens
from tfds_microlens import audio
from tfds_microlens import frame_codecs
from tfds_microlens import video_frames

pytestmark = pytest.mark.skipif(not os.environ.get("MLREC_REAL_DATA"), reason="MLREC_REAL_DATA is not set")
_NUM_FRAMES = {1002: 982, 10034: 227, 10040: 862}


@pytest.fixture(scope="module")
def folder():
  return pathlib.Path(os.environ["MLREC_REAL_DATA"]) / "videos"


@pytest.fixture(scope="module")
def root(folder, tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  (root / "manual").mkdir()
  (root / "manual" / "MicroLens-1M_videos").symlink_to(folder)
  (root / "manual" / "MicroLens-1M_pairs.tsv").write_text("1\t1002 10034 10040\n")
  (root / "manual" / "MicroLens-1M_title.csv").write_text("1002,one\n")
  return root


@pytest.fixture(scope="module")
def frames(root):
  tfds_microlens.prepare("1m-videos-5x224", data_dir=root, manual_dir=root / "manual")
  return Frames("microlens/1m-videos-5x224", root)


def test_five_frames_are_within_36_db_at_a_fortieth_of_the_published_size(frames, folder):
  assert frames.items.tolist() == list(_NUM_FRAMES)
  sizes = []
  for (item, num_frames), read in zip(_NUM_FRAMES.items(), frames.read(frames.items)):
    original, count = video_frames.read_frames(folder / f"{item}.mp4")
    assert count == num_frames
    assert min(video_frames.psnr(a, b) for a, b in zip(read, original)) >= 36
    sizes.append(sum(len(video_frames.encode_jpeg(frame)) for frame in original))
  # The reference stores 3,014,861 bytes of float32 a video.
  assert max(sizes) <= 3_014_861 / 40
  assert np.mean(sizes) <= 3_014_861 / 55


def test_five_frames_together_are_within_36_db_at_a_hundredth_of_the_published_size(folder):
  sizes = []
  for item in _NUM_FRAMES:
    original, _ = video_frames.read_frames(folder / f"{item}.mp4")
    coded = frame_codecs.encode(original, frame_codecs.H264)
    assert min(video_frames.psnr(*pair) for pair in zip(frame_codecs.decode(coded), original)) >= 36
    sizes.append(sum(map(len, coded)))
  assert max(sizes) <= 3_014_861 / 100
  assert np.mean(sizes) <= 3_014_861 / 150


def test_seeking_finds_the_frames_that_decoding_everything_does(folder):
  item = 10034
  sought, _ = video_frames.read_frames(folder / f"{item}.mp4")
  everything, _ = video_frames.read_frames(folder / f"{item}.mp4", seek=False)
  assert np.array_equal(sought, everything)


def test_their_sound_is_kept_to_the_sample_in_less_than_plain_pcm_takes(root, folder):
  name = "1m-items-audio10s"
  tfds_microlens.prepare(name, data_dir=root, manual_dir=root / "manual")
  tracks = Audio(f"microlens/{name}", root)
  assert tracks.items.tolist() == list(_NUM_FRAMES)
  read = tracks.read(tracks.items)
  assert read.shape == (3, 160_000)
  for row, item in zip(read, _NUM_FRAMES):
    samples, notes = audio.read_audio(folder / f"{item}.mp4", 10)
    assert notes == []
    assert np.array_equal(row[: len(samples)], samples)
    assert not row[len(samples) :].any()
    assert 10_000 < np.abs(samples.astype(int)).max() < 32_768
    assert len(audio.encode_flac(samples)) < 0.8 * samples.nbytes
  # The middle one is 7.6 s long.
  assert [np.flatnonzero(row)[-1] > 150_000 for row in read] == [True, False, True]
