"""The cache of single records: what is damaged in it is made again, and that is said."""

import os
from typing import ClassVar

import pytest

from tfds_microlens import media
from tfds_microlens.errors import PrepareError
from tfds_microlens.media_sources import Folder


class _Words:
  """Words in capitals."""

  name: ClassVar = "word"
  files: ClassVar = "texts"
  mark: ClassVar = b"TST1"

  def __init__(self, folder):
    self.source = Folder(folder, (".txt",), "texts")
    self.kept: list[int] = []

  def keep(self, item):
    self.kept.append(item)
    word = self.source.content(item)
    return media.Kept(word.upper(), "short" if len(word) < 4 else "")


@pytest.fixture
def words(tmp_path):
  for item, word in ((1, "one"), (2, "two"), (300, "three hundred")):
    path = tmp_path / "texts" / f"{item}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(word)
    os.utime(path, ns=(0, 5))  # the same for all, as an archive may set it
  return _Words(tmp_path / "texts")


@pytest.fixture
def cache(words, tmp_path):
  found = media.Cache(tmp_path / "cache", words)
  for item in words.source.items:
    assert found.fill(item)[1]
  words.kept.clear()
  return found


def test_what_is_kept_is_not_made_again(words, cache):
  assert [cache.fill(item) for item in (1, 300)] == [(1, True, "short"), (300, True, "")]
  assert cache.record(300) == b"THREE HUNDRED"
  assert words.kept == []


def test_a_flipped_bit_anywhere_is_found(words, cache, caplog):
  path = cache.path(2)
  content = path.read_bytes()
  for at in range(len(content)):
    path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
    assert cache.fill(2) == (2, True, "short")
  assert words.kept == [2] * len(content)
  assert path.read_bytes() == content
  cache.report_damage()
  assert "1 of the kept word of single items were damaged, 2.word first; they are made again" in caplog.text


def test_a_file_that_was_cut_anywhere_is_found(words, cache):
  path = cache.path(2)
  content = path.read_bytes()
  for length in range(len(content)):
    path.write_bytes(content[:length])
    assert cache.fill(2)[1]
  assert words.kept == [2] * len(content)


@pytest.mark.parametrize("damage", ["zeros", "longer", "of another item", "a folder", "another form"])
def test_other_damage_is_found_and_said(words, cache, caplog, damage):
  path = cache.path(2)
  content = path.read_bytes()
  if damage == "a folder":
    path.unlink()
    (path / "with").mkdir(parents=True)
  else:
    path.write_bytes(
      {
        "zeros": bytes(len(content)), "longer": content + b"x", "of another item": cache.path(1).read_bytes(),
        "another form": b"TST1" + bytes(40),
      }[damage]
    )  # fmt: skip
  assert cache.fill(2) == (2, True, "short")
  assert cache.record(2) == b"TWO"
  assert words.kept == [2]
  cache.report_damage()
  assert "2.word first" in caplog.text


@pytest.mark.parametrize("change", ["another time", "another size", "another mark", "removed"])
def test_what_is_merely_out_of_date_is_made_again_without_a_word(words, cache, caplog, change):
  source = words.source.path(2)
  if change == "another time":
    os.utime(source, ns=(0, 6))
  elif change == "another size":
    source.write_text("second")
    os.utime(source, ns=(0, 5))
  elif change == "another mark":
    words.mark = b"TST2"
  else:
    cache.path(2).unlink()
  assert cache.fill(2)[1]
  assert words.kept == [2]
  cache.report_damage()
  assert caplog.text == ""


def test_a_record_that_is_damaged_before_it_is_packed_is_made_again(words, tmp_path, caplog):
  prepared = media.prepare(words, cache_dir=tmp_path / "cache", workers=1)
  cache = prepared.cache
  cache.path(2).write_bytes(b"")
  cache.path(300).unlink()
  assert list(prepared.records()) == [b"ONE", b"TWO", b"THREE HUNDRED"]
  assert "1 of the kept word of single items were damaged, 2.word first" in caplog.text
  cache.path(1).unlink()
  words.source.path(1).unlink()
  with pytest.raises(PrepareError, match=r"1\.txt: changed while it was being prepared \(missing\)"):
    prepared.record(1)


def test_no_more_are_made_than_are_asked_for(words, tmp_path):
  words.source.path(1).write_text("")
  prepared = media.prepare(words, cache_dir=tmp_path / "cache", most=1, workers=1)
  assert prepared.items.tolist() == [2]
  assert [(problem.item, problem.reason) for problem in prepared.problems] == [(1, "empty file")]
