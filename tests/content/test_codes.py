"""Files of items' codes: read as they were written, or refused."""

import numpy as np
import pytest

from mlrec import files
from mlrec.content import codes
from mlrec.data.interactions import DataError

_CODES = np.array([[0, 1, 0], [0, 1, 1], [2, 0, 0], [1, 1, 0]], np.int32)
_ITEMS = np.array([3, 5, 8, 9])


@pytest.fixture
def path(tmp_path):
  codes.write(tmp_path / "codes.safetensors", _CODES, _ITEMS, {"quantizer": "residual_kmeans", "errors": [0.5, 0.25]})
  return tmp_path / "codes.safetensors"


def test_codes_are_those_of_the_items_asked_for(path):
  found = codes.read(str(path), np.array([0, 9, 3, 8]))
  np.testing.assert_array_equal(found.codes, [[-1, -1, -1], [1, 1, 0], [0, 1, 0], [2, 0, 0]])
  assert found.codes.dtype == np.int32
  assert codes.read_recipe(path) == {"quantizer": "residual_kmeans", "errors": [0.5, 0.25]}


def test_the_fingerprint_is_of_items_and_their_codes(path, tmp_path):
  asked = np.array([0, 3, 8])
  wanted = codes.read(str(path), asked).fingerprint
  codes.write(tmp_path / "fewer.safetensors", _CODES[:3], _ITEMS[:3], {})
  assert codes.read(str(tmp_path / "fewer.safetensors"), asked).fingerprint == wanted
  assert codes.read(str(path), np.array([0, 3, 9])).fingerprint != wanted
  codes.write(tmp_path / "others.safetensors", _CODES[::-1], _ITEMS, {})
  assert codes.read(str(tmp_path / "others.safetensors"), asked).fingerprint != wanted


def test_an_item_without_codes_is_named(path):
  with pytest.raises(DataError, match=r"config\.data\.codes = .*: 2 of 4 items have no codes \(item 4 first\)"):
    codes.read(str(path), np.array([0, 3, 4, 5, 77]))


def test_no_file_and_a_wrong_name_say_what_to_do(path):
  with pytest.raises(DataError, match=r"config\.data\.codes is empty.* python -m mlrec\.codes"):
    codes.read("", np.arange(3))
  with pytest.raises(DataError, match=r"no such file; did you mean '.*codes\.safetensors'\?"):
    codes.read(str(path.with_name("code.safetensors")), np.arange(3))


def _changed(path, **arrays):
  found, metadata = files.read_safetensors(path)
  found |= arrays
  metadata["digest"] = codes._digest(found)
  files.write_safetensors(path, found, metadata)


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"codes": _CODES[[0, 0, 2, 3]]}, "no two items of the same codes"),
    ({"items": _ITEMS[[1, 0, 2, 3]]}, "expected ascending item ids"),
    ({"items": _ITEMS[:3]}, r"a row of codes from 0 on for each item, found int32 \(4, 3\)"),
    ({"codes": _CODES - 1}, "a row of codes from 0 on"),
    ({"codes": _CODES.astype(np.float32)}, "found float32"),
  ],
)
def test_what_is_no_table_of_codes_is_refused(path, arrays, message):
  _changed(path, **arrays)
  with pytest.raises(DataError, match=message):
    codes.read(str(path), np.array([0, 3]))


def test_damage_is_found(path, tmp_path):
  raw = bytearray(path.read_bytes())
  raw[-1] ^= 1
  path.write_bytes(bytes(raw))
  with pytest.raises(DataError, match="it is not what was written"):
    codes.read(str(path), np.array([0, 3]))
  path.write_bytes(bytes(raw[:40]))
  with pytest.raises(DataError, match=r"config\.data\.codes = "):
    codes.read(str(path), np.array([0, 3]))
  files.write_safetensors(path, {"vectors": np.zeros(2)})
  with pytest.raises(DataError, match=r"it holds vectors; expected what python -m mlrec\.codes makes"):
    codes.read(str(path), np.array([0, 3]))
