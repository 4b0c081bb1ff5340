"""The list of what there is is computed once, and again once a file is another."""

import os

import pytest

from mlrec import listing


@pytest.fixture
def asked(tmp_path, monkeypatch) -> list[int]:
  """How often the text was computed; each text is another."""
  asked: list[int] = []
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(listing, "_PACKAGE", tmp_path / "package")
  monkeypatch.setattr(listing.config_lib, "shipped", lambda: tmp_path / "configs")
  (tmp_path / "package" / "models").mkdir(parents=True)
  (tmp_path / "package" / "models" / "a.py").write_text("a")

  def text() -> str:
    asked.append(1)
    return f"text {len(asked)}"

  monkeypatch.setattr(listing, "_text", text)
  return asked


def test_it_is_kept_until_a_file_is_added_changed_or_removed(asked, tmp_path):
  models = tmp_path / "package" / "models"
  assert [listing.listing(), listing.listing()] == ["text 1", "text 1"]
  (models / "b.py").write_text("b")
  assert [listing.listing(), listing.listing()] == ["text 2", "text 2"]
  (models / "b.py").write_text("c")
  os.utime(models / "b.py", ns=(1, 1))
  assert [listing.listing(), listing.listing()] == ["text 3", "text 3"]
  (models / "b.py").unlink()
  assert [listing.listing(), listing.listing()] == ["text 4", "text 4"]
  assert len(asked) == 4


@pytest.mark.parametrize("damage", [b"", b"[]", b"null", b"\xff", b'{"of": 1}'])
def test_what_is_damaged_is_made_again(asked, damage):
  listing.listing()
  whole = listing._path().read_bytes()
  listing._path().write_bytes(damage)
  assert [listing.listing(), listing.listing()] == ["text 2", "text 2"]
  listing._path().write_bytes(whole.replace(b"text 1", b"text 9"))
  assert listing.listing() == "text 3"


def test_where_nothing_can_be_kept_it_is_made_each_time(asked, tmp_path):
  (tmp_path / "cache").write_text("in the way")
  assert [listing.listing(), listing.listing()] == ["text 1", "text 2"]
