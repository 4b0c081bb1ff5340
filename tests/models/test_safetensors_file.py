"""Safetensors files: what is read, and what of their headers is refused."""

import json
import pathlib
import struct
import time

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from mlrec import convert
from mlrec.models.convert import read_torch

ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def written(path: pathlib.Path, header: str | bytes, data: bytes = bytes(8)) -> pathlib.Path:
  header = header.encode() if isinstance(header, str) else header
  path.write_bytes(struct.pack("<Q", len(header)) + header + data)
  return path


def entry(dtype: str = "F32", shape=(2,), offsets=(0, 8)) -> str:
  return json.dumps({"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}})


def test_what_the_library_writes_is_read_to_the_bit(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    name: rng.integers(0, 2, 6).astype(name).reshape(2, 3)
    for name in (
      "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64",
      "complex64",
    )
  }  # fmt: skip
  arrays |= {
    name: rng.normal(size=(3, 1)).astype(getattr(ml_dtypes, name))
    for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz")
  }
  arrays |= {"none": np.zeros((0, 4), np.float32), "scalar": np.array(3.0)}
  save_file(arrays, tmp_path / "a.safetensors", {"format": "pt"})
  read = read_torch(tmp_path / "a.safetensors")
  assert read.keys() == arrays.keys()
  for name, array in arrays.items():
    assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
    assert read[name].tobytes() == array.tobytes()


def test_float8_is_converted_as_it_is(tmp_path):
  array = np.arange(4).astype(ml_dtypes.float8_e4m3fn)
  save_file({"x": array}, tmp_path / "a.safetensors")
  assert convert.main(["convert", str(tmp_path / "a.safetensors"), f"--to={tmp_path / 'b.safetensors'}"]) == 0
  np.testing.assert_array_equal(read_torch(tmp_path / "b.safetensors")["x"], array, strict=True)


def test_bytes_that_are_no_truth_value_become_one(tmp_path):
  path = written(tmp_path / "a.safetensors", entry("BOOL", (3,), (0, 3)), b"\0\1\7")
  assert read_torch(path)["a"].view(np.uint8).tolist() == [0, 1, 1]


NUMBER = "9" * 400
REFUSED = {
  "4 bits": (entry("F4", (16,)), "'a' of its header has the dtype 'F4'; expected one of BOOL, U8"),
  "6 bits": (entry("F6_E2M3", (8,)), "has the dtype 'F6_E2M3'"),
  "unknown dtype": (entry("X" * 10_000), "has the dtype 'XXXX"),
  "name twice": (f'{{"a":{ENTRY},"b":{ENTRY},"a":{ENTRY}}}', "it has 'a' twice"),
  "key twice": ('{"a":{"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]}}', "it has 'dtype' twice"),
  "shape too large": (entry(shape=(3,)), r"'a' of its header has 8 bytes; F32 of shape \(3,\) needs 12"),
  "shape far too large": (entry(shape=(2**62, 2**62)), "needs 8507"),
  "negative": (entry(shape=(-2,)), "not whole numbers"),
  "truth value": ('{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "not whole numbers"),
  "too many axes": (entry(shape=[1] * 64 + [2]), "more than 64 axes"),
  "backwards": (entry(offsets=(8, 0)), "has -8 bytes"),
  "gap before": (entry(shape=(1,), offsets=(4, 8)), "'a' has the bytes 4 to 8 of 8, and the one before ends at 0"),
  "gap behind": (entry(shape=(1,), offsets=(0, 4)), "its tensors have 4 bytes, and the file has 8"),
  "overlap": (f'{{"a":{ENTRY},"b":{ENTRY}}}', "'b' has the bytes 0 to 8 of 8, and the one before ends at 8"),
  "cut off": (entry(shape=(4,), offsets=(0, 16)), "no whole safetensors file: entry 'a' has the bytes 0 to 16 of 8"),
  "no tensors": ("{}", "its tensors have 0 bytes"),
  "no entry": ('{"a":[1,2]}', "'a' of its header is not its dtype, shape and data_offsets"),
  "more in an entry": ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}', "is not its dtype, shape"),
  "no dict": ("[1,2]", "no whole safetensors file: its header is a list"),
  "no JSON": ("{x", "its header cannot be read"),
  "no text": (b"{\xff}", "its header cannot be read"),
  "number of 400 digits": (f'{{"a":{{"dtype":"F32","shape":[{NUMBER}],"data_offsets":[0,8]}}}}', "of 400 characters"),
  "offset of 400 digits": (f'{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,{NUMBER}]}}}}', "of 400 characters"),
  "number of a million digits": ('{"a":' + "9" * 1_000_000 + "}", "of 1000000 characters"),
  "no whole number": ('{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', "cannot be read"),
  "no number": ('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', "cannot be read"),
  "deep lists": ('{"a":' + "[" * 1_000_000, "its header cannot be read: maximum recursion depth"),
  "deep dicts": ('{"a":' * 200_000 + "1" + "}" * 200_000, "its header cannot be read: maximum recursion depth"),
  "many lists": ('{"a":[' + "[]," * 200_000 + "[]]}", "is not its dtype, shape"),
  "many axes": (entry(shape=[1] * 200_000), "more than 64 axes"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_headers_that_do_not_fit_are_refused_in_a_line(which, tmp_path, capsys):
  header, match = REFUSED[which]
  path = written(tmp_path / "a.safetensors", header)
  begin = time.process_time()
  with pytest.raises(ValueError, match=match) as error:
    read_torch(path)
  assert time.process_time() - begin < 4
  assert str(error.value).startswith(f"{path}: ")
  assert len(str(error.value)) < 2000
  assert convert.main(["convert", str(path), "--list"]) == 2
  assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("length", [0, 1, 9, 2**31, 2**60, 2**64 - 1])
def test_a_length_that_the_file_has_not_is_not_read(length, tmp_path):
  path = tmp_path / "a.safetensors"
  path.write_bytes(struct.pack("<Q", length) + b"{}" + bytes(6))
  with pytest.raises(ValueError, match="no whole safetensors file"):
    read_torch(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
  save_file({"x": np.arange(3.0), "y": np.arange(2)}, tmp_path / "whole.safetensors")
  data = (tmp_path / "whole.safetensors").read_bytes()
  path = tmp_path / "a.safetensors"
  for length in range(len(data)):
    path.write_bytes(data[:length])
    with pytest.raises(ValueError, match=r"a\.safetensors: it is no whole safetensors file"):
      read_torch(path)
