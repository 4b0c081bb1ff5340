"""Frames, covers and sound as TFDS's users meet them, without TensorFlow; and the versions before, of byte strings."""

import io
import pathlib
import shutil

import grain
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from mlrec.content.audio import Audio
from mlrec.content.covers import Covers
from mlrec.content.videos import Frames
from mlrec.data import DataError
from support import clips
from support import sounds
import tfds_microlens
from tfds_microlens import audio
from tfds_microlens import earlier_versions
from tfds_microlens import media_features
from tfds_microlens import video_frames

pytestmark = pytest.mark.usefixtures("offline")
_ITEMS = "1m-items-cover24-audio1s"
_VIDEOS = "1m-videos-3x16"
_SKIP = tfds.decode.SkipDecoding()


@pytest.fixture(scope="module")
def manual(tmp_path_factory):
  """Three items, of which 2 has everything, 4 no sound and 7 no cover; and two videos."""
  folder = tmp_path_factory.mktemp("manual")
  dummy = pathlib.Path(tfds_microlens.__file__).with_name("dummy_data")
  shutil.copy(dummy / "MicroLens-1M_title.csv", folder)
  (folder / "MicroLens-1M_pairs.tsv").write_text("1\t2 4 7\n")
  for kind in ("covers", "audio", "videos"):
    (folder / f"MicroLens-1M_{kind}").mkdir()
  for item in (2, 4):
    Image.new("RGB", (40, 30), (0, 90 * item // 2, 50)).save(folder / "MicroLens-1M_covers" / f"{item}.png")
    clips.write_clip(folder / "MicroLens-1M_videos" / f"{item}.mp4", clips.pictures(6 + item))
  for item in (2, 7):
    sounds.write_wav(folder / "MicroLens-1M_audio" / f"{item}.wav", sounds.tone(0.1 * item))
  return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, manual):
  folder = tmp_path_factory.mktemp("data")
  for name in (_ITEMS, _VIDEOS):
    tfds_microlens.prepare(name, data_dir=folder, manual_dir=manual)
  return folder


def _source(name, data_dir, **options):
  return tfds.data_source(f"microlens/{name}", split="train", data_dir=data_dir, **options)


def _made(name, folder, manual, **options):
  """A builder of the config `name`, prepared."""
  builder = tfds_microlens.Builder(config=name, data_dir=folder)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual, **options))
  return builder


def _made_before(name, folder, manual, **options):
  """As `_made`, by the version before, whose files hold all that it needs."""
  with pytest.MonkeyPatch.context() as patch:
    config = tfds_microlens.Builder.builder_configs[name]
    (before,) = config.supported_versions
    patch.setattr(config, "version", before)
    patch.setattr(config, "supported_versions", [])
    _made(name, folder, manual, **options)
  return tfds_microlens.Builder(config=name, data_dir=folder, version=before)


def _records(builder):
  return list(builder.as_data_source("train", deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES))


def test_pictures_and_sound_are_what_mlrec_reads(data_dir):
  rows = {row["item"]: row for row in _source(_ITEMS, data_dir)}
  for item in (2, 4):
    assert np.array_equal(rows[item]["cover"], Covers(f"microlens/{_ITEMS}", data_dir).read([item])[0])
  for item, samples in ((2, 3200), (7, 11_200)):
    assert rows[item]["audio"].dtype == np.int16
    heard = Audio(f"microlens/{_ITEMS}", data_dir).read([item], samples=samples)[0]
    assert np.array_equal(rows[item]["audio"], heard)
  frames = Frames(f"microlens/{_VIDEOS}", data_dir)
  for row in _source(_VIDEOS, data_dir):
    assert np.array_equal(row["frames"], frames.read([row["item"]])[0])


def test_what_an_item_does_not_have_is_black_and_of_no_samples(data_dir):
  rows = {row["item"]: row for row in _source(_ITEMS, data_dir)}
  assert rows[7]["cover"].shape == (24, 24, 3)
  assert not rows[7]["cover"].any()
  assert rows[2]["cover"].any()
  assert rows[4]["audio"].shape == (0,)
  assert Covers(f"microlens/{_ITEMS}", data_dir).items.tolist() == [2, 4]
  assert Audio(f"microlens/{_ITEMS}", data_dir).items.tolist() == [2, 7]


def test_the_files_are_there_undecoded(data_dir):
  rows = {row["item"]: row for row in _source(_ITEMS, data_dir, decoders={"cover": _SKIP, "audio": _SKIP})}
  assert Image.open(io.BytesIO(rows[2]["cover"])).format == "JPEG"
  assert rows[2]["audio"].startswith(b"fLaC")
  assert (rows[7]["cover"], rows[4]["audio"]) == (b"", b"")
  decoded = _source(_VIDEOS, data_dir)
  for place, row in enumerate(_source(_VIDEOS, data_dir, decoders={"frames": _SKIP})):
    frames = [video_frames.decode_jpeg(frame) for frame in row["frames"]]
    assert np.array_equal(frames, decoded[place]["frames"])


def test_features_are_those_that_tfds_knows_and_are_read_back_from_the_files_alone(data_dir):
  kinds = {"cover": tfds.features.Image, "audio": tfds.features.Audio, "frames": tfds.features.Video}
  shapes = {"cover": (24, 24, 3), "audio": (None,), "frames": (3, 16, 16, 3)}
  seen = set()
  for name in (_ITEMS, _VIDEOS):
    builder = tfds.builder(f"microlens/{name}", data_dir=data_dir)
    by_files = tfds.builder_from_directory(builder.data_path)
    for feature, kind in kinds.items():
      if feature in builder.info.features:
        seen.add(feature)
        for info in (builder.info, by_files.info):
          assert isinstance(info.features[feature], kind)
          assert info.features[feature].shape == shapes[feature]
          assert info.features[feature].doc.desc
    ours, theirs = builder.as_data_source("train"), by_files.as_data_source("train")
    assert [repr(row) for row in ours] == [repr(row) for row in theirs]
  assert seen == set(kinds)
  assert isinstance(builder.info.features["frames"].feature, tfds.features.Image)
  assert tfds.builder(f"microlens/{_ITEMS}", data_dir=data_dir).info.features["audio"].sample_rate == 16_000


def test_an_example_is_encoded_by_tfds_as_it_is_written_here(data_dir, tmp_path):
  features = tfds.builder(f"microlens/{_ITEMS}", data_dir=data_dir).info.features
  coded = audio.encode_flac(sounds.tone(0.1))
  (tmp_path / "a.flac").write_bytes(coded)
  for given in (coded, tmp_path / "a.flac", io.BytesIO(coded)):
    assert features["audio"].encode_example(given) == coded
  (row, *_) = _source(_ITEMS, data_dir, decoders={"cover": _SKIP, "audio": _SKIP})
  record = features.serialize_example(row)
  assert features.deserialize_example_np(record, decoders={"cover": _SKIP, "audio": _SKIP}) == row


def test_a_player_is_shown_where_there_is_sound():
  sound = media_features.Sound(sample_rate=16_000)
  assert sound.repr_html(sounds.tone(0.01)).startswith("<audio")
  assert sound.repr_html(np.zeros(9, np.int16)) == "silence"
  assert sound.repr_html(np.zeros(0, np.int16)) == "no sound"


def test_licence_and_supervised_keys_are_in_the_info(tmp_path):
  info = tfds.builder("microlens/50k-sequences", data_dir=tmp_path).info
  assert "academic use only" in info.redistribution_info.license
  assert info.supervised_keys == ("items", "target")
  demo = tfds_microlens.prepare("demo-sequences", data_dir=tmp_path)
  assert "Apache License 2.0" in (demo.data_path / "LICENSE").read_text()
  assert tfds.builder_from_directory(demo.data_path).info.supervised_keys == ("items", "target")


def test_grain_reads_the_data_source(data_dir):
  dataset = grain.MapDataset.source(_source(_VIDEOS, data_dir)).shuffle(seed=1).batch(2)
  batch = dataset[0]
  assert sorted(batch["item"].tolist()) == [2, 4]
  assert batch["frames"].shape == (2, 3, 16, 16, 3)
  read = list(dataset.repeat(2).to_iter_dataset())
  assert [part["frames"].dtype for part in read] == [np.uint8] * 2


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_loads_the_data_source(data_dir, workers):
  data = pytest.importorskip("torch.utils.data")
  loader = data.DataLoader(_source(_VIDEOS, data_dir), batch_size=2, num_workers=workers)
  (batch,) = loader
  assert batch["item"].tolist() == [2, 4]
  assert np.array_equal(batch["frames"].numpy(), [row["frames"] for row in _source(_VIDEOS, data_dir)])


def test_the_version_before_can_be_named_and_holds_byte_strings(data_dir, tmp_path, manual):
  for name in (_ITEMS, _VIDEOS):
    before = _made_before(name, tmp_path, manual)
    assert before.data_path.name == "1.0.0"
    assert _records(before) == _records(tfds_microlens.Builder(config=name, data_dir=data_dir))
    for source in (before.as_data_source("train"), *(_source(f"{name}:{v}", tmp_path) for v in ("1.0.0", "1.*.*"))):
      (row, *_) = source
      coded = row["frames"] if name == _VIDEOS else [row["cover"], row["audio"]]
      assert all(type(part) is bytes for part in coded)
  assert str(tfds.builder(f"microlens/{_VIDEOS}:2.*.*", data_dir=data_dir).version) == "2.0.0"


def test_the_version_before_is_no_longer_made(tmp_path, manual):
  builder = tfds.builder(f"microlens/{_VIDEOS}:1.*.*", data_dir=tmp_path)
  with pytest.raises(
    DataError, match=rf"{_VIDEOS}:1\.0\.0: an earlier version .* expected 2\.0\.0.* python -m tfds_micro"
  ):
    builder.download_and_prepare()


def test_mlrec_reads_what_was_prepared_in_the_version_before(tmp_path, data_dir, manual):
  for name in (_ITEMS, _VIDEOS):
    _made_before(name, tmp_path, manual)
  for read, name in ((Covers, _ITEMS), (Audio, _ITEMS), (Frames, _VIDEOS)):
    before, now = (read(f"microlens/{name}", folder) for folder in (tmp_path, data_dir))
    assert np.array_equal(before.read(before.items), now.read(now.items))
  assert not list(tmp_path.rglob("2.0.0"))


def test_what_was_prepared_in_the_version_before_is_taken_over(tmp_path, data_dir, manual):
  for name in (_ITEMS, _VIDEOS):
    before = _made_before(name, tmp_path, manual)
    builder = tfds_microlens.prepare(name, data_dir=tmp_path, manual_dir=tmp_path / "nothing")
    whole = tfds_microlens.Builder(config=name, data_dir=data_dir)
    assert _records(builder) == _records(whole)
    assert dict(builder.info.metadata.items()) == dict(whole.info.metadata.items())
    assert {path.name for path in builder.data_path.iterdir()} == {path.name for path in whole.data_path.iterdir()}
    assert builder.info.download_size == whole.info.download_size
    shutil.rmtree(before.data_path)
    tfds_microlens.prepare(name, data_dir=tmp_path, manual_dir=tmp_path / "nothing")
  assert Frames(f"microlens/{_VIDEOS}", tmp_path).items.tolist() == [2, 4]


def test_on_a_disk_without_links_files_are_copied(tmp_path, manual, monkeypatch):
  before = _made_before(_VIDEOS, tmp_path, manual)

  def refused(*paths):
    raise OSError(1, "Operation not permitted")

  monkeypatch.setattr(earlier_versions.os, "link", refused)
  assert _records(_made(_VIDEOS, tmp_path, tmp_path / "nothing")) == _records(before)


def test_what_is_damaged_a_part_or_asked_for_anew_is_not_taken_over(tmp_path, manual, caplog, capsys):
  modes = tfds.download.GenerateMode
  before = _made_before(_VIDEOS, tmp_path, manual)
  _made(_VIDEOS, tmp_path, manual, download_mode=modes.REUSE_CACHE_IF_EXISTS)
  shutil.rmtree(tmp_path / "microlens" / _VIDEOS / "2.0.0")
  (before.data_path / "items.npy").write_bytes(b"")
  assert len(_records(_made(_VIDEOS, tmp_path, manual))) == 2
  assert "items.npy: expected" in caplog.text
  part = _made_before(_VIDEOS, tmp_path / "part", manual, max_examples_per_split=1)
  assert len(_records(_made(_VIDEOS, tmp_path / "part", manual))) == len(_records(part)) + 1
  assert "Taking over" not in capsys.readouterr().out
