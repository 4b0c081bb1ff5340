"""`tfds.load` on the ArrayRecord files, where TensorFlow is installed."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

import tfds_microlens

tf = pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  for kind in ("sequences", "items"):
    tfds_microlens.prepare(f"demo-{kind}", data_dir=folder)
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
