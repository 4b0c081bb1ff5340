"""The published 50K, where `MLREC_REAL_DATA` names the folder that holds `microlens-50k/`."""

import os
import pathlib
import time

import numpy as np
import pytest

from mlrec.data import leave_one_out
from mlrec.data import read_pairs
import tfds_microlens

pytestmark = pytest.mark.skipif(not os.environ.get("MLREC_REAL_DATA"), reason="MLREC_REAL_DATA is not set")


@pytest.fixture(scope="module")
def folder():
  return pathlib.Path(os.environ["MLREC_REAL_DATA"]) / "microlens-50k"


@pytest.fixture(scope="module")
def builder(folder, tmp_path_factory):
  return tfds_microlens.prepare("50k-sequences", data_dir=tmp_path_factory.mktemp("data"), manual_dir=folder)


def test_sequences_have_the_known_sizes(builder):
  interactions = tfds_microlens.read_interactions(builder)
  lengths = interactions.histories.lengths
  assert len(interactions.users) == 50_000
  assert interactions.num_interactions == 359_708
  assert len(np.unique(interactions.lines.values)) == 19_220
  assert (lengths.min(), np.median(lengths), lengths.max()) == (5, 6, 218)
  split = leave_one_out(interactions)
  assert split.num_items == 19_099
  assert split.train_counts.sum() == 239_511
  cold = [int((split.train_counts[split.targets(name)] == 0).sum()) for name in ("valid", "test")]
  assert cold == [877, 2_261]


def test_the_prepared_data_and_the_file_give_the_same_split(builder, folder):
  from_file = read_pairs(folder / "MicroLens-50k_pairs.tsv")
  started = time.monotonic()
  from_tfds = tfds_microlens.read_interactions(builder)
  print(f"read in {time.monotonic() - started:.2f} s")
  assert from_tfds.lines == from_file.lines
  assert leave_one_out(from_tfds) == leave_one_out(from_file)


def test_items_have_a_title_each(folder, tmp_path, monkeypatch):
  monkeypatch.setenv("MICROLENS_MIRROR", "http://127.0.0.1:9")
  built = tfds_microlens.prepare("50k-items", data_dir=tmp_path, manual_dir=folder)
  rows = list(built.as_data_source("train"))
  assert len(rows) == 19_220
  assert all(row["title"] for row in rows)
  assert sum(int(row["count"]) for row in rows) == 359_708
