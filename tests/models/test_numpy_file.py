"""NumPy's `.npz` files as weights: what is read, and what is refused."""

import io
import os
import struct
import time
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


def headed(header: bytes, data: bytes = b"", version: int = 1) -> bytes:
  return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + data


PLAIN = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
  "header",
  [PLAIN, PLAIN + b" " * 900 + b"\n", PLAIN.replace(b", }", b"}"), PLAIN.replace(b"(2,)", b"(1, 2)"), PLAIN + b"\n"],
)
@pytest.mark.parametrize("version", [1, 2])
def test_headers_of_other_writers_are_read(header, version, tmp_path):
  written(tmp_path / "a.npz", [("x.npy", headed(header, np.arange(2, dtype=np.float32).tobytes(), version))])
  assert read_torch(tmp_path / "a.npz")["x"].ravel().tolist() == [0, 1]


@pytest.mark.parametrize(
  ("data", "match"),
  [
    (headed(PLAIN + b" " * 60_000), "its header has 60057 bytes and begins with"),
    (headed(PLAIN + b" " * 600_000, version=2), "its header has 600057 bytes"),
    (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + PLAIN, "its header has 4294967295 bytes"),
    (headed(PLAIN.replace(b"(2,)", b"(2,)" + b"(" * 500)), "its header has"),
    (headed(PLAIN.replace(b"(2,)", b"(" + b"-" * 500 + b"2,)")), "its header has"),
    (headed(PLAIN.replace(b"(2,)", b"(2**9**9,)")), "its header has"),
    (headed(PLAIN.replace(b"'<f4'", b"__import__('os').system('id')")), "its header has"),
    (headed(PLAIN.replace(b"'<f4'", b"[('a', '<f4')]")), "its header has"),
    (headed(PLAIN.replace(b"<f4", b"f4,f4")), "save it as float32"),
    (headed(PLAIN.replace(b"<f4", b"x")), "'x'"),
    (headed(PLAIN.replace(b"(2,)", b"(" + b"9" * 400 + b",)")), "needs 39+6 bytes"),
    (headed(PLAIN.replace(b"(2,)", b"(" + b"1, " * 100 + b")"), bytes(4)), "dimension"),
    (headed(PLAIN.replace(b"(2,)", b"(0, " + b"9" * 30 + b")")), "'x'"),
    (headed(PLAIN)[:9], "'x'"),
  ],
)
def test_headers_that_numpy_does_not_write_are_not_evaluated(data, match, tmp_path):
  written(tmp_path / "a.npz", [("x.npy", data)])
  begin = time.process_time()
  with pytest.raises(ValueError, match=match) as error:
    read_torch(tmp_path / "a.npz")
  assert time.process_time() - begin < 2
  assert "a.npz: " in str(error.value)
  assert len(str(error.value)) < 2000


def test_an_archive_in_an_archive_is_not_unpacked(tmp_path):
  written(tmp_path / "inner.npz", [("x.npy", saved(np.zeros(2**20)))])
  written(tmp_path / "a.npz", [("x.npy", (tmp_path / "inner.npz").read_bytes())])
  with pytest.raises(ValueError, match=r"'x'.*magic"):
    read_torch(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_numpy_does_not_write_is_refused(method, tmp_path):
  with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
    archive.writestr("x.npy", saved(np.zeros(2)))
  with pytest.raises(ValueError, match=f"'x'.*compressed by method {method}; expected stored or deflated"):
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
