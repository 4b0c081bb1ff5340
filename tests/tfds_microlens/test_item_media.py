"""The `…-items-cover…-audio…` data sets: from folders and archives of files, good and bad, to records."""

import io
import pathlib
import pickle
import zipfile

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec import machine
from support import clips
from support import sounds
from support.pictures import BAD_COVERS
from support.pictures import coded
from support.pictures import halves
import tfds_microlens
from tfds_microlens import __main__ as command
from tfds_microlens import audio
from tfds_microlens import covers
from tfds_microlens import demo
from tfds_microlens import demo_tones
from tfds_microlens import demo_videos
from tfds_microlens import fetch
from tfds_microlens import video_frames
from tfds_microlens.configs import MediaSettings

pytestmark = pytest.mark.usefixtures("offline")
_ITEMS = (2, 9, 10, 31, 400)


@pytest.fixture
def manual(tmp_path):
  """A manual_dir of five items: a cover of a shade of its own and a tone of a pitch of its own each."""
  folder = tmp_path / "manual"
  (folder / "MicroLens-1M_covers").mkdir(parents=True)
  (folder / "MicroLens-1M_audio").mkdir()
  _pairs(folder, _ITEMS)
  for place, item in enumerate(_ITEMS):
    Image.new("RGB", (50, 70), _shade(place)).save(folder / "MicroLens-1M_covers" / f"{item}.png")
    sounds.write_wav(folder / "MicroLens-1M_audio" / f"{item}.wav", _tone(place))
  return folder


def _pairs(folder, items) -> None:
  (folder / "MicroLens-1M_pairs.tsv").write_text(f"1\t{' '.join(map(str, items))}\n")
  (folder / "MicroLens-1M_title.csv").write_text("2,two\n9,🍜 nine\n")


def _shade(place: int) -> tuple[int, int, int]:
  return 200 - 30 * place, 40, 50 * place


def _tone(place: int) -> np.ndarray:
  return sounds.tone(0.5 + 0.25 * place, hz=200 + 100 * place)


def _prepare(name: str, tmp_path, manual):
  return tfds_microlens.prepare(name, data_dir=tmp_path, manual_dir=manual)


def _group(reason: str) -> int:
  """Files of no use come first, then what is odd, then what is missing."""
  return 2 if reason == "missing" else int(reason.startswith("kept: "))


def _report(builder, name: str) -> list[list[str]]:
  lines = (builder.data_path / f"{name}_report.tsv").read_text().splitlines()
  assert lines[0] == "item\tfile\treason"
  return [line.split("\t") for line in lines[1:]]


def test_records_hold_cover_and_sound_of_every_item(tmp_path, manual):
  builder = _prepare("1m-items-cover24-audio1s", tmp_path, manual)
  rows = tfds.data_source("microlens/1m-items-cover24-audio1s", split="train", data_dir=tmp_path)
  assert [row["item"] for row in rows] == list(_ITEMS)
  assert [row["title"].decode() for row in rows] == ["two", "🍜 nine", "", "", ""]
  for place, row in enumerate(rows):
    assert row["cover"].shape == (24, 24, 3)
    np.testing.assert_allclose(row["cover"].mean((0, 1)), _shade(place), atol=2)
    assert np.array_equal(row["audio"], _tone(place)[:16_000])
  for name in ("cover", "audio"):
    assert _report(builder, name) == []
    assert np.load(builder.data_path / f"{name}_items.npy").tolist() == list(_ITEMS)
  metadata = builder.info.metadata
  assert (metadata["without_cover"], metadata["without_audio"]) == (0, 0)
  assert not list((tmp_path / "microlens").glob(".1m*")), "the cache goes when the data set is there"


def test_a_cover_is_within_36_db_of_its_scaled_original(tmp_path, manual):
  pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3)).astype(np.uint8)
  cover = Image.fromarray(pixels).resize((300, 400), Image.Resampling.BICUBIC)
  cover.save(manual / "MicroLens-1M_covers" / "9.png")
  row = _prepare("1m-items-cover64", tmp_path, manual).as_data_source("train")[1]
  scaled = video_frames.scaled(np.asarray(cover), 64)
  assert video_frames.psnr(row["cover"], scaled) >= 36
  assert set(row) == {"item", "title", "likes", "views", "count", "cover"}


def test_settings_are_read_from_the_name(tmp_path):
  configs = tfds_microlens.Builder.builder_configs
  assert configs["full-items-cover96-audio3s"].media == MediaSettings(96, 3)
  assert configs["1m-items-audiopath"].media == MediaSettings(None, "path")
  assert configs["50k-items"].media == MediaSettings()
  for alias, name in (
    ("demo-items-cover-audio", "demo-items-cover224-audio10s"), ("50k-items-audio", "50k-items-audio10s"),
    ("1m-items-coverpath-audio5s", "1m-items-coverpath-audio5s"),
  ):  # fmt: skip
    assert configs[alias].name == name
    assert tfds.builder(f"microlens/{alias}", data_dir=tmp_path).builder_config_name == name
  for wrong in ("cover0", "cover-1", "audio10", "audio0s", "audio5s-cover9", "cover9-cover9", "", "coverpaths"):
    assert configs.get(f"50k-items-{wrong}") is None
  with pytest.raises(fetch.PrepareError, match="did you mean 50k-items-cover224-audio10s"):
    tfds_microlens.prepare("50k-items-cover224-audio10", data_dir=tmp_path)


def test_covers_come_from_the_published_archive_too(tmp_path, manual):
  folder = manual / "MicroLens-1M_covers"
  with zipfile.ZipFile(manual / "MicroLens-1M_covers.zip", "w") as archive:
    for item in _ITEMS[:3]:
      archive.write(folder / f"{item}.png", f"MicroLens-1M_covers/{item}.png")
    archive.writestr("MicroLens-1M_covers/31.jpg", b"")
    archive.writestr("__MACOSX/._2.png", b"x")
    archive.writestr("MicroLens-1M_covers/cat.png", b"x")
  folder.rename(tmp_path / "elsewhere")
  builder = _prepare("1m-items-cover24", tmp_path, manual)
  coded = builder.as_data_source("train", decoders={"cover": tfds.decode.SkipDecoding()})
  assert [bool(row["cover"]) for row in coded] == [True] * 3 + [False] * 2
  path = manual / "MicroLens-1M_covers.zip"
  name = "its name is not that of an item: expected <item>.jpg|.jpeg|.png|.webp|.gif|.bmp"
  assert _report(builder, "cover") == [
    ["31", f"{path}/MicroLens-1M_covers/31.jpg", "empty file"],
    ["", f"{path}/MicroLens-1M_covers/cat.png", name],
    ["400", f"{path}/400.jpg", "missing"],
  ]
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(fetch.PrepareError, match=r"covers\.zip: expected a whole zip file of covers named"):
    _prepare("1m-items-cover25", tmp_path, manual)


def test_sound_comes_from_videos_where_there_is_no_folder_of_it(tmp_path, manual):
  (manual / "MicroLens-1M_audio").rename(tmp_path / "elsewhere")
  with pytest.raises(fetch.PrepareError, match=r"MicroLens-1M_audio: no such folder; .* or videos in .*1M_videos"):
    _prepare("1m-items-audio1s", tmp_path, manual)
  (manual / "MicroLens-1M_videos").mkdir()
  sounds.write_coded(manual / "MicroLens-1M_videos" / "9.mp4", sounds.tone(1.5, 44_100), "aac", 44_100)
  clips.write_clip(manual / "MicroLens-1M_videos" / "31.mp4", clips.pictures(4))
  builder = _prepare("1m-items-audio1s", tmp_path, manual)
  rows = {int(row["item"]): row["audio"] for row in builder.as_data_source("train")}
  assert [item for item, found in rows.items() if len(found)] == [9]
  assert sounds.loudest_hz(rows[9]) == 440
  assert {item: reason for item, _, reason in _report(builder, "audio")} == {
    "2": "missing", "10": "missing", "31": "no sound track, only pictures", "400": "missing",
  }  # fmt: skip
  assert builder.info.metadata["audio_made_of"] == "MicroLens-1M_videos"


def test_bad_files_are_left_out_and_odd_ones_kept_and_all_are_listed(tmp_path, manual, capsys, caplog):
  covers_at, sounds_at = manual / "MicroLens-1M_covers", manual / "MicroLens-1M_audio"
  expected: dict[str, dict[int, str]] = {"cover": {77: "ignored: expected <item>.jpg|"}, "audio": {77: "missing"}}
  for item, (content, reason) in enumerate(BAD_COVERS.values(), 101):
    (covers_at / f"{item}.jpg").write_bytes(content)
    expected["cover"][item] = reason
  for item, (make, reason) in enumerate(sounds.BAD_SOUNDS.values(), 101):
    make(sounds_at / f"{item}.mp4")
    expected["audio"][item] = reason
  (covers_at / "9.png").unlink()
  (covers_at / "9.JPG").write_bytes(coded(halves().convert("CMYK"), "JPEG"))
  (covers_at / "10.png").write_bytes(coded(Image.new("RGB", (1, 1))))
  (covers_at / "10.gif").write_bytes(b"")
  (covers_at / "190.png").symlink_to(covers_at / "190.png")
  (covers_at / "500.png").write_bytes(b"of no item of the data set")
  (covers_at / "501.heic").write_bytes(b"of no item of the data set")
  (covers_at / "77.heic").write_bytes(b"of a form that is not read")
  (covers_at / "9.json").write_bytes(b"beside a cover that can be used")
  sounds.write_wav(sounds_at / "31.wav", np.zeros(100, np.int16))
  expected["cover"] |= {9: "kept: CMYK", 190: "cannot be read: "}
  expected["audio"] |= {31: "kept: silent", 190: "missing"}
  most = 100 + max(len(BAD_COVERS), len(sounds.BAD_SOUNDS))
  for item in range(101 + len(sounds.BAD_SOUNDS), most + 1):
    expected["audio"][item] = "missing"
  for item in range(101 + len(BAD_COVERS), most + 1):
    expected["cover"][item] = "missing"
  _pairs(manual, [*_ITEMS, 77, 190, *range(101, most + 1)])
  arguments = ["1m-items-cover8-audio1s", "--data_dir", str(tmp_path), "--manual_dir", str(manual)]
  assert command.main(arguments) == 0
  out = capsys.readouterr().out
  builder = tfds.builder("microlens/1m-items-cover8-audio1s", data_dir=tmp_path)
  decoders = dict.fromkeys(("cover", "audio"), tfds.decode.SkipDecoding())
  rows = {int(row["item"]): row for row in builder.as_data_source("train", decoders=decoders)}
  assert len(rows) == len(_ITEMS) + 2 + most - 100, "an item without media is an item"
  for name in ("cover", "audio"):
    assert [item for item, row in rows.items() if row[name]] == list(_ITEMS)
    report = _report(builder, name)
    reasons = {int(item): reason for item, _, reason in report if not (item == "10" and name == "cover")}
    assert list(reasons) == sorted(expected[name], key=lambda item: (_group(reasons[item]), item))
    for item, reason in expected[name].items():
      assert reason in reasons[item], item
    without = len(rows) - len(_ITEMS)
    said = {"cover": "a cover", "audio": "a sound track"}[name]
    assert f"{without} without {said}: {builder.data_path / f'{name}_report.tsv'}" in out
  of_ten = [row[1:] for row in _report(builder, "cover") if row[0] == "10"]
  assert of_ten == [
    [str(covers_at / "10.gif"), "ignored: 10.png is used for the item"],
    [str(covers_at / "10.png"), "kept: only 1 x 1 pixels, scaled up"],
  ]
  assert "5 of " in caplog.text
  assert "2 of these are odd" in caplog.text


def test_without_one_good_file_nothing_is_prepared(tmp_path, manual):
  for path in (manual / "MicroLens-1M_covers").iterdir():
    path.write_bytes(b"")
  with pytest.raises(fetch.PrepareError, match=r"found 5 of 5 items, none of which can be used\n.*png: empty file"):
    _prepare("1m-items-cover8", tmp_path, manual)
  assert not list(tmp_path.rglob("*.array_record*"))
  with pytest.raises(fetch.PrepareError, match=r"MicroLens-50k_covers: no such folder; .*50k_covers\.zip"):
    tfds_microlens.item_media.cover_source("MicroLens-50k_covers", [tmp_path, manual])


def test_paths_alone_may_be_asked_for(tmp_path, manual, monkeypatch):
  (manual / "MicroLens-1M_covers" / "9.png").unlink()
  monkeypatch.chdir(tmp_path)
  rows = list(_prepare("1m-items-coverpath-audiopath", tmp_path, pathlib.Path("manual")).as_data_source("train"))
  assert [row["cover_path"].decode() for row in rows] == [
    "" if item == 9 else str(manual / "MicroLens-1M_covers" / f"{item}.png") for item in _ITEMS
  ]
  assert all(pathlib.Path(row["audio_path"].decode()).is_file() for row in rows)


class _Killed(BaseException):
  pass


def test_a_run_that_was_cut_off_is_resumed_where_it_stopped(tmp_path, manual, monkeypatch):
  """Notes come back as well as records."""
  (manual / "MicroLens-1M_covers" / "2.png").write_bytes(coded(Image.new("RGB", (3, 2))))
  monkeypatch.setattr(machine, "usable_cores", lambda: 1)
  read, whole = [], audio.read_audio

  def noted(path, seconds, stop_after=None):
    if len(read) == stop_after:
      raise _Killed
    read.append(pathlib.Path(path).name)
    return whole(path, seconds)

  with monkeypatch.context() as patch:
    patch.setattr(audio, "read_audio", lambda path, seconds: noted(path, seconds, stop_after=2))
    with pytest.raises(_Killed):
      _prepare("1m-items-cover8-audio1s", tmp_path, manual)
  assert read == ["2.wav", "9.wav"]
  monkeypatch.setattr(audio, "read_audio", noted)
  monkeypatch.setattr(covers, "read_cover", None)
  builder = _prepare("1m-items-cover8-audio1s", tmp_path, manual)
  assert read == ["2.wav", "9.wav", "10.wav", "31.wav", "400.wav"]
  assert [(item, reason) for item, _, reason in _report(builder, "cover")] == [
    ("2", "kept: only 3 x 2 pixels, scaled up")
  ]


def test_a_builder_survives_pickling(tmp_path, manual):
  builder = pickle.loads(pickle.dumps(_prepare("1m-items-cover8-audio1s", tmp_path, manual)))
  assert len(builder.as_data_source("train")) == 5


def test_the_demo_takes_the_same_road(made_small, tmp_path, monkeypatch):
  monkeypatch.setattr(demo, "generate", lambda: made_small)
  source = tfds.data_source("microlens/demo-items-cover128-audio5s", split="train", data_dir=tmp_path)
  assert [row["item"] for row in source] == list(range(1, 13))
  for place in (0, 6, 11):
    drawn = demo_videos.draw(made_small.attributes[place], place + 1)[demo_videos.NUM_FRAMES // 2]
    assert video_frames.psnr(source[place]["cover"], drawn) >= 36
    heard = source[place]["audio"]
    assert np.array_equal(heard, demo_tones.sound(made_small.attributes[place], place + 1))
  paths = tfds.data_source("microlens/demo-items-coverpath", split="train", data_dir=tmp_path)
  assert Image.open(io.BytesIO(pathlib.Path(paths[3]["cover_path"].decode()).read_bytes())).size == (128, 128)


def test_demo_sounds_tell_their_attributes(made):
  """Each attribute but for chance: by its nearest neighbour among half of the sounds."""
  heard = {name: np.array([]) for name in demo.ATTRIBUTES}
  looks = [_listen(demo_tones.sound(row, item)) for row, item in zip(made.attributes, made.items.tolist())]
  known, asked = range(0, 120, 2), range(1, 120, 2)
  for k, name in enumerate(heard):
    near = [min(known, key=lambda j: np.abs(looks[i][name] - looks[j][name]).mean()) for i in asked]
    right = np.mean(made.attributes[list(asked), k] == made.attributes[near, k])
    assert right > 2 / len(demo.ATTRIBUTES[name]), f"{name}: {right}"


def _listen(samples: np.ndarray) -> dict[str, np.ndarray]:
  """What a simple ear hears of each attribute."""
  wave = samples / (np.abs(samples).max() + 1.0)
  spectrum = np.abs(np.fft.rfft(wave))[: 3 * 4000]
  logs = np.log(np.add.reduceat(spectrum, np.unique(np.geomspace(200, 11_999, 90).astype(int))) + 1e-2)
  loudness = np.sqrt((wave.reshape(-1, 160) ** 2).mean(1))
  rhythm = np.abs(np.fft.rfft(loudness - loudness.mean()))[:40]
  windows = np.abs(np.fft.rfft(wave.reshape(-1, 2000) * np.hanning(2000)))[:, 20:400]
  pitch = np.log(windows.argmax(1) + 20.0)
  noise = np.log(np.array([spectrum[100:200].mean(), spectrum[8_900:9_100].mean(), spectrum[11_000:].mean()]) + 1e-2)
  return {
    "shape": logs, "colour": np.sort(pitch), "motion": np.abs(np.fft.rfft(pitch - pitch.mean())),
    "speed": rhythm / rhythm.max(), "background": noise,
  }  # fmt: skip
