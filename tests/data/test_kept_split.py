"""What a run keeps of its data."""

import os
import pathlib

import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import kept_split
from mlrec.data import leave_one_out
from mlrec.data import protocols
from mlrec.data import Rows
from mlrec.data import Split
from mlrec.data.id_map import IdMap
from mlrec.data.interactions import Interactions
from mlrec.data.names import Names


@pytest.fixture
def split() -> Split:
  lists = [[30, 10, 20, 10, 40], [40, 30, 20, 10, 50], [1, 2, 3]]
  names = Names.of(np.array([4, 9, 6]), ["Zoë 🎬", "", "a b"])
  return leave_one_out(Interactions(np.array([9, 4, 6]), Rows.from_lists(lists), user_names=names))


def _write(split: Split, folder: pathlib.Path) -> None:
  kept_split.write(split, folder / "data.safetensors")
  IdMap.of(split).write(folder / "ids.safetensors")


def _read(folder: pathlib.Path) -> Split:
  return kept_split.read(folder / "data.safetensors", folder / "ids.safetensors")


def test_a_split_is_read_as_it_was_written(split, tmp_path):
  _write(split, tmp_path)
  read = _read(tmp_path)
  assert read == split
  assert read.fingerprint == split.fingerprint
  assert read.num_skipped == 1
  assert read.item_names is None
  assert read.user_names.texts(read.users) == ["", "Zoë 🎬"]


@pytest.mark.parametrize("protocol", ["none", "users:0.4,0.3", "time:0.6,0.2"])
def test_how_it_is_split_is_kept_too(protocol, tmp_path):
  rows = Rows.from_lists([np.arange(1, 9) + user for user in range(40)])
  log = Interactions(np.arange(40) + 5, rows, timestamps=np.tile(np.arange(8) * 10, 40) + np.repeat(np.arange(40), 8))
  split = protocols.parse(protocol).split(log, max_length=3, min_length=2, train_windows=2)
  _write(split, tmp_path)
  read = _read(tmp_path)
  assert read == split
  assert (read.protocol, read.train_windows, read.fingerprint) == (protocol, 2, split.fingerprint)


@pytest.mark.parametrize(
  "damage",
  [
    lambda path: path.write_bytes(path.read_bytes()[:-3]),
    lambda path: path.write_bytes(b"\xff" * 64),
    lambda path: path.unlink(),
    lambda path: path.unlink() or os.mkfifo(path),
    lambda path: path.write_bytes(path.read_bytes().replace("Zoë".encode(), "Zoé".encode())),
  ],
)
def test_what_is_damaged_is_refused_by_name(damage, split, tmp_path):
  _write(split, tmp_path)
  damage(tmp_path / "data.safetensors")
  with pytest.raises(DataError, match=r"data\.safetensors: what the run kept of its data cannot be read"):
    _read(tmp_path)


def test_ids_of_another_split_are_refused_by_name(split, tmp_path):
  _write(split, tmp_path)
  IdMap(split.item_ids + 1, split.users).write(tmp_path / "ids.safetensors")
  with pytest.raises(DataError, match=r"ids\.safetensors: these are not the ids that data\.saf"):
    _read(tmp_path)


def test_names_are_found_by_id_and_ids_by_name():
  names = Names.of(np.array([7, 2, 2**40]), ["x", "ü 🎬", ""])
  assert names.ids.tolist() == [2, 7, 2**40]
  assert names.texts(np.array([2**40, 2, 7, 2])) == ["", "ü 🎬", "x", "ü 🎬"]
  assert names.id("ü 🎬") == 2
  assert "" in names
  assert "y" not in names
  assert names.only(np.array([7, 2, 7])).texts(np.array([2, 7])) == ["ü 🎬", "x"]


@pytest.mark.parametrize("missing", [1, 3, 2**41])
def test_an_id_without_a_name_is_no_other(missing):
  with pytest.raises(KeyError, match=str(missing)):
    Names.of(np.array([7, 2]), ["x", "y"]).texts(np.array([7, missing]))


def test_names_of_arrays_that_do_not_belong_together_are_refused():
  names = Names.of(np.array([7, 2]), ["x", "yy"])
  arrays = names.arrays("n/")
  assert Names.from_arrays(arrays, "n/").texts(np.array([7])) == ["x"]
  assert Names.from_arrays(arrays, "m/") is None
  for wrong in ({"n/ids": np.array([7, 2])}, {"n/ends": np.array([2, 9])}, {"n/text": arrays["n/text"][:1]}):
    with pytest.raises(DataError, match="names of ids"):
      Names.from_arrays(arrays | wrong, "n/")
