"""Files that appear whole or not at all, JSON that is bounded, and locks that end with their process."""

import errno
import json
import os
import subprocess
import sys

import pytest

from mlrec import files


def test_a_file_is_replaced_once_the_block_has_ended(tmp_path):
  path = tmp_path / "a.bin"
  path.write_bytes(b"old")
  with files.replacing(path) as temporary:
    temporary.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert temporary.parent == tmp_path
  assert path.read_bytes() == b"new"
  assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def _fail_halfway(path):
  with files.replacing(path) as temporary:
    temporary.write_bytes(b"half")
    raise KeyboardInterrupt


def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.bin"
  for before in (None, b"old"):
    if before:
      path.write_bytes(before)
    with pytest.raises(KeyboardInterrupt):
      _fail_halfway(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_a_block_that_writes_nothing_replaces_nothing(tmp_path):
  path = tmp_path / "a.bin"
  path.write_bytes(b"old")
  with pytest.raises(FileNotFoundError), files.replacing(path):
    pass
  assert path.read_bytes() == b"old"


def test_what_cannot_be_written_as_json_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.json"
  files.write_json(path, {"a": [1, None, "ä"]})
  assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, None, "ä"]}
  for value in ({"a": float("nan")}, {"a": float("inf")}, {"a": object()}):
    with pytest.raises((ValueError, TypeError)):
      files.write_json(path, value)
  with pytest.raises(UnicodeEncodeError):
    files.write_text(path, "\ud83d")
  assert files.read_json(path) == {"a": [1, None, "ä"]}
  assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_process_that_is_killed_while_it_writes_leaves_what_was_there(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("old")
  code = (
    "import os, pathlib, sys; from mlrec import files\n"
    "with files.replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
    "  temporary.write_text('half'); os.kill(os.getpid(), 9)"
  )
  assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
  assert path.read_text() == "old"
  files.write_text(path, "new")
  assert path.read_text() == "new"


def test_equal_values_have_the_same_canonical_text():
  assert files.canonical_json({"b": 1, "a": {"d": 2, "c": 3}}) == files.canonical_json({"a": {"c": 3, "d": 2}, "b": 1})
  assert files.canonical_json({"a": 1}) != files.canonical_json({"a": "1"})


def test_numbers_that_are_not_finite_become_null():
  assert files.finite({"a": 1, "b": float("nan"), "c": float("-inf"), "d": 0.5}) == {
    "a": 1.0, "b": None, "c": None, "d": 0.5,
  }  # fmt: skip


@pytest.mark.parametrize(
  ("text", "value"),
  [
    ('{"a": [1, -2.5, null, true, "x"], "b": {"a": 1}}', {"a": [1, -2.5, None, True, "x"], "b": {"a": 1}}),
    ("18446744073709551615", 2**64 - 1),
    ("-9223372036854775808", -(2**63)),
    ("1e308", 1e308),
    ("[" * 500 + "]" * 500, None),
  ],
)
def test_json_is_parsed(text, value):
  found = files.parse_json(text)
  assert value is None or found == value


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ('{"a": 1, "a": 2}', "the key 'a' occurs twice in an object"),
    ('[{"b": {"c": 1, "d": 2, "c": 1}}]', "the key 'c' occurs twice in an object"),
    ("NaN", "NaN is no JSON"),
    ('{"a": [Infinity]}', "Infinity is no JSON"),
    ("-Infinity", "-Infinity is no JSON"),
    ("[1e999]", "the number 1e999 exceeds a double"),
    ("9" * 400, "400 digits exceeds 64 bits"),
    ("-" + "9" * 400, "exceeds 64 bits"),
    # Python's own conversion takes time that grows with the square of the digits, where it has no limit.
    ('{"k": ' + "9" * 2_000_000 + "}", "2000000 digits exceeds 64 bits"),
    ("18446744073709551616", "exceeds 64 bits"),
    ("-9223372036854775809", "exceeds 64 bits"),
    ("[" * 1_000_000, "nested too deeply"),
    ('{"a":' * 1_000_000, "nested too deeply"),
    ("", "Expecting value"),
    ("[1] 2", "Extra data"),
    ('{"a": 1,}', "line 1 column"),
  ],
)
def test_json_that_is_none_is_refused(text, message):
  with pytest.raises(ValueError, match=message) as told:
    files.parse_json(text)
  assert len(str(told.value)) < 200


def test_numbers_that_are_not_finite_are_taken_where_they_may_be():
  assert files.parse_json("[Infinity, -Infinity, 1e999]", allow_nan=True) == [*map(float, ("inf", "-inf", "inf"))]
  with pytest.raises(ValueError, match="exceeds 64 bits"):
    files.parse_json("9" * 400, allow_nan=True)


def test_json_of_a_file_is_utf_8(tmp_path):
  (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
  with pytest.raises(ValueError, match="can't decode"):
    files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [files.read_regular, files.read_json, files.sha256, files.open_regular])
def test_what_is_no_regular_file_is_refused_at_once(read, tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
    with pytest.raises(OSError, match="it is no regular file") as told:
      read(path)
    assert os.fspath(path) in str(told.value)
  with pytest.raises(FileNotFoundError):
    read(tmp_path / "none")


def test_a_link_to_a_regular_file_is_read(tmp_path):
  (tmp_path / "a").write_bytes(b"abc")
  (tmp_path / "b").symlink_to("a")
  assert files.read_regular(tmp_path / "b") == b"abc"


def test_the_digest_is_that_of_the_bytes(tmp_path):
  (tmp_path / "a").write_bytes(b"abc")
  # FIPS 180-2, appendix B.1.
  assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_is_held_by_one_and_released_when_closed(tmp_path):
  path = tmp_path / "lock"
  held = files.try_lock(path)
  assert held is not None
  assert files.try_lock(path) is None
  held.close()
  again = files.try_lock(path)
  assert again is not None
  again.close()


_HOLDER = """
import pathlib, sys, time
from mlrec import files
held = files.try_lock(pathlib.Path(sys.argv[1]))
held.write("the holder"); held.flush()
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_ends_with_the_process_that_holds_it_however_it_ends(tmp_path):
  path = tmp_path / "lock"
  holder = subprocess.Popen([sys.executable, "-c", _HOLDER, path], stdout=subprocess.PIPE, text=True)
  try:
    assert holder.stdout.readline() == "held\n"
    assert files.try_lock(path) is None
    assert path.read_text() == "the holder", "who asks can read who it is"
  finally:
    holder.kill()
    holder.communicate()
  held = files.try_lock(path)
  assert held is not None
  held.close()


def test_a_lock_that_cannot_be_written_raises(tmp_path):
  with pytest.raises(IsADirectoryError):
    files.try_lock(tmp_path)
  with pytest.raises(FileNotFoundError):
    files.try_lock(tmp_path / "none" / "lock")


def test_a_full_disk_is_told_from_other_errors():
  assert files.is_disk_full(OSError(errno.ENOSPC, "x"))
  assert files.is_disk_full(OSError(errno.EDQUOT, "x"))
  # Of libraries that keep no number.
  assert files.is_disk_full(RuntimeError("write failed: No space left on device"))
  wrapped = RuntimeError("the save failed")
  wrapped.__cause__ = OSError(errno.ENOSPC, "x")
  assert files.is_disk_full(wrapped)
  assert not files.is_disk_full(OSError(errno.EACCES, "x"))
  assert not files.is_disk_full(None)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_errors_name_the_file_that_was_asked_for_and_not_what_stands_for_it(code, tmp_path):
  path = tmp_path / "a.bin"

  def write(text):
    with files.replacing(path) as temporary:
      raise text(temporary)

  with pytest.raises(OSError, match=r"a\.bin'$") as told:
    write(lambda temporary: OSError(code, os.strerror(code), str(temporary), None, str(temporary / "part")))
  assert (told.value.errno, told.value.filename) == (code, str(path))
  with pytest.raises(RuntimeError, match=f"^{path} cannot be opened$"):  # as libraries say it
    write(lambda temporary: RuntimeError(f"{temporary} cannot be opened"))
  with pytest.raises(FileNotFoundError, match=f"'{tmp_path / 'other'}'"):
    write(lambda temporary: FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "other")))


def test_a_folder_in_the_place_of_a_file_is_named_alone(tmp_path):
  (tmp_path / "a.json" / "inside").mkdir(parents=True)
  with pytest.raises(IsADirectoryError, match=r"a\.json'$") as told:
    files.write_json(tmp_path / "a.json", 1)
  assert "tmp'" not in str(told.value)
  assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
  (tmp_path / "file").touch()
  with pytest.raises(NotADirectoryError, match=r"file/b\.json'$"):
    files.write_json(tmp_path / "file" / "b.json", 1)


def test_a_name_with_a_nul_is_an_error_of_the_system():
  with pytest.raises(OSError, match="no NUL character"):
    files.check_name("a\0b")
  files.check_name("a b")
