"""Frames that are coded each by itself or together."""

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec.content.videos import Frames
from mlrec.data import DataError
from mlrec.inference.catalogue import Pictures
from support import clips
import tfds_microlens
from tfds_microlens import frame_codecs
from tfds_microlens import reading
from tfds_microlens import video_frames
from tfds_microlens.errors import PrepareError
from tfds_microlens.video_sources import FrameSettings

_TOGETHER, _APART = "1m-videos-5x32-h264", "1m-videos-5x32"


def _moving(frames=5, height=48, width=64) -> np.ndarray:
  """A textured picture that moves by a pixel a frame."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (height // 8, (width + frames) // 8, 3), np.uint8)
  wide = np.asarray(Image.fromarray(small).resize((width + frames, height)))
  return np.stack([wide[:, place : place + width] for place in range(frames)])


@pytest.mark.parametrize(
  "pixels",
  [
    _moving(),
    np.random.default_rng(0).integers(0, 256, (3, 17, 9, 3), np.uint8),
    np.zeros((2, 8, 8, 3), np.uint8),
    np.full((1, 1, 1, 3), 200, np.uint8),
  ],
  ids=["moving", "noise", "black", "a pixel"],
)
def test_every_frame_of_a_stream_is_within_36_db(pixels):
  coded = frame_codecs.encode(pixels, frame_codecs.H264)
  assert len(coded) == len(pixels)
  decoded = frame_codecs.decode(coded)
  assert decoded.dtype == np.uint8
  assert decoded.shape == pixels.shape
  assert min(video_frames.psnr(*pair) for pair in zip(decoded, pixels)) >= 36


def test_neighbours_take_less_together_than_apart():
  pixels = _moving(height=96, width=96)
  sizes = {form: sum(map(len, frame_codecs.encode(pixels, form))) for form in frame_codecs.FORMS}
  assert 3 * sizes[frame_codecs.H264] < sizes[frame_codecs.JPEG]


def test_the_same_frames_are_the_same_bytes_without_a_word_of_the_encoder():
  coded = frame_codecs.encode(_moving(), frame_codecs.H264)
  assert coded == frame_codecs.encode(_moving(), frame_codecs.H264)
  assert b"x264" not in b"".join(coded)


def test_the_first_frames_are_decoded_without_the_others():
  coded = frame_codecs.encode(_moving(), frame_codecs.H264)
  assert np.array_equal(frame_codecs.decode(coded[:2]), frame_codecs.decode(coded)[:2])


@pytest.mark.parametrize(
  "damage",
  [
    lambda coded: [coded[0][: len(coded[0]) // 2], *coded[1:]],
    lambda coded: [*coded[:-1], coded[-1][: len(coded[-1]) // 2]],
    lambda coded: [*coded[:-1], b""],
    lambda coded: [coded[0] + coded[1], *coded[2:], b"\0\0\0\1?"],
    lambda coded: [b"\0\0\0\1?"] * 5,
    lambda coded: [b"?"] * 5,
  ],
  ids=["first cut", "last cut", "empty", "two in one", "nothing", "no picture"],
)
def test_what_is_no_whole_record_cannot_be_decoded(damage):
  coded = frame_codecs.encode(_moving(), frame_codecs.H264)
  with pytest.raises(OSError, match=r"H\.264|cannot identify"):
    frame_codecs.decode(damage(coded))


def test_an_encoder_that_is_missing_is_told_with_what_to_do(monkeypatch):
  monkeypatch.setattr(frame_codecs, "_ENCODER", "libx265rgb")
  with pytest.raises(PrepareError, match=r"encoder libx265rgb.* --only-binary=av av.* leave out -h264"):
    frame_codecs.encode(_moving(), frame_codecs.H264)


@pytest.mark.parametrize("name", ["5x224-h264", "5x224-i5-h264", "3x16-i2-reference-h264", "5x224", "4x8-reference"])
def test_the_form_is_part_of_the_name(name):
  settings = FrameSettings.parse(name)
  assert settings is not None
  assert str(settings) == name
  assert settings.form == (frame_codecs.H264 if name.endswith("h264") else frame_codecs.JPEG)


@pytest.mark.parametrize("name", ["5x224-h265", "5x224-h264-i5", "5x224-jpeg"])
def test_other_names_name_nothing(name):
  assert FrameSettings.parse(name) is None


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  held = folder / "manual" / "MicroLens-1M_videos"
  held.mkdir(parents=True)
  for item in (2, 4):
    clips.write_clip(held / f"{item}.mp4", clips.pictures(10 + item))
  (folder / "manual" / "MicroLens-1M_pairs.tsv").write_text("1\t2 4\n")
  for name in (_TOGETHER, _APART):
    tfds_microlens.prepare(name, data_dir=folder, manual_dir=folder / "manual")
  return folder


def test_both_forms_are_read_alike(data_dir):
  together, apart = (Frames(f"microlens/{name}", data_dir) for name in (_TOGETHER, _APART))
  assert together.items.tolist() == [2, 4]
  assert (together.num_frames, together.size) == (5, 32)
  read = together.read([4, 2])
  assert min(video_frames.psnr(*pair) for pair in zip(read, apart.read([4, 2]))) >= 33, "both are within 36 dB"
  assert np.array_equal(together.read([4, 2], frames=3), read[:, 1:4])
  scaled = together.read([2], frames=1, size=16)[0, 0]
  assert np.array_equal(scaled, video_frames.scaled(read[1, 2], 16))
  assert together.fingerprint != apart.fingerprint


def test_tfds_decodes_them_and_knows_the_form_from_the_files_alone(data_dir):
  wanted = Frames(f"microlens/{_TOGETHER}", data_dir).read([2, 4])
  builder = tfds.builder(f"microlens/{_TOGETHER}", data_dir=data_dir)
  by_files = tfds.builder_from_directory(builder.data_path)
  for one in (builder, by_files):
    assert np.array_equal([row["frames"] for row in one.as_data_source("train")], wanted)
  skipped = by_files.as_data_source("train", decoders={"frames": tfds.decode.SkipDecoding()})
  assert np.array_equal(frame_codecs.decode(list(skipped[1]["frames"])), wanted[1])


def test_people_see_jpegs(data_dir):
  items, records = reading.open_videos(f"microlens/{_TOGETHER}", str(data_dir))
  wanted = Frames(f"microlens/{_TOGETHER}", data_dir).read([4])[0]
  shown = Pictures(items, records).read(4)
  assert len(shown) == 5
  assert min(video_frames.psnr(video_frames.decode_jpeg(one), frame) for one, frame in zip(shown, wanted)) >= 36


def test_a_damaged_record_is_an_error_that_names_the_item(data_dir, monkeypatch):
  frames = Frames(f"microlens/{_TOGETHER}", data_dir)
  records = frames._records
  monkeypatch.setattr(frames, "_records", lambda places: [(item, parts[:2]) for item, parts in records(places)])
  with pytest.raises(DataError, match=r"5x32-h264: the video of item 2 cannot be decoded"):
    frames.read([2])
