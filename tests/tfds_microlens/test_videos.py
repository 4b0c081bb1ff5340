"""The `…-videos` data sets: from a folder of files, good and bad, to records."""

import dataclasses
import io
import os
import pathlib
import pickle
import zipfile

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec import machine
from support import clips
import tfds_microlens
from tfds_microlens import __main__ as command
from tfds_microlens import demo
from tfds_microlens import demo_videos
from tfds_microlens import fetch
from tfds_microlens import media
from tfds_microlens import video_frames
from tfds_microlens import videos

pytestmark = pytest.mark.usefixtures("offline")
_ITEMS = (2, 9, 10, 31, 400)


@pytest.fixture
def manual(tmp_path):
  """A manual_dir with a folder of five videos, of 20 to 24 frames."""
  folder = tmp_path / "manual" / "MicroLens-100k_videos"
  folder.mkdir(parents=True)
  for place, item in enumerate(_ITEMS):
    clips.write_clip(folder / f"{item}.mp4", clips.pictures(20 + place), g=8)
  return folder.parent


def _report(builder) -> list[list[str]]:
  lines = (builder.data_path / videos.REPORT).read_text().splitlines()
  assert lines[0] == "item\tfile\treason"
  return [line.split("\t") for line in lines[1:]]


def test_records_hold_the_middle_frames_of_every_video_by_item(tmp_path, manual):
  builder = tfds_microlens.prepare("100k-videos-3x40", data_dir=tmp_path, manual_dir=manual)
  rows = tfds.data_source("microlens/100k-videos-3x40", split="train", data_dir=tmp_path)
  assert [row["item"] for row in rows] == list(_ITEMS)
  assert [row["num_frames"] for row in rows] == [20, 21, 22, 23, 24]
  for row, path in zip(rows, (manual / "MicroLens-100k_videos" / f"{item}.mp4" for item in _ITEMS)):
    frames = row["frames"]
    assert frames.shape == (3, 40, 40, 3)
    assert frames.dtype == np.uint8
    middle = int(row["num_frames"]) // 2
    assert [clips.shown_index(frame) for frame in frames] == [middle - 1, middle, middle + 1]
    read, _ = video_frames.read_frames(path, frames=3, size=40)
    assert min(video_frames.psnr(a, b) for a, b in zip(frames, read)) >= 36
  assert _report(builder) == []
  assert np.load(builder.data_path / media.ITEMS).tolist() == list(_ITEMS)
  assert {key: builder.info.metadata[key] for key in ("frames", "size", "interval")} == {
    "frames": 3, "size": 40, "interval": 1,
  }  # fmt: skip


def test_settings_are_read_from_the_name(tmp_path, manual):
  builder = tfds_microlens.prepare("microlens/100k-videos-2x16-i6", data_dir=tmp_path, manual_dir=manual)
  (first, *_) = builder.as_data_source("train")
  assert [clips.shown_index(frame) for frame in first["frames"]] == [7, 13]
  configs = tfds_microlens.Builder.builder_configs
  assert configs["full-videos-16x112-i25"].frames == (16, 112, 25, False, "jpeg")
  assert configs["1m-videos-3x64-i2-reference"].frames == (3, 64, 2, True, "jpeg")
  assert configs["1m-videos-3x64-i2-reference"].name == "1m-videos-3x64-i2-reference"
  for alias, name in (
    ("demo-videos", "demo-videos-5x224"), ("50k-videos", "50k-videos-5x224"), ("1m-videos-8x96-i1", "1m-videos-8x96"),
  ):  # fmt: skip
    assert configs[alias].name == name
    assert tfds.builder(f"microlens/{alias}", data_dir=tmp_path).builder_config_name == name
  for wrong in (
    "50k-videos-",
    "50k-videos-5",
    "50k-videos-0x224",
    "50k-videos-5x224-i0",
    "50k-videos-05x224",
    "x-videos",
  ):
    assert wrong not in configs
    assert configs.get(wrong) is None
  assert "50k-videos-5x224" in list(configs)


def test_a_name_that_is_not_one_answers_with_the_nearest(tmp_path):
  with pytest.raises(fetch.PrepareError, match="did you mean 50k-videos-5x224"):
    tfds_microlens.prepare("50k-videos-5by224", data_dir=tmp_path)


def test_bad_files_have_no_record_and_are_reported(tmp_path, manual, capsys, caplog):
  folder = manual / "MicroLens-100k_videos"
  expected = {}
  for item, (make, reason) in enumerate(clips.BAD_VIDEOS.values(), start=101):
    make(folder / f"{item}.mp4")
    expected[item] = reason
  (folder / "cat.mp4").write_bytes(b"x")
  (folder / "readme.txt").write_bytes(b"x")
  (folder / "whole.mp4").unlink()
  (folder / "190.mp4").symlink_to(folder / "190.mp4")
  expected[190] = "cannot be read: "
  missing = list(clips.BAD_VIDEOS).index("missing") + 101
  (manual / "MicroLens-100k_pairs.tsv").write_text(f"1\t2 9 10 31 400 {missing}\n2\t2 9 77\n")
  assert command.main(["100k-videos-1x16", "--data_dir", str(tmp_path), "--manual_dir", str(manual)]) == 0
  out = capsys.readouterr().out
  builder = tfds.builder("microlens/100k-videos-1x16", data_dir=tmp_path)
  assert [row["item"] for row in builder.as_data_source("train")] == list(_ITEMS)
  report = _report(builder)
  assert [row[0] for row in report] == [*(str(item) for item in expected if item != missing), "", "77", str(missing)]
  for item, file, reason in report[:-3]:
    assert file == str(folder / f"{item}.mp4")
    assert expected[int(item)] in reason
  assert [row[2] for row in report[-2:]] == ["missing"] * 2
  assert "not that of an item" in report[-3][2]
  assert f"{videos.REPORT} says which and why; the first: {': '.join(report[0][1:])}." in caplog.text
  assert f"{len(report)} without a record: {builder.data_path / videos.REPORT}" in out
  assert f"5 items have a record; {len(report) - 2} videos cannot be used and 2 are missing" in caplog.text
  assert builder.info.metadata["without_record"] == len(report)
  assert command.main(["100k-videos-1x16", "--data_dir", str(tmp_path), "--manual_dir", str(manual)]) == 0
  assert f"{len(report)} without a record" in capsys.readouterr().out, "it is said of what is there already, too"


def test_without_one_good_file_nothing_is_prepared(tmp_path, manual):
  folder = manual / "MicroLens-100k_videos"
  for path in folder.iterdir():
    path.write_bytes(b"")
  with pytest.raises(fetch.PrepareError, match=r"found 5, none of which can be used\n.*mp4: empty file"):
    tfds_microlens.prepare("100k-videos-1x16", data_dir=tmp_path, manual_dir=manual)
  assert not list(tmp_path.rglob("*.array_record*"))
  for path in folder.iterdir():
    path.unlink()
  with pytest.raises(fetch.PrepareError, match=r"expected videos named <item>\.mp4; found 0"):
    tfds_microlens.prepare("100k-videos-1x16", data_dir=tmp_path, manual_dir=manual)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(
    fetch.PrepareError, match=r"MicroLens-1M_videos: no such folder; expected <item>.mp4 files in .*by"
  ):
    tfds_microlens.prepare("1m-videos-5x224", data_dir=tmp_path, manual_dir=tmp_path / "by_hand")


def _archive(path, *, items=(2, 9), side=60, change=lambda item, k, coded: coded):
  """The published archive's form: five frames of each item, in a folder, that show item and number."""
  with zipfile.ZipFile(path, "w") as archive:
    for item in items:
      for k in range(1, 6):
        out = io.BytesIO()
        Image.fromarray(np.full((side, 2 * side, 3), 10 * (item % 10) + 20 * k, np.uint8)).save(out, "JPEG", quality=95)
        coded = change(item, k, out.getvalue())
        if coded is not None:
          archive.writestr(f"frames/{item}-{k}.jpg", coded)
  return path


def _shades(row) -> list[float]:
  return [round(float(frame.mean())) for frame in row["frames"]]


_ARCHIVE = "MicroLens-100k_frames_interval_1_number_5.zip"


@pytest.mark.parametrize("name", ["100k-videos-5x40", "100k-videos-5x40-reference"])
def test_the_published_archive_of_frames_goes_before_videos(tmp_path, manual, name):
  _archive(manual / _ARCHIVE)
  builder = tfds_microlens.prepare(name, data_dir=tmp_path, manual_dir=manual)
  rows = builder.as_data_source("train")
  assert [(row["item"], row["num_frames"]) for row in rows] == [(2, -1), (9, -1)]
  for row in rows:
    assert row["frames"].shape == (5, 40, 40, 3)
    np.testing.assert_allclose(_shades(row), [10 * row["item"] + 20 * k for k in range(1, 6)], atol=2)
  assert builder.info.metadata["made_of"] == "archive"


def test_frames_that_the_archive_does_not_have_come_from_videos(tmp_path, manual):
  _archive(manual / _ARCHIVE)
  for name in ("100k-videos-4x16", "100k-videos-5x16-i2"):
    builder = tfds_microlens.prepare(name, data_dir=tmp_path, manual_dir=manual)
    assert [row["item"] for row in builder.as_data_source("train")] == list(_ITEMS)
    assert builder.info.metadata["made_of"] == "folder"


def test_an_archives_missing_frames_repeat_the_nearest_and_bad_ones_are_reported(tmp_path, manual):
  def change(item, k, coded):
    return {
      (9, 1): None, (9, 3): None, (9, 4): None,
      (31, 2): coded[:100], (400, 5): b"GIF89a", (10, 1): b"",
    }.get((item, k), coded)  # fmt: skip

  path = _archive(manual / _ARCHIVE, items=(2, 9, 10, 31, 400), side=30, change=change)
  with zipfile.ZipFile(path, "a") as archive:
    archive.writestr("frames/cat.jpg", b"x")
    archive.writestr("frames/7-6.jpg", b"x")
  content = bytearray(path.read_bytes())
  at = content.index(b"frames/2-3.jpg") + 200  # within the first of the two places of that name, its data
  content[at] ^= 255
  path.write_bytes(content)
  builder = tfds_microlens.prepare("100k-videos-5x16", data_dir=tmp_path, manual_dir=manual)
  (row,) = builder.as_data_source("train")
  np.testing.assert_allclose(_shades(row), [130, 130, 130, 190, 190], atol=2)
  report = {item: reason for item, _, reason in _report(builder)}
  assert set(report) == {"2", "7", "10", "31", "400", ""}
  assert "2-3.jpg cannot be read as a JPEG: Bad CRC-32" in report["2"]
  assert "none of frames 1 to 5 is there" in report["7"]
  assert all("cannot be read as a JPEG" in report[item] for item in ("10", "31", "400"))
  assert "expected frames named" in report[""]


def test_half_an_archive_is_refused(tmp_path, manual):
  path = _archive(manual / _ARCHIVE)
  path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(fetch.PrepareError, match=r"number_5\.zip: expected a whole zip file .*remove it"):
    tfds_microlens.prepare("100k-videos-5x16", data_dir=tmp_path, manual_dir=manual)


def test_the_released_codes_frames_may_be_asked_for(tmp_path, manual):
  builder = tfds_microlens.prepare("100k-videos-3x40-reference", data_dir=tmp_path, manual_dir=manual)
  (first, *_) = builder.as_data_source("train")
  assert [clips.shown_index(frame) for frame in first["frames"]] == [7, 8, 9]
  assert builder.info.metadata["reference"]


def test_downloaded_videos_are_found(tmp_path, manual):
  downloads = tmp_path / "downloads" / "microlens"
  downloads.mkdir(parents=True)
  (manual / "MicroLens-100k_videos").rename(downloads / "MicroLens-100k_videos")
  builder = tfds_microlens.prepare("100k-videos-1x16", data_dir=tmp_path, manual_dir=manual)
  assert builder.info.splits["train"].num_examples == 5


class _Killed(BaseException):
  pass


def _read_paths(monkeypatch, stop_after=None) -> list[str]:
  """The names of the videos that are decoded from now on; the run is cut off after so many."""
  read, whole = [], video_frames.read_frames

  def noted(path, **settings):
    if len(read) == stop_after:
      raise _Killed
    read.append(pathlib.Path(path).name)
    return whole(path, **settings)

  monkeypatch.setattr(video_frames, "read_frames", noted)
  monkeypatch.setattr(machine, "usable_cores", lambda: 1)
  return read


def _cut_off(tmp_path, manual, monkeypatch) -> list[pathlib.Path]:
  """Prepares two of the five videos, and gives their files in the cache."""
  with monkeypatch.context() as patch:
    _read_paths(patch, stop_after=2)
    with pytest.raises(_Killed):
      tfds_microlens.prepare("100k-videos-2x16", data_dir=tmp_path, manual_dir=manual)
  kept = sorted((tmp_path / "microlens").rglob("*.frames/*/*"))
  assert [path.name for path in kept] == ["2.frames", "9.frames"]
  return kept


def test_a_run_that_was_cut_off_is_resumed_where_it_stopped(tmp_path, manual, monkeypatch):
  _cut_off(tmp_path, manual, monkeypatch)
  read = _read_paths(monkeypatch)
  builder = tfds_microlens.prepare("100k-videos-2x16", data_dir=tmp_path, manual_dir=manual)
  assert read == ["10.mp4", "31.mp4", "400.mp4"]
  at_once = tfds_microlens.prepare("100k-videos-2x16", data_dir=tmp_path / "other", manual_dir=manual)
  undecoded = {"split": "train", "deserialize_method": tfds.decode.DeserializeMethod.RAW_BYTES}
  assert list(builder.as_data_source(**undecoded)) == list(at_once.as_data_source(**undecoded))
  assert not list((tmp_path / "microlens").rglob("*.frames")), "the cache goes when the data set is there"


@pytest.mark.parametrize(
  "damage",
  ["cut short", "a bit", "emptied", "zeros", "that of another video", "another video", "a part", "a folder"],
)
def test_only_whole_files_of_the_same_videos_are_taken_from_the_cache(tmp_path, manual, monkeypatch, damage, caplog):
  other, kept = _cut_off(tmp_path, manual, monkeypatch)
  content = kept.read_bytes()
  if damage == "cut short":
    kept.write_bytes(content[:-1])
  elif damage == "a bit":
    kept.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
  elif damage == "emptied":
    kept.write_bytes(b"")
  elif damage == "zeros":
    kept.write_bytes(bytes(len(content)))
  elif damage == "that of another video":
    kept.write_bytes(other.read_bytes())
  elif damage == "a part":
    kept.rename(kept.with_name("9.frames.123.part"))
  elif damage == "a folder":
    kept.unlink()
    kept.mkdir()
  else:
    path = manual / "MicroLens-100k_videos" / "9.mp4"
    clips.write_clip(path, clips.pictures(30))
    os.utime(path, ns=(0, 123))
  read = _read_paths(monkeypatch)
  builder = tfds_microlens.prepare("100k-videos-2x16", data_dir=tmp_path, manual_dir=manual)
  assert read == ["9.mp4", "10.mp4", "31.mp4", "400.mp4"]
  assert builder.as_data_source("train")[1]["num_frames"] == (30 if damage == "another video" else 21)
  said = "1 of the kept frames of single items were damaged, 9.frames first; they are made again"
  assert (said in caplog.text) == (damage not in ("another video", "a part"))


def test_a_builder_of_any_settings_survives_pickling(tmp_path, manual):
  builder = pickle.loads(pickle.dumps(tfds_microlens.prepare("100k-videos-1x17", data_dir=tmp_path, manual_dir=manual)))
  assert len(builder.as_data_source("train")) == 5


def test_demo_clips_are_the_same_every_time(made, demo_clips, tmp_path):
  some = [0, 59, 119]
  few = dataclasses.replace(made, items=made.items[some], attributes=made.attributes[some])
  again = demo_videos.write(few, tmp_path, workers=1)
  for item in (1, 60, 120):
    assert (demo_clips / f"{item}.mp4").read_bytes() == (again / f"{item}.mp4").read_bytes()
    frames, count = video_frames.read_frames(again / f"{item}.mp4", size=demo_videos.SIDE)
    drawn = demo_videos.draw(made.attributes[item - 1], item)
    assert count == len(drawn) == demo_videos.NUM_FRAMES
    assert min(video_frames.psnr(a, b) for a, b in zip(frames, drawn[10:15])) > 27


def test_demo_clips_show_their_attributes_in_five_small_frames(made, demo_clips):
  names = [dict(zip(demo.ATTRIBUTES, row)) for row in made.attributes.tolist()]
  seen = [_look(video_frames.read_frames(demo_clips / f"{item}.mp4", size=32)[0]) for item in made.items]
  for attribute in ("colour", "motion", "speed"):
    right = [found[attribute] == name[attribute] for found, name in zip(seen, names)]
    assert np.mean(right) > 0.95, attribute
  # Shape and background are told apart by nothing but a nearest neighbour among half of the clips.
  for attribute, key, chance in (("shape", "mask", 1 / 6), ("background", "wall", 1 / 4)):
    known, asked = range(0, 120, 2), range(1, 120, 2)
    nearest = [min(known, key=lambda j: np.abs(seen[i][key] - seen[j][key]).mean()) for i in asked]
    right = [names[i][attribute] == names[j][attribute] for i, j in zip(asked, nearest)]
    assert np.mean(right) > 2 * chance, attribute


def _look(frames) -> dict:
  """What a simple eye sees in `[5, 32, 32, 3]`."""
  pixels = frames.astype(float)
  mask = np.ptp(pixels, axis=-1) > 60
  y, x = np.array([np.argwhere(frame).mean(axis=0) for frame in mask]).T
  hue = pixels[mask].mean(axis=0)
  colour = int(np.argmin([np.abs(hue - paint).sum() for paint in demo_videos.COLOURS]))
  down, right, turn = y[4] - y[0], x[4] - x[0], y[2] - (y[0] + y[4]) / 2
  motion = int(np.argmax([-down, right, down, 2 * turn]))
  step = max(abs(down), abs(right), 2 * turn)
  speed = int(np.argmin([abs(step - pixels_a_frame) for pixels_a_frame in demo_videos.SPEEDS]))
  top, left = round(y[2]) - 12, round(x[2]) - 12
  shape = np.pad(mask[2], 12)[top + 12 : top + 36, left + 12 : left + 36].astype(float)
  wall = np.abs(np.fft.fft2(np.where(mask[2], np.median(pixels[2]), pixels[2, :, :, 0])))
  wall[0, 0] = 0
  return {"colour": colour, "motion": motion, "speed": speed, "mask": shape, "wall": wall / (wall.sum() + 300)}


def test_the_demo_takes_the_same_road(made_small, tmp_path, monkeypatch):
  monkeypatch.setattr(demo, "generate", lambda: made_small)
  source = tfds.data_source("microlens/demo-videos-5x24", split="train", data_dir=tmp_path)
  assert [row["item"] for row in source] == list(range(1, 13))
  assert {int(row["num_frames"]) for row in source} == {demo_videos.NUM_FRAMES}
  assert source[0]["frames"].shape == (5, 24, 24, 3)
