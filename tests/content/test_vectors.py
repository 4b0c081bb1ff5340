import json
import os
import pickle
import re

from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec.content import vectors
from mlrec.data import DataError

_DIM = 3


def _load(source, item_ids, *, whiten: bool = False) -> vectors.Vectors:
  return vectors.load(ConfigDict({"source": "a_pairs.tsv", "features": source, "whiten": whiten}), item_ids)


def _drawn(rows: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).normal(size=(rows, _DIM)).astype(np.float32)


def _write_folder(path, items, matrix) -> str:
  path.mkdir()
  vectors.write_folder(path, matrix, np.asarray(items), {"encoder": "none"})
  return str(path)


def _write_json(path, content):
  path.write_text(json.dumps(content))
  return str(path)


def _write(form: str, path, by_item: dict[int, np.ndarray]) -> str:
  """The vectors of items in one of the forms; those of the .npy file that are not named are ones."""
  if form == "folder":
    items = sorted(by_item)
    return _write_folder(path / "vectors", items, np.stack([np.zeros(_DIM), *map(by_item.get, items)]))
  if form == "json":
    # In no order.
    return _write_json(path / "v.json", {str(n): by_item[n].tolist() for n in sorted(by_item, key=lambda n: n % 5)})
  matrix = np.ones((max(by_item), _DIM), np.float32)
  for item, vector in by_item.items():
    matrix[item - 1] = vector
  np.save(path / "v.npy", matrix)
  return str(path / "v.npy")


forms = pytest.mark.parametrize("form", ["npy", "json", "folder"])


@forms
def test_vectors_come_by_item(form, tmp_path):
  by_item = dict(zip([2, 3, 5, 7, 11, 12], _drawn(6)))
  source = _write(form, tmp_path, by_item)
  read = _load(source, np.array([0, 3, 5, 11]))
  assert read.vectors.dtype == np.float32
  assert read.vectors.shape == (4, _DIM)
  np.testing.assert_array_equal(read.vectors, [np.zeros(_DIM), by_item[3], by_item[5], by_item[11]])
  assert read.missing.tolist() == []
  assert vectors.width(source) == _DIM


@forms
def test_items_without_a_vector_are_warned_of_and_get_the_padding_items(form, tmp_path, caplog):
  by_item = dict(zip([1, 2, 3], _drawn(3)))
  source = _write(form, tmp_path, by_item)
  with caplog.at_level("WARNING"):
    read = _load(source, np.array([0, 2, 8, 10_000]))
  np.testing.assert_array_equal(read.vectors, [np.zeros(_DIM), by_item[2], np.zeros(_DIM), np.zeros(_DIM)])
  assert read.missing.tolist() == [8, 10_000]
  assert "2 of 3 items have no vector (item 8 first)" in caplog.text
  caplog.clear()
  _load(source, np.array([0, 2]))
  assert not caplog.text


def test_a_folder_says_what_stands_for_items_without_content(tmp_path):
  source = _write_folder(tmp_path / "f", [4, 6], np.array([[9, 9], [4, 4], [6, 6]], np.float32))
  read = _load(source, np.array([0, 4, 5, 6]))
  assert read.vectors[:, 0].tolist() == [9, 4, 9, 6]
  assert read.missing.tolist() == [5]


@forms
def test_vectors_of_none_of_the_items_are_refused(form, tmp_path):
  source = _write(form, tmp_path, dict(zip([1, 2], _drawn(2))))
  with pytest.raises(DataError, match=re.escape(f"config.data.features = {source!r}: none of its 2 vectors")):
    _load(source, np.array([0, 30, 40]))


@forms
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_its_item(form, value, tmp_path):
  by_item = dict(zip([1, 2, 3, 4], _drawn(4)))
  by_item[3][1] = by_item[4][0] = value
  source = _write(form, tmp_path, by_item)
  with pytest.raises(DataError, match=r"the vector of item 3 holds NaN or infinity.*\(2 such vectors\)"):
    _load(source, np.array([0, 1, 3, 4]))
  assert _load(source, np.array([0, 1, 2])).missing.tolist() == [], "another item's is not looked at"


def test_a_padding_vector_that_is_not_finite_is_refused(tmp_path):
  source = _write_folder(tmp_path / "f", [4], np.array([[np.nan], [4]], np.float32))
  with pytest.raises(DataError, match="the vector of the padding item holds NaN"):
    _load(source, np.array([0, 4]))


def test_doubles_beyond_float32_are_refused_by_their_item(tmp_path):
  np.save(tmp_path / "v.npy", np.array([[1.0], [1e300]]))
  with pytest.raises(DataError, match="the vector of item 2 holds NaN or infinity in float32"):
    _load(str(tmp_path / "v.npy"), np.array([0, 1, 2]))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_become_float32(dtype, tmp_path):
  matrix = _drawn(4)
  np.save(tmp_path / "v.npy", matrix.astype(dtype))
  read = _load(str(tmp_path / "v.npy"), np.array([0, 4, 1]))
  assert read.vectors.dtype == np.float32
  np.testing.assert_array_equal(read.vectors[1:], matrix.astype(dtype).astype(np.float32)[[3, 0]])


def test_the_fingerprint_is_that_of_the_items_drawn(tmp_path):
  by_item = dict(zip([1, 2, 3, 4], _drawn(4)))
  ids = np.array([0, 1, 2, 4])
  prints = set()
  for form in ("npy", "json", "folder"):
    prints.add(_load(_write(form, tmp_path, by_item), ids).fingerprint)
  assert len(prints) == 1, "the form does not count"
  (tmp_path / "others").mkdir()
  by_item[3] = by_item[3] + 1
  assert _load(_write("npy", tmp_path / "others", by_item), ids).fingerprint in prints
  by_item[4] = by_item[4] + 1
  (tmp_path / "changed").mkdir()
  assert _load(_write("npy", tmp_path / "changed", by_item), ids).fingerprint not in prints


@forms
def test_a_file_that_is_written_anew_is_read_anew(form, tmp_path):
  ids = np.array([0, 1, 2])
  first = _load(_write(form, tmp_path, dict(zip([1, 2], _drawn(2)))), ids)
  if form == "folder":
    (tmp_path / "vectors").rename(tmp_path / "old")
  changed = dict(zip([1, 2], _drawn(2, seed=1)))
  second = _load(_write(form, tmp_path, changed), ids)
  np.testing.assert_array_equal(second.vectors[1:], [changed[1], changed[2]])
  assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize(
  ("array", "pattern"),
  [
    (np.ones((3, 2), np.int64), r"expected a matrix of floats, found int64 \(3, 2\)"),
    (np.ones((3, 2), np.complex64), "expected a matrix of floats, found complex64"),
    (np.ones(3, np.float32), r"expected a matrix of floats, found float32 \(3,\)"),
    (np.ones((3, 2, 2), np.float32), r"expected a matrix of floats, found float32 \(3, 2, 2\)"),
    (np.ones((0, 2), np.float32), r"expected a matrix of floats, found float32 \(0, 2\)"),
    (np.float32(1), r"expected a matrix of floats, found float32 \(\)"),
    (np.array([{"a": 1}], object), "Python objects|pickle"),
  ],
)
def test_an_array_of_another_sort_is_refused(array, pattern, tmp_path):
  np.save(tmp_path / "v.npy", array, allow_pickle=True)
  with pytest.raises(DataError, match=rf"config\.data\.features = .*v\.npy': .*({pattern})"):
    _load(str(tmp_path / "v.npy"), np.array([0, 1]))


class _Loud:
  def __reduce__(self):
    return (pytest.fail, ("it runs code of the file",))


def test_no_code_of_a_file_is_run(tmp_path):
  (tmp_path / "v.npy").write_bytes(pickle.dumps(_Loud()))
  with pytest.raises(DataError, match="pickle"):
    _load(str(tmp_path / "v.npy"), np.array([0, 1]))


def test_an_archive_an_empty_and_a_cut_file_are_refused(tmp_path):
  path = tmp_path / "v.npy"
  with path.open("wb") as file:
    np.savez(file, a=_drawn(2))
  with pytest.raises(DataError, match="found an archive of arrays"):
    vectors.width(str(path))
  path.write_bytes(b"")
  with pytest.raises(DataError, match=r"v\.npy"):
    vectors.width(str(path))
  np.save(path, _drawn(100))
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(DataError, match=r"v\.npy"):
    vectors.width(str(path))


@pytest.mark.parametrize(
  ("text", "pattern"),
  [
    ("[[1, 2]]", "an object of item ids to lists of numbers"),
    ("{}", "an object of item ids to lists of numbers"),
    ('{"1": [1, 2], "x": [1, 2]}', "keys must be item ids.*'x'"),
    ('{"1": [1, 2], "99999999999999999999": [1, 2]}', "keys must be item ids"),
    ('{"1": [1, 2], "01": [1, 2]}', "keys name an item twice"),
    ('{"1": [1, 2], "2": [3, 4], "1": [1, 2]}', "the key '1' occurs twice"),
    ('{"1": [1, 2], "-2": [1, 2]}', "keys must be item ids.*'-2'"),
    ('{"1": [1, ' + "9" * 400 + "]}", "400 digits exceeds 64 bits"),
    ('{"1": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    ('{"1": [1, 2], "2": [1, 2, 3]}', r"lists of numbers of one length, found lengths \[2, 3\]"),
    ('{"1": [1, 2], "2": 3}', r"lists of numbers of one length, found lengths \[-1, 2\]"),
    ('{"1": [], "2": []}', "expected a matrix of floats"),
    ('{"1": [[1], [2]]}', "expected a matrix of floats"),
    ('{"1": ["a", "b"]}', "could not convert"),
    ('{"1": [{}, 2]}', "lists of numbers"),
    ('{"1": [1, 2]', r"line 1 column"),
    ("\udcff", "can't decode"),
  ],
)
def test_json_of_another_form_is_refused(text, pattern, tmp_path):
  (tmp_path / "v.json").write_bytes(text.encode(errors="surrogateescape"))
  with pytest.raises(DataError, match=rf"config\.data\.features = .*v\.json': .*{pattern}"):
    _load(str(tmp_path / "v.json"), np.array([0, 1]))


@pytest.mark.parametrize(
  ("items", "rows", "pattern"),
  [
    ([1, 2], 2, "2 items, but 2 vectors where one more than items"),
    ([2, 1], 3, "ascending ids, none twice"),
    ([2, 2], 3, "ascending ids, none twice"),
    ([1.0, 2.0], 3, "expected a row of integers"),
    ([[1, 2]], 3, "expected a row of integers"),
  ],
)
def test_a_folder_that_does_not_fit_together_is_refused(items, rows, pattern, tmp_path):
  source = _write_folder(tmp_path / "f", items, _drawn(rows))
  with pytest.raises(DataError, match=pattern):
    _load(source, np.array([0, 1]))


def test_a_folder_that_is_not_finished_is_refused(tmp_path):
  source = _write_folder(tmp_path / "f", [1], _drawn(2))
  assert vectors.width(source) == _DIM
  for name in ("recipe.json", "items.npy", "vectors.npy"):
    (tmp_path / "f" / name).rename(tmp_path / name)
    with pytest.raises(DataError, match=rf"no {name}: mlrec\.features has not made it, or not finished it"):
      vectors.width(source)
    (tmp_path / name).rename(tmp_path / "f" / name)


def test_what_is_no_features_file_is_told_what_would_be(tmp_path):
  (tmp_path / "v.txt").write_text("1 2 3")
  forms = (
    r"expected a \.npy or \.json file of MicroLens's release, an item_info\.parquet of the multimodal CTR challenge, "
    r"or a folder that python -m mlrec\.features has made"
  )
  with pytest.raises(DataError, match=rf"config\.data\.features = .*v\.txt': {forms}"):
    vectors.width(str(tmp_path / "v.txt"))
  with pytest.raises(DataError, match=rf"config\.data\.features = .*nothing\.npy': no such file; {forms}"):
    vectors.width(str(tmp_path / "nothing.npy"))
  with pytest.raises(DataError, match=r"config\.data\.features is empty.*\.npy"):
    _load("", np.array([0, 1]))


def test_whitened_vectors_have_mean_zero_and_no_correlations(tmp_path):
  matrix = _drawn(40) * np.linspace(1, 5, _DIM, dtype=np.float32) + 3
  # A direction that says nothing, and an item without a vector.
  matrix[:, 0] = 7
  by_item = {item: matrix[item] for item in range(1, 40) if item != 5}
  ids = np.arange(40)
  source = _write("folder", tmp_path, by_item)
  found, white = _load(source, ids), _load(source, ids, whiten=True)
  own = vectors.VectorContent(found, ids).read(ids)["features_present"]
  assert np.flatnonzero(~own).tolist() == [0, 5]
  assert not white.vectors[~own].any()
  np.testing.assert_allclose(white.vectors[own].mean(0), 0, atol=1e-5)
  covariance = white.vectors[own].T @ white.vectors[own] / own.sum() * _DIM
  np.testing.assert_allclose(covariance, np.diag(np.diag(covariance).round()), atol=1e-4)
  assert np.diag(covariance).round().sum() == _DIM - 1
  assert white.fingerprint != found.fingerprint


def test_vectors_as_content_are_read_by_dense_id(tmp_path):
  source = _write_folder(tmp_path / "f", [4, 6], np.array([[9, 9], [4, 4], [6, 6]], np.float32))
  ids = np.array([0, 4, 5, 6])
  content = vectors.VectorContent(_load(source, ids), ids)
  dense = np.array([[3, 0], [2, 1]])
  read = content.read(dense)
  assert {name: (need.shape, need.dtype) for name, need in content.needs.items()} == {
    name: (array.shape[2:], array.dtype.name) for name, array in read.items()
  }
  assert read["features"][..., 0].tolist() == [[6, 9], [9, 4]]
  assert read["features_present"].tolist() == [[True, False], [False, True]]
  assert content.fingerprint == _load(source, ids).fingerprint


def test_a_folder_is_written_with_the_recipe_that_it_was_made_by(tmp_path):
  _write_folder(tmp_path / "f", [4], _drawn(2))
  recipe = json.loads((tmp_path / "f" / "recipe.json").read_text())
  assert recipe["encoder"] == "none"
  assert recipe["files"].keys() == {"vectors.npy", "items.npy"}
  assert {path.name for path in (tmp_path / "f").iterdir()} == {"vectors.npy", "items.npy", "recipe.json"}
  vectors.check_folder(tmp_path / "f")


def _flip_a_bit(path):
  content = bytearray(path.read_bytes())
  content[-1] ^= 1
  path.write_bytes(content)


def _swap_rows(path):
  np.save(path, np.load(path)[[0, 2, 1, *range(3, 6)]])


def _damages():
  for name in ("vectors.npy", "items.npy"):
    yield name, _flip_a_bit
    yield name, lambda path: path.write_bytes(bytes(path.stat().st_size))
    yield name, lambda path: path.write_bytes(path.read_bytes()[:-8])
    yield name, lambda path: path.write_bytes(b"")
  yield "vectors.npy", _swap_rows


@pytest.mark.parametrize(("name", "damage"), _damages())
def test_a_folder_that_is_not_what_was_written_is_refused(name, damage, tmp_path):
  source = _write_folder(tmp_path / "f", [2, 3, 5, 7, 11], _drawn(6))
  damage(tmp_path / "f" / name)
  pattern = (
    rf"config\.data\.features = .*: {name} is not what was written \(its digest differs\): make the folder again"
  )
  for read in (lambda: vectors.width(source), lambda: _load(source, np.array([0, 2, 3]))):
    with pytest.raises(DataError, match=pattern):
      read()
  with pytest.raises(vectors.DamagedError, match=f"{name} is not what was written"):
    vectors.check_folder(tmp_path / "f")


def test_a_whole_file_of_another_folder_is_refused(tmp_path):
  source = _write_folder(tmp_path / "f", [2, 3], _drawn(3))
  _write_folder(tmp_path / "g", [2, 3], _drawn(3, seed=1))
  (tmp_path / "g" / "vectors.npy").replace(tmp_path / "f" / "vectors.npy")
  with pytest.raises(DataError, match=r"vectors\.npy is not what was written"):
    vectors.width(source)


@pytest.mark.parametrize(
  ("recipe", "pattern"),
  [
    ("{}", "recipe.json has no digests of the other files, as older versions wrote it: make the folder again"),
    ('{"encoder": "none", "files": ["a"]}', "recipe.json has no digests"),
    ("[]", "recipe.json has no digests"),
    ('{"files": {"vectors.npy": 3}}', "vectors.npy is not what was written"),
    ('{"files": {}, "files": {}}', "the key 'files' occurs twice"),
    ('{"files": ', "line 1 column"),
  ],
)
def test_a_folder_without_digests_is_refused(recipe, pattern, tmp_path):
  source = _write_folder(tmp_path / "f", [2, 3], _drawn(3))
  (tmp_path / "f" / "recipe.json").write_text(recipe)
  with pytest.raises(DataError, match=rf"config\.data\.features = .*{pattern}"):
    vectors.width(source)


def test_a_pipe_is_refused_at_once(tmp_path):
  os.mkfifo(tmp_path / "v.npy")
  with pytest.raises(DataError, match=r"v\.npy.*no regular file"):
    vectors.width(str(tmp_path / "v.npy"))
  source = _write_folder(tmp_path / "f", [2, 3], _drawn(3))
  (tmp_path / "f" / "items.npy").unlink()
  os.mkfifo(tmp_path / "f" / "items.npy")
  with pytest.raises(DataError, match="no regular file"):
    vectors.width(source)
