"""Splits of logs that are made in passes over them, and kept."""

from collections.abc import Callable
import dataclasses
import errno

import numpy as np
import pytest

from mlrec import files
from mlrec.data import DataError
from mlrec.data import protocols
from mlrec.data import Rows
from mlrec.data import split_cache
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import warn_of_repeated_users
from mlrec.data.lines import Chunk
from mlrec.data.lines import LineSource
from mlrec.data.lines import of_labelled
from mlrec.data.lines import of_pairs

_SETTINGS = {"max_length": 4, "min_length": 5, "train_windows": 1}
_PROTOCOLS = ("leave_one_out", "none", "users:0.6,0.2", "time:0.6,0.2")


def _log(*, repeats: bool, largest: int = 60, users: int = 80) -> Interactions:
  rng = np.random.default_rng(1)
  ids = rng.permutation(users) + 1
  if repeats:
    ids = np.concatenate([ids, ids[:9], ids[3:5]])
  rows = Rows.from_lists([rng.integers(1, largest, rng.integers(1, 14)) for _ in ids])
  times = np.concatenate([np.sort(rng.integers(0, 1000, length)) for length in rows.lengths])
  return Interactions(ids, rows, "log", timestamps=times)


def _source(log: Interactions, lines: int = 7, on_chunk: Callable[[int], None] = lambda start: None) -> LineSource:
  def chunks(position, folder):
    for start in range(position[0] if position else 0, len(log.line_users), lines):
      on_chunk(start)
      part = np.arange(start, min(start + lines, len(log.line_users)))
      times = Rows(log.timestamps, log.lines.offsets).take(part).values
      yield Chunk([int(part[-1]) + 1], log.line_users[part], log.lines.take(part), times)

  return LineSource("log", {"log": 1}, 0, chunks, timed=True)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr("mlrec.mapped.AT_ONCE", 32)


@pytest.mark.parametrize("protocol", _PROTOCOLS)
@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("windows", [0, 1, 2])
def test_it_equals_the_split_made_in_memory(protocol, repeats, windows, tmp_path):
  log, settings = _log(repeats=repeats), _SETTINGS | {"train_windows": windows}
  asked = protocols.parse(protocol)
  wanted = asked.split(log, **settings)
  for _ in range(2):  # made, and found
    found = split_cache.split(_source(log), asked, tmp_path, **settings)
    assert found == wanted
    assert found.fingerprint == wanted.fingerprint
    assert found.num_skipped == wanted.num_skipped
    assert found.mapped_from is not None
    assert np.array_equal(found.train_counts, wanted.train_counts)


def test_ids_beyond_a_table_are_searched_for(monkeypatch, tmp_path):
  monkeypatch.setattr("mlrec.data.split_cache._MOST_LOOKED_UP", 20)
  log, asked = _log(repeats=True), protocols.parse("leave_one_out")
  assert split_cache.split(_source(log), asked, tmp_path, **_SETTINGS) == asked.split(log, **_SETTINGS)


def test_the_same_is_told_as_in_memory(caplog, tmp_path):
  log, asked = _log(repeats=True), protocols.parse("leave_one_out")
  # As where a file is read.
  warn_of_repeated_users(log.source, log.line_users)
  asked.split(log, **_SETTINGS)
  told = [record.getMessage() for record in caplog.records]
  caplog.clear()
  split_cache.split(_source(log), asked, tmp_path, **_SETTINGS)
  assert [record.getMessage() for record in caplog.records] == told
  assert any("skipped" in line for line in told)


def test_settings_and_logs_have_splits_of_their_own(tmp_path):
  log, asked = _log(repeats=False), protocols.parse("leave_one_out")
  longer = _SETTINGS | {"max_length": 6}
  first = split_cache.split(_source(log), asked, tmp_path, **_SETTINGS)
  other = split_cache.split(_source(log), asked, tmp_path, **longer)
  assert other == asked.split(log, **longer)
  source = dataclasses.replace(_source(_log(repeats=False, users=30)), identity={"log": 2})
  assert split_cache.split(source, asked, tmp_path, **_SETTINGS).num_users < first.num_users


def test_what_was_interrupted_goes_on_where_it_was(tmp_path):
  log, asked = _log(repeats=True), protocols.parse("leave_one_out")
  started: list[int] = []

  def stop(start):
    started.append(start)
    if start == 28:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    split_cache.split(_source(log, on_chunk=stop), asked, tmp_path, **_SETTINGS)
  again: list[int] = []
  found = split_cache.split(_source(log, on_chunk=again.append), asked, tmp_path, **_SETTINGS)
  assert (started[-1], again[0]) == (28, 28)
  assert found == asked.split(log, **_SETTINGS)
  (place,) = tmp_path.iterdir()
  assert sorted(path.name for path in place.iterdir()) == ["data.safetensors", "ids.safetensors", "lock"]


def test_what_was_half_written_after_the_last_note_of_it_is_cut_off(tmp_path):
  log, asked = _log(repeats=False), protocols.parse("leave_one_out")

  def stop(start):
    if start == 28:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    split_cache.split(_source(log, on_chunk=stop), asked, tmp_path, **_SETTINGS)
  (place,) = tmp_path.iterdir()
  for name in ("users", "items"):
    with (place / "under_way" / name).open("ab") as file:
      file.write(b"\x01" * 13)
  assert split_cache.split(_source(log), asked, tmp_path, **_SETTINGS) == asked.split(log, **_SETTINGS)


@pytest.mark.parametrize("damaged", ["data.safetensors", "ids.safetensors"])
def test_what_is_damaged_is_named_and_made_again(damaged, tmp_path, caplog):
  log, asked = _log(repeats=False), protocols.parse("leave_one_out")
  split_cache.split(_source(log), asked, tmp_path, **_SETTINGS)
  (path,) = tmp_path.glob(f"*/{damaged}")
  content = bytearray(path.read_bytes())
  content[-9] ^= 1
  path.unlink()
  path.write_bytes(content)
  caplog.clear()
  assert split_cache.split(_source(log), asked, tmp_path, **_SETTINGS) == asked.split(log, **_SETTINGS)
  assert f"{damaged}: " in caplog.text
  assert "made again" in caplog.text


def test_whoever_comes_second_waits(tmp_path, monkeypatch, capsys):
  log, asked = _log(repeats=False), protocols.parse("leave_one_out")
  split_cache.split(_source(log), asked, tmp_path, **_SETTINGS)
  (place,) = tmp_path.iterdir()
  (place / "data.safetensors").unlink()
  lock = files.try_lock(place / "lock")
  files.sign_lock(lock)
  monkeypatch.setattr("time.sleep", lambda seconds: lock.close())
  assert split_cache.split(_source(log), asked, tmp_path, **_SETTINGS) == asked.split(log, **_SETTINGS)
  assert "waiting for process" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["tsv", "csv", "inter"])
def test_a_log_that_is_changed_while_it_is_read_is_refused_and_nothing_of_it_kept(ending, tmp_path):
  rows = [(user, user + place, place) for user in range(1, 9) for place in range(6)]
  texts = {
    "tsv": "".join(f"{user}\t{' '.join(str(user + place) for place in range(6))}\n" for user in range(1, 9)),
    "csv": "user,item,timestamp\n" + "".join("{},{},{}\n".format(*row) for row in rows),
    "inter": "userID\titemID\ttimestamp\tx_label\n" + "".join("{}\t{}\t{}\t0\n".format(*row) for row in rows),
  }
  path = tmp_path / f"log_pairs.{ending}"
  path.write_text(texts[ending])
  source = of_labelled(path) if ending == "inter" else of_pairs(path)

  def changing(position, folder):
    yield from source.chunks(position, folder)
    path.write_text(texts[ending] + texts[ending].splitlines()[-1] + "\n")

  folder, protocol = tmp_path / "splits", protocols.parse("leave_one_out")
  with pytest.raises(DataError, match=r"log_pairs\.\w+ was changed while it was read: run again"):
    split_cache.split(dataclasses.replace(source, chunks=changing), protocol, folder, **_SETTINGS)
  assert {each.name for each in folder.rglob("*") if each.is_file()} <= {"lock"}
  path.write_text(texts[ending])
  again = of_labelled(path) if ending == "inter" else of_pairs(path)
  assert split_cache.split(again, protocol, folder, **_SETTINGS).num_users == 8


def test_a_log_that_does_not_serve_is_refused(tmp_path):
  log, asked = _log(repeats=False), protocols.parse("leave_one_out")
  with pytest.raises(DataError, match="log: none of 80 users has 50 items"):
    split_cache.split(_source(log), asked, tmp_path, **(_SETTINGS | {"min_length": 50}))
  with pytest.raises(DataError, match="min_length must be at least 3"):
    split_cache.split(_source(log), asked, tmp_path, **(_SETTINGS | {"min_length": 2}))


def test_what_does_not_serve_is_refused_by_each_run(tmp_path):
  log = Interactions(np.arange(8), Rows.from_lists([[1, 2, 3, 4, 5]] * 8), "log", timestamps=np.arange(40))
  for _ in range(2):
    with pytest.raises(DataError, match="no user has both a valid item"):
      split_cache.split(_source(log), protocols.parse("time:0.999,0.0005"), tmp_path, **_SETTINGS)
    (place,) = tmp_path.iterdir()
    assert [path.name for path in place.iterdir()] == ["lock"], "nothing of the log's size is left"


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
  """A log and a protocol, of whose split in `tmp_path` all lines have been read, and the rows were not made."""
  log, asked = _log(repeats=True), protocols.parse("leave_one_out")
  with monkeypatch.context() as patch:
    patch.setattr(split_cache._Making, "_numbered", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      split_cache.split(_source(log), asked, tmp_path, **_SETTINGS)
  return log, asked


@pytest.mark.parametrize("lost", ["items", "users", "lengths"])
def test_a_file_of_an_interrupted_making_that_is_lost_has_it_begin_again(lost, interrupted, tmp_path):
  log, asked = interrupted
  (path,) = tmp_path.glob(f"*/under_way/{lost}")
  path.unlink()
  assert split_cache.split(_source(log), asked, tmp_path, **_SETTINGS) == asked.split(log, **_SETTINGS)


@pytest.mark.parametrize("damaged", ["items", "users", "lengths", "whole", "short", "progress.json"])
def test_a_file_of_an_interrupted_making_that_is_damaged_has_it_begin_again(damaged, interrupted, tmp_path):
  log, asked = interrupted
  (path,) = tmp_path.glob(f"*/under_way/{damaged}")
  content = bytearray(path.read_bytes())
  # Of the note a digit of how many users there are, which leaves it JSON.
  place = content.index(b'"users": ') + len(b'"users": ') if damaged == "progress.json" else 0
  content[place] ^= 1
  path.write_bytes(content)
  begun: list[int] = []
  found = split_cache.split(_source(log, on_chunk=begun.append), asked, tmp_path, **_SETTINGS)
  assert begun[0] == 0
  assert found == asked.split(log, **_SETTINGS)


def test_lines_that_name_a_user_again_are_told_as_of_a_log_in_memory(tmp_path, caplog):
  log = _log(repeats=True)
  split_cache.split(_source(log), protocols.parse("leave_one_out"), tmp_path, **_SETTINGS)
  again = len(log.line_users) - len(log.users)
  assert f"log: {again} lines name a user again" in caplog.text


def test_a_finished_split_is_mapped_where_nothing_can_be_written(tmp_path):
  log, asked = _log(repeats=False), protocols.parse("leave_one_out")
  split_cache.split(_source(log), asked, tmp_path, **_SETTINGS)
  (place,) = tmp_path.iterdir()
  (place / "lock").unlink()
  (place / "lock").mkdir()
  assert split_cache.split(_source(log), asked, tmp_path, **_SETTINGS) == asked.split(log, **_SETTINGS)


def test_what_stands_in_the_way_is_removed(tmp_path):
  log, asked = _log(repeats=False), protocols.parse("leave_one_out")
  split_cache.split(_source(log), asked, tmp_path, **_SETTINGS)
  (place,) = tmp_path.iterdir()
  for name in ("data.safetensors", "ids.safetensors"):
    (place / name).unlink()
    (place / name).mkdir()
  (place / "under_way").write_text("")
  assert split_cache.split(_source(log), asked, tmp_path, **_SETTINGS) == asked.split(log, **_SETTINGS)


def test_a_folder_that_cannot_be_is_told(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(DataError, match=r"its split cannot be kept in .*file"):
    split_cache.split(_source(_log(repeats=False)), protocols.parse("none"), tmp_path / "file", **_SETTINGS)


def test_where_a_damaged_split_cannot_be_made_again_both_are_told(tmp_path, monkeypatch):
  source, asked = _source(_log(repeats=False)), protocols.parse("none")
  split_cache.split(source, asked, tmp_path, **_SETTINGS)
  (place,) = tmp_path.iterdir()
  data = place / "data.safetensors"
  data.write_bytes(data.read_bytes()[:-9])

  def refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))

  monkeypatch.setattr(files, "try_lock", refuse)
  with pytest.raises(DataError, match=r"the split that is kept there is damaged .*; .*cannot be kept in .*denied"):
    split_cache.split(source, asked, tmp_path, **_SETTINGS)


def test_a_full_disk_is_no_mistake_in_what_was_asked_for(tmp_path, monkeypatch):
  def fill(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(split_cache.kept_split, "write", fill)
  with pytest.raises(OSError, match="No space left") as stopped:
    split_cache.split(_source(_log(repeats=False)), protocols.parse("none"), tmp_path, **_SETTINGS)
  assert files.is_disk_full(stopped.value)
  (place,) = tmp_path.iterdir()
  assert stopped.value.filename == str(place)


def test_a_run_has_the_file_of_the_split_without_a_copy(tmp_path):
  found = split_cache.split(_source(_log(repeats=False)), protocols.parse("none"), tmp_path / "cache", **_SETTINGS)
  from mlrec.data import kept_split
  from mlrec.data.id_map import IdMap

  kept_split.write(found, tmp_path / "kept")
  IdMap.of(found).write(tmp_path / "ids")
  assert (tmp_path / "kept").stat().st_ino == found.mapped_from.stat().st_ino
  assert kept_split.read(tmp_path / "kept", tmp_path / "ids") == found
  assert dataclasses.replace(found, num_new=1).mapped_from is None
