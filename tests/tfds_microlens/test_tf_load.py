"""`tfds.load` on the ArrayRecord files, where TensorFlow is installed."""

import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from support import sounds
import tfds_microlens

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  for kind in ("sequences", "items"):
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
      assert list(row[key]) == list(value) if key in ("tags", "comments") else row[key] == value, key
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
