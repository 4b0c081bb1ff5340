import numpy as np
import pytest

from mlrec.content.titles import open_titles
from mlrec.content.titles import Titles
from mlrec.data import DataError
import tfds_microlens


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """`microlens/100k-items` of four items, one of them without a title."""
  folder = tmp_path_factory.mktemp("items")
  held = folder / "manual"
  held.mkdir()
  (held / "MicroLens-100k_pairs.tsv").write_text("1\t3 4 20\n2\t3 500 4\n")
  (held / "MicroLens-100k_title_en.csv").write_text(_LINES, encoding="utf-8")
  tfds_microlens.prepare("100k-items", data_dir=folder, manual_dir=held)
  return folder


_LINES = '3,"Cook, eat # 美食 😀"\n20,\n4,Say hello\n500,   \n'
_WANTED = {3: "Cook, eat # 美食 😀", 4: "Say hello"}


def test_a_prepared_set_and_a_file_of_the_release_give_the_same(data_dir, tmp_path):
  file = tmp_path / "MicroLens-100k_title_en.csv"
  file.write_text(_LINES, encoding="utf-8")
  prepared, read = open_titles("microlens/100k-items", data_dir), open_titles(str(file))
  for titles in (prepared, read):
    # Empty titles, and those of white space, are none.
    assert titles.items.tolist() == list(_WANTED)
    assert titles.items.dtype == np.int64
    assert titles.read(np.array([4, 3, 4], np.int32)) == [_WANTED[4], _WANTED[3], _WANTED[4]]
    assert len(titles) == 2
  assert prepared.fingerprint == read.fingerprint


def test_quotes_are_plain_characters_in_a_release_that_does_not_quote(tmp_path):
  for name, wanted in (("MicroLens-1M_title.csv", 'say "hi", then'), ("MicroLens-50k_titles.csv", None)):
    (tmp_path / name).write_text('7,say "hi", then\n', encoding="utf-8")
    if wanted:
      assert open_titles(str(tmp_path / name)).read([7]) == [wanted]
    else:
      with pytest.raises(DataError, match=f"{name}:1: expected item,title"):
        open_titles(str(tmp_path / name))


def test_fingerprints_tell_titles_and_items_apart():
  prints = {Titles("", titles).fingerprint for titles in ({1: "ab", 2: "c"}, {1: "a", 2: "bc"}, {1: "ab", 3: "c"})}
  assert len(prints) == 3
  assert Titles("", {2: "c", 1: "ab", 9: " "}).fingerprint in prints


def test_an_item_without_a_title_is_named():
  with pytest.raises(DataError, match="here: item 6 is none of the 2 items that have a title"):
    Titles("here", {4: "a", 60: "b"}).read(np.array([4, 6]))


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("nowhere_titles.csv", "nowhere_titles.csv: no such file"),
    ("microlens/50k-itms", "config.data.content: 'microlens/50k-itms': did you mean 'microlens/50k-items'"),
    ("microlens/50k-sequences", "expected one of|did you mean"),
    ("microlens/50k-items", "not prepared in .*; run python -m tfds_microlens 50k-items"),
    ("titles.txt", r"config.data.content = 'titles.txt': expected a prepared data set, such as microlens/50k-items"),
  ],
)
def test_what_is_no_source_of_titles_is_refused(source, message, tmp_path):
  with pytest.raises(DataError, match=message):
    open_titles(source, tmp_path)


def test_a_set_without_a_title_is_refused(tmp_path):
  (tmp_path / "a_titles.csv").write_text("1,\n2, \n")
  with pytest.raises(DataError, match="none of its 2 items has a title"):
    open_titles(str(tmp_path / "a_titles.csv"))
