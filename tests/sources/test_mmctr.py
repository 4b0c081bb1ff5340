"""Folders of the multimodal CTR challenge's form, read and refused."""

import re

import numpy as np
import pyarrow as pa
import pytest

from mlrec.content import vectors
from mlrec.data import DataError
from mlrec.data import impression_files
from mlrec.data import protocols
from mlrec.sources import load_split
from mlrec.sources import mmctr
from support import impression_folders as folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return folders.write_folder(tmp_path_factory.mktemp("mmctr") / "MicroLens_1M_x1")


@pytest.fixture
def own(tmp_path):
  return folders.write_folder(tmp_path / "own", train=100, valid=100)


def test_impressions_are_those_of_the_files(folder):
  split = mmctr.read(str(folder), max_length=5)
  assert split.num_items == folders.ITEMS
  for seed, name in enumerate(("train", "valid", "test")):
    stated = folders.impression_columns(600 if name == "train" else 200, seed=seed)
    found = split.impressions.examples[name]
    assert split.users[found.users].tolist() == stated["user_id"]
    assert split.item_ids[found.targets].tolist() == stated["item_id"]
    assert found.labels.tolist() == stated["label"]
    histories = found.histories(np.arange(len(found)), 5)
    wanted = [[item for item in row if item][-5:] for row in stated["item_seq"]]
    assert [split.item_ids[row].tolist() for row in histories] == wanted
  assert mmctr.read(str(folder), max_length=5).impressions.fingerprint == split.impressions.fingerprint
  assert mmctr.read(str(folder), max_length=4).impressions.fingerprint != split.impressions.fingerprint


def test_tags_and_levels_are_fields_of_items(folder):
  split = mmctr.read(str(folder), max_length=5)
  stated = folders.item_columns()
  np.testing.assert_array_equal(split.item_fields["item_tags"], stated["item_tags"])
  items = np.arange(1, folders.ITEMS + 1)
  np.testing.assert_array_equal(split.item_fields["likes_level"], [0, *(1 + items % 10)])
  np.testing.assert_array_equal(split.item_fields["views_level"], [0, *(1 + items % 7)])


def test_users_rows_are_their_last_training_histories(folder):
  split = mmctr.read(str(folder), max_length=5)
  stated = folders.impression_columns(600, seed=0)
  last = {user: [item for item in row if item][-5:] for user, row in zip(stated["user_id"], stated["item_seq"])}
  assert {int(user): row.tolist() for user, row in zip(split.users, split.rows) if len(row)} == last


def test_vectors_are_those_of_the_table_of_items(folder):
  split = mmctr.read(str(folder), max_length=5)
  found = vectors.read(impression_files.vectors_of(str(folder)), split.item_ids)
  np.testing.assert_array_equal(found.vectors, np.float32(folders.item_columns()["item_emb_d128"]))
  assert not len(found.missing)


def test_a_test_file_may_have_no_labels_and_lists_any_form(own, caplog):
  columns = folders.impression_columns(50, seed=9, labels=False)
  folders.write(own / "test.parquet", columns, item_seq=pa.large_list(pa.int32()), user_id=pa.int32())
  split = mmctr.read(str(own), max_length=5)
  assert split.impressions.examples["test"].labels is None
  assert "has no column 'label': its 50 impressions are not judged" in caplog.text
  (own / "test.parquet").unlink()
  assert not len(mmctr.read(str(own), max_length=5).impressions.examples["test"])
  assert "nothing is tested" in caplog.text


def test_levels_that_differ_are_told(own, caplog):
  columns = folders.impression_columns(100, seed=1)
  columns["likes_level"] = [9 if level == 2 else level for level in columns["likes_level"]]
  folders.write(own / "valid.parquet", columns)
  mmctr.read(str(own), max_length=5)
  assert re.search(r"\d+ of 300 impressions state another likes_level than is known of their item", caplog.text)


def _changed(number=100, seed=0, **changes):
  columns = folders.impression_columns(number, seed=seed)
  for name, (row, value) in changes.items():
    columns[name][row] = value
  return columns


@pytest.mark.parametrize(
  ("file", "columns", "told"),
  [
    ("train", _changed(label=(70, 2)), "train.parquet: row 70, label: 2 must be 0 or 1"),
    (
      "valid",
      _changed(item_id=(3, 41)),
      r"row 3, item_id: item 41 is not among the 40 items of item_info.parquet, 1 to 40",
    ),
    ("valid", _changed(item_id=(4, 0)), "row 4, item_id: item 0 is not among"),
    ("train", _changed(item_seq=(99, [0, 7, -3])), "row 99, item_seq: item -3 is not among"),
    ("train", _changed(user_id=(5, None)), "row 5, user_id: there is no value"),
    ("train", _changed(item_seq=(6, [1, None])), "row 6, item_seq: a value is missing"),
    ("train", _changed(views_level=(8, -1)), "row 8, views_level: -1 must be at least 0"),
    ("train", {**_changed(), "user_id": [f"u{n}" for n in range(100)]}, "'user_id' must hold integers, not string"),
    ("train", {**_changed(), "item_seq": ["1 2"] * 100}, "'item_seq' must hold lists of integers, not string"),
    ("train", {**_changed(), "label": [0.5] * 100}, "row 0, label: 0.5 must be 0 or 1"),
    ("train", {**_changed(), "likes_levl": [1] * 100}, "unknown column 'likes_levl'; did you mean 'likes_level'"),
    ("valid", folders.impression_columns(100, seed=1, labels=False), "valid.parquet: there is no column 'label' among"),
    (
      "item_info",
      {**folders.item_columns(), "item_id": [0, 1, 1, *range(3, 41)]},
      "row 2, item_id: 1 is in an earlier row",
    ),
    ("item_info", {"item_id": [0], "item_tags": [[0]]}, "item_info.parquet: there is no column 'item_emb_d128'"),
  ],
)
def test_what_is_not_possible_is_told_by_file_row_and_value(file, columns, told, own):
  folders.write(own / f"{file}.parquet", columns)
  with pytest.raises(DataError, match=re.escape(told)):
    mmctr.read(str(own), max_length=5)


def test_files_that_are_not_there_or_no_parquet_are_told(own):
  (own / "valid.parquet").write_text("user_id,item_id")
  with pytest.raises(DataError, match=r"valid\.parquet: it cannot be read"):
    mmctr.read(str(own), max_length=5)
  (own / "item_info.parquet").rename(own / "item_infos.parquet")
  with pytest.raises(DataError, match=r"item_info\.parquet: no such file; did you mean .*item_infos\.parquet'"):
    mmctr.read(str(own), max_length=5)


def test_a_folder_of_impressions_is_a_source_that_is_split_already(folder):
  options = {"max_length": 5, "min_length": 5, "in_memory": 1 << 20}
  split = load_split(str(folder), "", protocols.parse("leave_one_out"), **options)
  assert split.impressions is not None
  with pytest.raises(DataError, match=r"it holds no data itself; did you mean '.*MicroLens_1M_x1'\?"):
    load_split(str(folder.parent), "", protocols.parse("leave_one_out"), **options)
  with pytest.raises(DataError, match=r"config\.data\.split = 'time:0\.8,0\.1': .* holds impressions"):
    load_split(str(folder), "", protocols.parse("time:0.8,0.1"), **options)
