"""Files made to cost far more than their size: read or refused in time and memory that are proportional to it."""

import copy
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from mlrec.models.convert import read_torch
from support import torch_files as tf

ARRAY = np.arange(6, dtype=np.float32)
# Squared, this many steps take more than `SECONDS`; once, far less.
MANY = 20_000
SECONDS = 4
W = tf.mapping({"w": tf.whole("0", ARRAY)})
POP, PUT_0, PUT_1, GET_0, GET_1 = b"0", b"q\x00", b"q\x01", b"h\x00", b"h\x01"


def kept(first: bytes, second: bytes = tf.NONE) -> bytes:
  """Puts two values into places 0 and 1 of the memo."""
  return first + PUT_0 + POP + second + PUT_1 + POP


def repeated(operations: bytes) -> bytes:
  """What leaves a value on the stack, many times, and then another in its place."""
  return (operations + POP) * MANY + tf.NONE


def set_repeatedly(key: bytes) -> bytes:
  return b"}" + (key + tf.NONE + b"s") * MANY


def in_8_bytes(code: bytes) -> bytes:
  return code + struct.pack("<Q", 2**60)


NUMBERS = tf.numbers(range(MANY))
PAIRS = b"](" + b"".join(tf.text(f"{i}") + tf.NONE + b"\x86" for i in range(MANY)) + b"e"
DICT = b"}(" + b"".join(tf.text(f"{i}") + tf.NONE for i in range(MANY)) + b"u"
LONG_TEXT = tf.text("a" * 100_000)
LONG_NUMBER = b"\x8b" + struct.pack("<i", 200_000) + b"\x7f" * 200_000
ORDERED = tf.name("collections", "OrderedDict")
REBUILD = tf.name("torch._utils", "_rebuild_tensor_v2")
OBJECT = tf.name("some.package", "Class") + tf.EMPTY + tf.NEWOBJ
CALL = GET_1 + GET_0 + tf.REDUCE
CALL_OF_ONE = GET_1 + GET_0 + b"\x85" + tf.REDUCE
TYPED = tf.name("torch._tensor", "_rebuild_from_type_v2")
TENSOR = (
  GET_1 + b"(" + tf.storage("0", ARRAY) + tf.number(0) + GET_0 + GET_0 + tf.FALSE + tf.NONE + b"t" + tf.REDUCE
)  # fmt: skip
# Each leaves one value; with what is said of a file that is refused.
COSTLY = {
  "ordered dicts of one list": (kept(PAIRS, ORDERED) + repeated(CALL_OF_ONE), "of one list"),
  "sizes of one tuple": (kept(NUMBERS, tf.name("torch", "Size")) + repeated(CALL_OF_ONE), "at most 64"),
  "shapes of one tuple": (kept(NUMBERS, REBUILD) + repeated(TENSOR), "at most 64"),
  "calls with one tuple": (kept(NUMBERS, tf.name("some.package", "f")) + repeated(CALL), None),
  "calls of ours with one tuple": (kept(NUMBERS, ORDERED) + repeated(CALL), None),
  "objects of one tuple": (kept(NUMBERS, tf.name("some.package", "C")) + repeated(GET_1 + GET_0 + tf.NEWOBJ), None),
  "states of one dict": (kept(DICT) + OBJECT + (GET_0 + tf.BUILD) * MANY, None),
  "storages of one tuple": (kept(NUMBERS) + repeated(GET_0 + b"Q"), "no storage"),
  "storages of one long key": (
    kept(tf.group(tf.text("storage"), tf.name("torch", "FloatStorage"), LONG_TEXT, tf.NONE, tf.number(6)))
    + repeated(GET_0 + b"Q"), "text of at most 500",
  ),
  "names of one long text": (kept(LONG_TEXT, tf.text("x")) + repeated(GET_0 + GET_1 + b"\x93"), "of 100001 characters"),
  "names of one module": (
    kept(tf.text("m" * 400)) + b"".join(GET_0 + tf.text(f"{i}") + b"\x93" + POP for i in range(MANY)) + tf.NONE, None,
  ),
  "one tuple as a key": (kept(NUMBERS) + set_repeatedly(GET_0), None),
  "one number of many digits as a key": (kept(LONG_NUMBER) + set_repeatedly(GET_0), None),
  "two equal texts as keys": (kept(LONG_TEXT, LONG_TEXT) + set_repeatedly(GET_0) + (GET_1 + b"Ns") * MANY, None),
  "keys of equal hashes": (b"}(" + b"".join(tf.number(i * (2**61 - 1)) + tf.NONE for i in range(MANY)) + b"u", None),
  "one tuple in a set": (kept(NUMBERS) + b"\x8f(" + GET_0 * MANY + b"\x90", None),
  "one tuple in a frozen set": (kept(NUMBERS) + b"(" + GET_0 * MANY + b"\x91", None),
  "tensors within tensors": (
    kept(TYPED, tf.name("torch", "Tensor")) + GET_0 + (b"(" + GET_0 + GET_1) * MANY + tf.EMPTY
    + (tf.NONE + b"t") * MANY + tf.REDUCE, None,
  ),
  "nested lists": (b"]" * MANY + b"a" * (MANY - 1), None),
  "nested tuples": (tf.EMPTY + b"\x85" * MANY, None),
  "nested dicts": ((b"}" + tf.text("k")) * MANY + tf.NONE + b"s" * MANY, None),
  "a place of the memo": (tf.NONE + b"r\xff\xff\xff\x7f", "place 2147483647 of the memo"),
  "a place of the memo in digits": (tf.NONE + b"p" + b"9" * 20 + b"\n", "of the memo"),
  "a place of the memo in many digits": (tf.NONE + b"p" + b"9" * 1_000_000 + b"\n", "no newline"),
  "a number in many digits": (b"I" + b"9" * 1_000_000 + b"\n", "no newline"),
  "a long number in many digits": (b"L" + b"9" * 1_000_000 + b"L\n", "no newline"),
  "a number of a claimed length": (b"\x8b\xff\xff\xff\x7f", "not enough data"),
  "text of a claimed length": (in_8_bytes(b"\x8d"), f"expected {2**60} bytes"),
  "bytes of a claimed length": (in_8_bytes(b"\x8e"), f"expected {2**60} bytes"),
  "an array of a claimed length": (in_8_bytes(b"\x96"), f"expected {2**60} bytes"),
  "a frame of a claimed length": (in_8_bytes(b"\x95") + tf.NONE, None),
}  # fmt: skip


def read_or_refused(path, match: str | None) -> None:
  if match is None:
    np.testing.assert_array_equal(read_torch(path)["w"], ARRAY)
  else:
    with pytest.raises(ValueError, match=match) as error:
      read_torch(path)
    assert len(str(error.value)) < 2000


@pytest.mark.timeout(60)
@pytest.mark.parametrize("write", [tf.write_zip, tf.write_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("which", COSTLY)
def test_time_is_proportional_to_the_file(which, write, tmp_path):
  body, match = COSTLY[which]
  path = write(tmp_path / "a.pt", tf.mapping({"model": W, "x": body}), {"0": ARRAY})
  begin = time.process_time()
  read_or_refused(path, match)
  assert time.process_time() - begin < SECONDS


LARGE = {
  "lists": b"]",
  "dicts": b"}",
  "sets": b"\x8f",
  "tuples": tf.EMPTY + b"\x85",
  "calls": GET_1 + tf.EMPTY + tf.REDUCE,
  "storages": GET_0 + b"Q",
  "memo": tf.NONE + b"\x94",
  "keys": b"NN",
}


@pytest.mark.parametrize("which", LARGE)
def test_memory_is_proportional_to_the_file(which, tmp_path):
  many = LARGE[which] * (40_000 // len(LARGE[which]) // 2 * 2)
  stored = tf.group(tf.text("storage"), tf.name("torch", "FloatStorage"), tf.text("0"), tf.NONE, tf.number(6))
  body = kept(stored, ORDERED) + b"}(" + many + b"u"
  path = tf.write_zip(tmp_path / "a.pt", tf.mapping({"model": W, "x": body}), {"0": ARRAY})
  tracemalloc.start()
  try:
    read_torch(path)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 160 * path.stat().st_size


def overlapping(path, written: list[str], named: list[str]) -> None:
  """Writes an archive of 100,000 bytes under one name, and lists other names of the same place."""
  with zipfile.ZipFile(path, "a") as archive:
    for name in written:
      archive.writestr(name, bytes(100_000))
    for name in named:
      entry = copy.copy(archive.filelist[-1])
      entry.filename = entry.orig_filename = name
      archive.filelist.append(entry)


def test_entries_of_an_archive_may_not_be_one_place(tmp_path):
  many = np.zeros(25_000, np.float32)
  keys = [f"{number:05}" for number in range(2000)]
  body = tf.mapping({key: tf.tensor(tf.storage(key, many), 0, (1,), (1,)) for key in keys})
  path = tf.write_zip(tmp_path / "a.pt", body, {})
  overlapping(path, ["archive/data/00000"], [f"archive/data/{key}" for key in keys[1:]])
  with pytest.raises(ValueError, match="entries overlap: they have 200"):
    read_torch(path)
  overlapping(tmp_path / "a.npz", ["00000.npy"], [f"{key}.npy" for key in keys[1:]])
  with pytest.raises(ValueError, match="entries overlap: they have 200"):
    read_torch(tmp_path / "a.npz")


def test_entries_outside_the_archive_are_refused(tmp_path):
  path = tf.write_zip(tmp_path / "a.pt", tf.mapping({"w": tf.whole("0", ARRAY)}), {"0": ARRAY})
  data = path.read_bytes()
  at = data.rindex(b"PK\x01\x02") + 42  # where the last entry begins, in the directory
  path.write_bytes(data[:at] + struct.pack("<I", 2**31) + data[at + 4 :])
  with pytest.raises(ValueError, match="'archive/version' is cut off, or not where the archive says"):
    read_torch(path)
  at = data.rindex(b"PK\x05\x06") + 12  # the size of the directory
  path.write_bytes(data[:at] + struct.pack("<I", 2**31) + data[at + 4 :])
  with pytest.raises(ValueError, match="damaged"):
    read_torch(path)
