import os

import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data.id_map import IdMap
from mlrec.data.id_map import matched
from mlrec.data.interactions import Interactions


@pytest.fixture
def ids() -> IdMap:
  return IdMap(np.array([0, 7, 3, 2**40]), np.array([11, 5]))


def test_it_holds_what_dense_ids_stand_for():
  lists = [[30, 10, 20, 10, 40], [40, 30, 20, 10, 50], [1, 2, 3]]
  split = leave_one_out(Interactions(np.array([9, 4, 6]), Rows.from_lists(lists)))
  ids = IdMap.of(split)
  assert ids.items.tolist() == split.item_ids.tolist()
  assert ids.items[0] == 0
  assert ids.users.tolist() == [9, 4], "of those that have a row"
  assert ids.items.dtype == ids.users.dtype == np.int64


def test_a_file_gives_back_what_was_written(ids, tmp_path):
  ids.write(tmp_path / "ids.safetensors")
  read = IdMap.read(tmp_path / "ids.safetensors", digest=ids.digest)
  assert [part.tolist() for part in read] == [part.tolist() for part in ids]
  assert [file.name for file in tmp_path.iterdir()] == ["ids.safetensors"]


def test_digests_tell_ids_their_order_and_their_sides_apart(ids):
  others = [
    IdMap(ids.items[[0, 2, 1, 3]], ids.users), IdMap(ids.items, ids.users[::-1]), IdMap(ids.items, ids.users[:1]),
    IdMap(ids.users, ids.items), IdMap(np.append(ids.items, ids.users[:1]), ids.users[1:]),
  ]  # fmt: skip
  digests = {ids.digest, *(other.digest for other in others)}
  assert len(digests) == 6
  assert all(len(digest) == 16 for digest in digests)
  assert IdMap(ids.items.astype(">i8"), ids.users.copy()).digest == ids.digest


def test_ids_of_another_run_are_refused(ids, tmp_path):
  path = tmp_path / "ids.safetensors"
  ids.write(path)
  with pytest.raises(DataError, match=r"ids\.safetensors: these are not the ids that the run was trained with"):
    IdMap.read(path, digest="0" * 16)


@pytest.mark.parametrize(
  "damage",
  [
    lambda path: path.write_bytes(path.read_bytes()[:-3]),
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff" * 64),
    lambda path: path.unlink(),
    lambda path: path.unlink() or os.mkfifo(path),
    lambda path: path.unlink() or path.mkdir(),
  ],
)
def test_a_damaged_file_is_refused(damage, ids, tmp_path):
  path = tmp_path / "ids.safetensors"
  ids.write(path)
  damage(path)
  with pytest.raises(DataError, match=r"ids\.safetensors: the run's ids cannot be read"):
    IdMap.read(path, digest=ids.digest)


def test_a_flipped_bit_is_refused_where_the_digest_is_known(ids, tmp_path):
  path = tmp_path / "ids.safetensors"
  ids.write(path)
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)
  with pytest.raises(DataError, match="their digest differs"):
    IdMap.read(path, digest=ids.digest)


def test_a_file_without_users_is_refused(tmp_path):
  from safetensors.numpy import save_file

  save_file({"items": np.arange(3)}, tmp_path / "a.safetensors")
  with pytest.raises(DataError, match=r"cannot be read.*users"):
    IdMap.read(tmp_path / "a.safetensors")


def test_ids_that_both_have_are_matched():
  ours, theirs = np.array([0, 30, 10, 20]), np.array([20, 0, 50, 30, 40])
  first, second = matched(ours, theirs)
  assert sorted(ours[first].tolist()) == [0, 20, 30]
  np.testing.assert_array_equal(ours[first], theirs[second])
  assert [len(part) for part in matched(ours, np.array([7]))] == [0, 0]
