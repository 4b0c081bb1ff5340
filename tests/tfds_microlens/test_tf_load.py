"""`tfds.load` on the ArrayRecord files, and what TFDS shows of them, where TensorFlow is installed."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import file_adapters

from support import sounds
import tfds_microlens
from tfds_microlens import tf_reader

tf = pytest.importorskip("tensorflow")
_SEQUENCES, _ITEMS, _VIDEOS = (
  "microlens/demo-sequences", "microlens/100k-items-cover8-audio1s", "microlens/demo-videos-2x32",
)  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  for kind in ("sequences", "items", "videos-2x32"):
    tfds_microlens.prepare(f"demo-{kind}", data_dir=folder)
  tfds_microlens.prepare("100k-items-coverpath", data_dir=folder, manual_dir=_manual(folder / "manual"))
  tfds_microlens.prepare("100k-items-cover8-audio1s", data_dir=folder, manual_dir=folder / "manual")
  return folder


def _manual(folder):
  """The made-up 100k, with a cover and a sound of item 2."""
  shutil.copytree(pathlib.Path(tfds_microlens.__file__).with_name("dummy_data"), folder)
  for kind in ("covers", "audio"):
    (folder / f"MicroLens-100k_{kind}").mkdir()
  Image.new("RGB", (9, 9)).save(folder / "MicroLens-100k_covers" / "2.png")
  sounds.write_wav(folder / "MicroLens-100k_audio" / "2.wav", sounds.tone(0.2))
  return folder


@pytest.mark.parametrize("split", ["train", "validation[:10%]", "test[1500:]", "train[10%:20%]+test[:3]"])
def test_it_gives_what_the_data_source_gives(data_dir, split):
  source = tfds.data_source("microlens/demo-sequences", split=split, data_dir=data_dir)
  dataset = tfds.load("microlens/demo-sequences", split=split, data_dir=data_dir)
  assert len(dataset) == len(source)
  for example, expected in zip(tfds.as_numpy(dataset), source):
    for key, value in expected.items():
      assert np.array_equal(example[key], value)
      assert np.asarray(example[key]).dtype == np.int64


def test_specs_are_int64_scalars_vectors_and_strings(data_dir):
  sequences = tfds.load("microlens/demo-sequences", split="train", data_dir=data_dir).element_spec
  assert sequences["items"] == tf.TensorSpec([None], tf.int64)
  assert sequences["target"] == tf.TensorSpec([], tf.int64)
  assert tfds.load("microlens/demo-items", split="train", data_dir=data_dir).element_spec["title"].dtype == tf.string


@pytest.mark.parametrize("config", ["100k-items-cover8-audio1s", "100k-items-coverpath"])
def test_media_tags_and_comments_are_those_of_the_data_source(data_dir, config):
  source = tfds.data_source(f"microlens/{config}", split="train", data_dir=data_dir)
  rows = list(tfds.as_numpy(tfds.load(f"microlens/{config}", split="train", data_dir=data_dir)))
  assert len(rows) == len(source) == 10
  for row, expected in zip(rows, source):
    assert set(row) == set(expected)
    for key, value in expected.items():
      assert np.array_equal(row[key], value), key
  assert [len(row["comments"]) for row in rows if row["item"] in (2, 3)] == [3, 0]


def test_batches_are_padded_or_ragged(data_dir):
  load = {"name": "microlens/demo-sequences", "split": "test", "data_dir": data_dir}
  padded = next(iter(tfds.load(**load, batch_size=8)))
  ragged = next(iter(tfds.load(**load).ragged_batch(8)))
  assert np.array_equal(ragged["items"].to_tensor(), padded["items"])
  assert tfds.load(**load, batch_size=-1)["target"].shape == (2000,)


def test_shuffling_partial_decoding_and_ids(data_dir):
  config = tfds.ReadConfig(add_tfds_id=True, shuffle_seed=0)
  dataset = tfds.load(
    "microlens/demo-sequences", split="train", data_dir=data_dir, shuffle_files=True, read_config=config,
    decoders=tfds.decode.PartialDecoding({"user": True}),
  )  # fmt: skip
  rows = list(tfds.as_numpy(dataset))
  assert len({row["tfds_id"] for row in rows}) == 2000
  assert sorted(row["user"] for row in rows) == list(range(1, 2001))


def _load(name, data_dir, **options):
  return tfds.load(name, split=options.pop("split", "train"), data_dir=data_dir, **options)


def _same(dataset, source):
  rows = list(tfds.as_numpy(dataset))
  assert len(rows) == len(source)
  for row, expected in zip(rows, source):
    assert set(row) == set(expected)
    for key, value in expected.items():
      assert np.array_equal(row[key], value), key


def test_frames_are_the_pixels_of_the_data_source(data_dir):
  dataset = _load(_VIDEOS, data_dir, split="train[:9]")
  assert dataset.element_spec["frames"] == tf.TensorSpec([2, 32, 32, 3], tf.uint8)
  _same(dataset, tfds.data_source(_VIDEOS, split="train[:9]", data_dir=data_dir))
  assert _load(_VIDEOS, data_dir, batch_size=3).element_spec["frames"].shape.as_list() == [None, 2, 32, 32, 3]


@pytest.mark.parametrize(("name", "media"), [(_ITEMS, ["audio", "cover"]), (_VIDEOS, ["frames"])])
def test_media_may_be_had_undecoded_or_alone(data_dir, name, media):
  decoders = dict.fromkeys(media, tfds.decode.SkipDecoding())
  undecoded = _load(name, data_dir, split="train[:10]", decoders=decoders)
  assert all(undecoded.element_spec[key].dtype == tf.string for key in media)
  source = tfds.data_source(name, split="train[:10]", data_dir=data_dir, decoders=decoders)
  _same(undecoded, source)
  alone = tfds.decode.PartialDecoding(dict.fromkeys(media, True))
  for row, expected in zip(_load(name, data_dir, decoders=alone), _load(name, data_dir)):
    assert sorted(row) == media
    assert all(np.array_equal(row[key], expected[key]) for key in media)


def test_sequences_are_supervised(data_dir):
  pairs = _load(_SEQUENCES, data_dir, split="test", as_supervised=True)
  for (items, target), row in zip(pairs.take(50), _load(_SEQUENCES, data_dir, split="test")):
    assert np.array_equal(items, row["items"])
    assert target == row["target"] > 0
  with pytest.raises(ValueError, match="does not support a supervised"):
    _load(_VIDEOS, data_dir, as_supervised=True)


@pytest.mark.parametrize("version", ["*.*.*", "{major}.*.*", "{major}.0.0"])
@pytest.mark.parametrize(("name", "major"), [(_SEQUENCES, 1), ("microlens/demo-items", 1), (_ITEMS, 2), (_VIDEOS, 2)])
def test_a_version_may_be_pinned_or_wild(data_dir, name, major, version):
  pinned = f"{name}:{version.format(major=major)}"
  for split in ("train", "train[3:7]"):
    _same(_load(pinned, data_dir, split=split), tfds.data_source(name, split=split, data_dir=data_dir))


def test_a_directory_is_read_in_order_whatever_its_shards(data_dir, tmp_path):
  sharded = tfds_microlens.Builder(config="demo-sequences", data_dir=tmp_path)
  sharded.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
  for folder in (sharded.data_dir, tfds.builder(_SEQUENCES, data_dir=data_dir).data_dir):
    dataset = tfds.builder_from_directory(folder).as_dataset(split="train[20%:90%]", as_supervised=False)
    assert len(dataset) == 1400
    _same(dataset, tfds.data_source(_SEQUENCES, split="train[20%:90%]", data_dir=data_dir))
  config = tfds.ReadConfig(add_tfds_id=True)
  (row, *_) = tfds.builder_from_directory(sharded.data_dir).as_dataset(split="test[-1:]", read_config=config)
  assert row["tfds_id"].numpy() == b"microlens-test.array_record-00002-of-00003__665"


@pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ("apache_beam", "mlcroissant"))), reason="TFDS's command does not start"
)
def test_the_tfds_command_builds_in_the_folder_of_the_builder(tmp_path):
  command = [
    pathlib.Path(sys.executable).with_name("tfds"),
    "build",
    "--config=demo-items-cover16",
    "--data_dir",
    tmp_path,
  ]
  folder = pathlib.Path(tfds_microlens.__file__).parent
  done = subprocess.run([*command, "--data_dir", tmp_path], cwd=folder, capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr[-2000:]
  (row, *_) = tfds.data_source("microlens/demo-items-cover16", split="train", data_dir=tmp_path)
  assert row["cover"].shape == (16, 16, 3)


def test_a_reader_of_array_records_that_tfds_has_itself_is_kept(monkeypatch):
  class Theirs(file_adapters.ArrayRecordFileAdapter):
    SUPPORTS_TF_DATA = True

  monkeypatch.setitem(file_adapters.ADAPTER_FOR_FORMAT, tfds.core.FileFormat.ARRAY_RECORD, Theirs)
  tf_reader.register()
  assert file_adapters.ADAPTER_FOR_FORMAT[tfds.core.FileFormat.ARRAY_RECORD] is Theirs


@pytest.fixture
def plots(monkeypatch):
  """Matplotlib's figures, without a window."""
  pyplot = pytest.importorskip("matplotlib.pyplot")
  pyplot.switch_backend("Agg")
  yield pyplot
  pyplot.close("all")


def _shown(figure):
  return [axis.images[0].get_array() for axis in figure.axes]


def test_covers_and_frames_are_shown(data_dir, plots):
  dataset, info = _load(_ITEMS, data_dir, with_info=True)
  shown = _shown(tfds.show_examples(dataset, info))
  assert len(shown) == 9
  for picture, row in zip(shown, tfds.as_numpy(dataset)):
    assert np.array_equal(picture, row["cover"])
  dataset, info = _load(_VIDEOS, data_dir, with_info=True)
  strips = dataset.map(lambda row: row | {"frames": tf.concat(tf.unstack(row["frames"]), axis=1)})
  shown = _shown(tfds.show_examples(strips, info, rows=2, cols=1))
  assert [picture.shape for picture in shown] == [(32, 64, 3)] * 2
  with pytest.raises(ValueError, match="does not support batched examples or video"):
    tfds.show_examples(dataset, info)


@pytest.mark.parametrize("name", [_SEQUENCES, "microlens/demo-items"])
def test_what_has_no_pictures_cannot_be_shown_and_that_is_said(data_dir, name):
  dataset, info = _load(name, data_dir, with_info=True)
  with pytest.raises(ValueError, match="Visualisation not supported"):
    tfds.show_examples(dataset, info)


@pytest.mark.parametrize(
  ("name", "tags"),
  [(_ITEMS, {"img": 3, "audio": 1}), (_VIDEOS, {"img": 3, "audio": 0}), (_SEQUENCES, {"img": 0, "audio": 0})],
)
def test_a_data_frame_shows_pictures_and_plays_sound(data_dir, name, tags, monkeypatch):
  pytest.importorskip("pandas")
  monkeypatch.setenv("PATH", "")  # no ffmpeg, with which TFDS makes a video of frames
  dataset, info = _load(name, data_dir, with_info=True)
  frame = tfds.as_dataframe(dataset.take(3), info)
  html = frame._repr_html_()
  assert {tag: html.count(f"<{tag} ") for tag in tags} == tags
  assert set(frame.columns) == set(info.features)
