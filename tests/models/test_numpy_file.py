"""NumPy's `.npz` files as weights: what is read, and what is refused."""

import io
import os
import zipfile

import ml_dtypes
import numpy as np
import pytest

from mlrec.models.convert import read_torch

ARRAYS = {
  "params/a/w": np.arange(6, dtype=np.float32).reshape(2, 3),
  "params/a/b": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(3, 2)),
  "params/n": np.array(3),
  "params/none": np.zeros((0, 4)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["a.npz", "a.bin"])
def test_arrays_come_back_under_their_names(save, name, tmp_path):
  with (tmp_path / name).open("wb") as file:
    save(file, **ARRAYS)
  read = read_torch(tmp_path / name)
  assert read.keys() == ARRAYS.keys()
  for key, array in ARRAYS.items():
    np.testing.assert_array_equal(read[key], array, strict=True)
    assert not read[key].flags.writeable


def test_numbers_of_another_byte_order_become_this_machines(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.arange(4, dtype=">f4"), y=np.arange(4, dtype="<f4"))
  read = read_torch(tmp_path / "a.npz")
  for array in read.values():
    np.testing.assert_array_equal(array, np.arange(4, dtype=np.float32), strict=True)


class Harm:
  def __reduce__(self):
    return os.mkdir, ("harm",)


def test_pickled_objects_are_refused_unread(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  np.savez(tmp_path / "a.npz", x=np.zeros(2), y=np.array([Harm()], object))
  with pytest.raises(ValueError, match=r"a\.npz: its entry 'y' .*dtype is 'object'"):
    read_torch(tmp_path / "a.npz")
  assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
  ("array", "match"),
  [(np.zeros(2, ml_dtypes.bfloat16), r"'\|V2'; save it as float32"), (np.array(["text"]), "<U4")],
  ids=["bfloat16", "text"],
)
def test_what_is_no_number_is_named(array, match, tmp_path):
  np.savez(tmp_path / "a.npz", x=array)
  with pytest.raises(ValueError, match=f"'x'.*{match}"):
    read_torch(tmp_path / "a.npz")


def written(path, entries) -> None:
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in entries:
      archive.writestr(name, data)


def saved(array) -> bytes:
  file = io.BytesIO()
  np.save(file, array)
  return file.getvalue()


@pytest.mark.parametrize(
  ("data", "match"),
  [
    (saved(np.zeros(9))[:-1], "needs 72 bytes, and it has 71"),
    (saved(np.zeros(9)) + b"1", "needs 72 bytes, and it has 73"),
    (saved(np.zeros(9)).replace(b"(9,), }      ", b"(9999999999,)}"), "needs 79999999992 bytes"),
    (saved(np.zeros(9)).replace(b"(9,)", b"(-1,)"), "needs -8 bytes"),
    (b"no array", "magic"),
    (b"\x93NUMPY\x07\x00", r"version \(7, 0\)"),
  ],
  ids=["short", "long", "huge", "negative", "no array", "version"],
)
def test_headers_that_do_not_fit_are_refused(data, match, tmp_path):
  written(tmp_path / "a.npz", [("x.npy", data)])
  with pytest.raises(ValueError, match=f"'x'.*{match}"):
    read_torch(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(tmp_path):
  written(tmp_path / "a.npz", [("x.npy", saved(np.zeros(2))), ("x.npy", saved(np.ones(2)))])
  with pytest.raises(ValueError, match="'x' twice"):
    read_torch(tmp_path / "a.npz")


def test_arrays_far_larger_than_the_file_are_refused(tmp_path):
  np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**24))
  with pytest.raises(ValueError, match="its arrays have 134217856 bytes, far more than the file"):
    read_torch(tmp_path / "a.npz")


def test_an_archive_of_other_files_is_no_npz(tmp_path):
  written(tmp_path / "a.npz", [("x.npy", saved(np.zeros(2))), ("notes.txt", b"")])
  with pytest.raises(ValueError, match=r"expected one, as torch\.save writes it"):
    read_torch(tmp_path / "a.npz")


def test_a_key_is_refused(tmp_path):
  np.savez(tmp_path / "a.npz", x=np.zeros(2))
  with pytest.raises(ValueError, match=r"key = 'model': an \.npz file has arrays only"):
    read_torch(tmp_path / "a.npz", key="model")


def test_a_file_cut_off_or_changed_anywhere_is_refused_or_the_same(tmp_path):
  np.savez_compressed(tmp_path / "whole.npz", x=np.random.default_rng(0).normal(size=20))
  data = (tmp_path / "whole.npz").read_bytes()
  path = tmp_path / "a.npz"
  for length in range(0, len(data), 7):
    path.write_bytes(data[:length])
    with pytest.raises(ValueError, match=r"a\.npz: "):
      read_torch(path)
  rng, wanted = np.random.default_rng(1), read_torch(tmp_path / "whole.npz")["x"]
  refused = 0
  for _ in range(200):
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(changed))
    try:
      read = read_torch(path)
    except ValueError:
      refused += 1
      continue
    # What no checksum covers, such as a date or a name.
    assert all(np.array_equal(array, wanted) for array in read.values())
  assert refused > 100
