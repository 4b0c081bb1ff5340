"""Titles and media come to their items by ids and by paths, and what does not is told."""

import numpy as np
import pytest
import tensorflow_datasets.public_api as tfds

from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.content.audio import Audio
from mlrec.content.covers import Covers
from mlrec.content.titles import open_titles
from mlrec.content.videos import Frames
from mlrec.data import DataError
from mlrec.data import ingested
from mlrec.ingest import ingest
from mlrec.sources import load_interactions
from support import clips
from support import pictures
from support import sounds

ITEMS = ["a 🎬", "ü", "c", "d", "e"]
SMALL = {"frames": "2x16", "cover": 16, "audio": "1s"}


@pytest.fixture
def log(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user in (1, 2) for item in ITEMS))
  return path


@pytest.fixture
def folder(tmp_path):
  """Media of some items, in folders of several layouts, and files that are none."""
  root = tmp_path / "media"
  for name in ("videos/deep", "audio", "pictures"):
    (root / name).mkdir(parents=True)
  clips.write_clip(root / "videos" / "deep" / "a 🎬.mp4", clips.pictures(4))
  clips.write_clip(root / "videos" / "u\N{COMBINING DIAERESIS}.mkv", clips.pictures(4))
  clips.write_clip(root / "c.mov", clips.pictures(4))
  clips.write_clip(root / "c.webm", clips.pictures(4), codec="libvpx-vp9")
  (root / "videos" / "d.mp4").write_bytes(b"nothing that can be decoded")
  (root / "videos" / "stranger.mp4").write_bytes(b"")
  (root / "videos" / ".e.mp4").write_bytes(b"")
  (root / "notes.txt").write_text("e")
  (root / "pictures" / "e.PNG").write_bytes(pictures.coded(pictures.halves()))
  sounds.write_wav(root / "audio" / "d.wav", sounds.tone(0.2))
  return root


def test_media_of_any_layout_come_to_the_items_that_name_them(log, folder, tmp_path, caplog):
  out = tmp_path / "out"
  report = ingest(log, to=out, media=folder, **SMALL)
  names = load_interactions(str(out)).item_names

  def texts(source):
    return names.texts(source.items)

  frames = Frames(str(out))
  assert sorted(texts(frames)) == ["a 🎬", "c", "ü"]
  assert (frames.num_frames, frames.size) == (2, 16)
  assert [clips.shown_index(frame) for frame in frames.read(np.array([names.id("a 🎬")]))[0]] == [1, 3]
  assert texts(Covers(str(out))) == ["e"]
  assert texts(Audio(str(out))) == ["d"]
  assert Audio(str(out)).samples == 16_000
  assert report["media"]["files"] == 9
  assert report["media"]["of_no_item"] == 1
  listed = (out / report["media"]["made"]["videos"]["report"]).read_text()
  for words in ("d.mp4\tcannot be read", "stranger.mp4\tits name is not the id", "c.webm\tignored: c.mov is used"):
    assert words in listed
  first = listed.splitlines()[1].split("\t", 1)[1].replace("\t", ": ")
  assert first.startswith(f"{folder / 'videos' / 'd.mp4'}: cannot be read")
  assert [first in text for text in (caplog.text, (out / "report.md").read_text())] == [True, True]
  assert listed.splitlines()[-1].endswith("\tmissing")
  assert f"{names.id('e')}\te\tmissing" in listed  # the item's own name beside the integer that stands for it


def test_titles_and_paths_come_from_columns_whose_names_are_said_or_usual(log, folder, tmp_path):
  table = tmp_path / "items.csv"
  table.write_text(
    'id;name;file\nc;"Of c; ""first"" 🎥";c.webm\nz;Of nobody;\nd;;none.mp4\nc;"Of c,\nagain";videos/deep/a 🎬.mp4\n'
  )
  out = tmp_path / "out"
  options = {"items": table, "media": folder, "video_path": "file", "audio": "none", "cover": "none"}
  report = ingest(log, to=out, frames="1x16", **options)
  names = load_interactions(str(out)).item_names
  titles = open_titles(str(out))
  assert dict(zip(names.texts(titles.items), titles.read(titles.items))) == {"c": "Of c,\nagain"}
  assert sorted(names.texts(Frames(str(out)).items)) == ["a 🎬", "c", "ü"]
  counted = {"rows": 4, "of_no_interaction": 1, "named_again": 1, "without_id": 0, "titles": 1}
  assert {key: report["items"][key] for key in counted} == counted
  assert "none.mp4\tmissing" in (out / report["media"]["made"]["videos"]["report"]).read_text()
  assert ingested.read(out).sets["items"] == "microlens/own-items"
  records = tfds.data_source("microlens/own-items", split="train", data_dir=out)
  counts = {(r["item"], r["original_id"].decode(), r["count"]) for r in records}
  assert {(names.id("c"), "c", 2), (names.id("d"), "d", 2)} <= counts


def test_sound_of_videos_is_taken_where_it_is_asked_for_and_there_is_no_other(log, tmp_path):
  folder = tmp_path / "media"
  folder.mkdir()
  sounds.write_coded(folder / "c.mp4", sounds.tone(0.5), "aac", 16_000)
  ingest(log, to=tmp_path / "with", media=folder, frames="none", audio="1s")
  names = load_interactions(str(tmp_path / "with")).item_names
  assert names.texts(Audio(str(tmp_path / "with")).items) == ["c"]
  with pytest.raises(DataError, match="none of which can be used"):  # it has no pictures
    ingest(log, to=tmp_path / "pictures", media=folder, frames="1x16")
  assert not (tmp_path / "pictures").exists()


def test_integer_ids_stay_those_of_media_and_titles(tmp_path):
  (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"7,{item}\n" for item in (30, 20, 10)))
  (tmp_path / "items.csv").write_text("item,title\n10,ten\n030,other\n30,thirty\n")
  (tmp_path / "media").mkdir()
  for name in ("20", "030"):
    (tmp_path / "media" / f"{name}.jpg").write_bytes(pictures.coded(pictures.halves(), "JPEG"))
  out = tmp_path / "out"
  ingest(tmp_path / "log.csv", to=out, items=tmp_path / "items.csv", media=tmp_path / "media", cover=16)
  assert Covers(str(out)).items.tolist() == [20]
  titles = open_titles(str(out))
  assert dict(zip(titles.items.tolist(), titles.read(titles.items))) == {10: "ten", 30: "thirty"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"media": "nowhere"}, "media='nowhere': no such folder"),
    (
      {"media": "strangers"},
      r"none of its 1 files, such as 'x.mp4', is named by the id of an item, such as 'a 🎬', 'ü'",
    ),
    ({"items": "items.csv", "items_id": "itm"}, r"items_id='itm' is none of its columns, did you mean 'item'\?"),
    ({"items": "items.csv", "video_path": "titel"}, r"video_path='titel' is none of its columns, did you mean 'title'"),
    ({"items": "others.csv"}, "none of its 1 rows names an item of the log"),
    ({"items": "odd.csv"}, r"which column is the item\?.*items_id=COLUMN; its columns are 'x', 'y'"),
  ],
)
def test_items_and_media_that_are_not_of_the_log_are_told(options, message, log, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "strangers").mkdir()
  (tmp_path / "strangers" / "x.mp4").write_bytes(b"")
  (tmp_path / "items.csv").write_text("item,title\nc,C\n")
  (tmp_path / "others.csv").write_text("item,title\nx,X\n")
  (tmp_path / "odd.csv").write_text("x,y\nc,C\n")
  with pytest.raises(DataError, match=message):
    ingest(log, to="out", **options)
  assert not (tmp_path / "out").exists()
  assert not (tmp_path / ".out.unfinished").exists()


def test_a_folder_stands_for_its_own_content_in_place_of_that_of_a_release(log, folder, tmp_path):
  out = str(tmp_path / "out")
  ingest(log, to=out, media=folder, **SMALL)
  data = default_config().data
  data.source = out
  assert Frames.named(data) == out
  assert np.array_equal(Frames.from_config(data).items, Frames(out).items)
  data.videos = "microlens/100k-videos-5x224"
  assert Frames.named(data) == out
  data.content = "microlens/50k-items"
  assert Covers.named(data) == out
  from mlrec.content.titles import TitleTokens

  # There are no titles in the folder: those of a release are of other items.
  with pytest.raises(ConfigError, match=r"config\.data\.content = 'microlens/50k-items' is of a release.*--items=FILE"):
    TitleTokens.named(data)
  with pytest.raises(DataError, match="none of its 5 items has a title"):
    open_titles(out)
