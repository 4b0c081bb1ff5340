"""The command, and the folder that it makes: whole or not there, and made once."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mlrec import ingest
from mlrec.data import DataError
from mlrec.data import ingested
from mlrec.sources import load_interactions
from support import clips
from support import pictures

ROOT = pathlib.Path(__file__).parents[1]
LOG = "user,item,time\n" + "".join(f"u{n % 3},{n % 7 + 1},{1_700_000_000 + n}\n" for n in range(30))


@pytest.fixture
def log(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text(LOG)
  return path


def _run(*arguments):
  return ingest.main(["ingest", *map(str, arguments)])


def test_the_command_says_what_it_guessed_and_what_became_of_the_log(log, tmp_path, capsys):
  out = tmp_path / "new" / "out"
  assert _run(f"--interactions={log}", f"--to={out}", "--repeats=last", "--core=2,3") == 0
  said = capsys.readouterr().out
  for words in ("user from 'user', item from 'item', time from 'time'", "seconds by their size", "ids are texts"):
    assert words in said
  assert f"--config.data.source={out}" in said
  assert sorted(path.name for path in out.iterdir()) == ["ingest.json", "microlens", "report.json", "report.md"]
  assert [path.name for path in out.parent.iterdir()] == ["out"]
  assert json.loads((out / "report.json").read_text())["log"]["rows"] == 30
  assert "the last one counts" in (out / "report.md").read_text()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "--to=DIR is required"),
    (("--to=out",), "--interactions=FILE is required"),
    (("--to=out", "log"), "unexpected argument 'log'"),
    (("--to=out", "--interaction=log"), "Did you mean: interactions"),
    (("--to=out", "--interactions=none"), "--interactions=none: no such file"),
    (("--to=out", "--interactions=lug.csv"), "--interactions=lug.csv: no such file; did you mean 'log.csv'?"),
    (("--to=out", "--interactions=log.csv", "--items=itms.csv"), "--items=itms.csv: no such file"),
    (("--to=out", "--interactions=log.csv", "--user=usr"), "--user=usr is none of its columns, did you mean 'user'?"),
    (
      ("--to=out", "--interactions=log.csv", "--user=usr", "--item=clip", "--time=tme", "--rating=stars"),
      "log.csv: --user=usr is none of its columns, did you mean 'user'?; --item=clip is none of its columns; "
      "--time=tme is none of its columns, did you mean 'time'?; --rating=stars is none of its columns; its columns are "
      "'user', 'item', 'time'",
    ),
    (("--to=a\0b", "--interactions=log.csv"), "--to=a\\x00b: a name has no NUL character in it"),
    (("--to=out", "--interactions=a\0b"), "--interactions=a\\x00b: a name has no NUL character in it"),
    (("--to=out", "--interactions=log.csv", "--media=a\0b"), "--media=a\\x00b: a name has no NUL character in it"),
    (("--to=log.csv/out", "--interactions=log.csv"), "log.csv is no folder"),
  ],
)  # fmt: skip
def test_mistakes_are_told_in_a_line(arguments, message, log, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert _run(*arguments) == 2
  told = capsys.readouterr().err
  assert told.startswith("error: ")
  assert message in told
  assert told.count("\n") == 1
  assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_the_same_command_finds_its_folder_and_another_is_refused(log, tmp_path, capsys):
  out = tmp_path / "out"
  out.mkdir()  # an empty folder is as good as none
  assert _run(f"--interactions={log}", f"--to={out}") == 0
  before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
  assert _run(f"--interactions={log}", f"--to={out}") == 0
  assert "is there already" in capsys.readouterr().out
  assert _run(f"--interactions={log}", f"--to={out}", "--core=2") == 2
  assert "it was made of something else (--core differ)" in capsys.readouterr().err
  log.write_text(LOG + "u0,1,1800000000\n")
  assert _run(f"--interactions={log}", f"--to={out}") == 2
  assert "the content of --interactions" in capsys.readouterr().err
  assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "file").touch()
  for other in (log, tmp_path / "full", "/"):
    assert _run(f"--interactions={log}", f"--to={other}") == 2
    assert "mlrec.ingest did not make it" in capsys.readouterr().err


def test_a_folder_that_is_damaged_or_unfinished_is_told(log, tmp_path):
  out = tmp_path / "out"
  ingest.ingest(log, to=out)
  (shard,) = out.glob("microlens/own-histories/*/*array_record*")
  content = shard.read_bytes()
  shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(DataError, match=r"not what was written.*python -m mlrec\.ingest"):
    load_interactions(str(out))
  shard.write_bytes(content)
  assert len(load_interactions(str(out)).users) == 3
  marker = out / ingested.MARKER
  marker.write_text(marker.read_text().replace("own-items", "own-itens"))
  with pytest.raises(DataError, match=r"ingest\.json: it is not what was written"):
    load_interactions(str(out))
  marker.unlink()
  with pytest.raises(DataError, match=r"a folder that python -m mlrec\.ingest has made and finished"):
    load_interactions(str(out))


def test_a_run_that_stops_leaves_no_folder_and_the_same_command_takes_up_its_media(log, tmp_path, monkeypatch):
  from tfds_microlens import covers

  media, out = tmp_path / "media", tmp_path / "out"
  media.mkdir()
  for item in range(1, 8):
    (media / f"{item}.png").write_bytes(pictures.coded(pictures.halves()))
  made, keep = [], covers.Covers.keep

  class Stopped(BaseException):
    pass

  def keep_some(medium, item):
    if len(made) == stop_after:
      raise Stopped
    made.append(item)
    return keep(medium, item)

  monkeypatch.setattr(covers.Covers, "keep", keep_some)
  monkeypatch.setattr("mlrec.machine.usable_cores", lambda: 1)
  stop_after = 4
  with pytest.raises(Stopped):
    ingest.ingest(log, to=out, media=media, cover=16)
  assert not out.exists()
  stop_after = -1
  # Of another command the rest is of no use.
  report = ingest.ingest(log, to=tmp_path / "other", media=media, cover=16)
  assert len(made) == 4 + 7
  assert ingest.ingest(log, to=out, media=media, cover=16) == report
  assert len(made) == 4 + 7 + 3
  assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "media", "other", "out"]


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_folder_and_the_same_command_takes_up_its_media(log, tmp_path):
  media = tmp_path / "media"
  media.mkdir()
  for item in range(1, 8):
    clips.write_clip(media / f"{item}.mp4", clips.pictures(6))
    (media / f"{item}.png").write_bytes(pictures.coded(pictures.halves()))
  out, unfinished = tmp_path / "out", tmp_path / ".out.unfinished"
  options = [f"--interactions={log}", f"--media={media}", "--frames=2x16", "--cover=16", f"--to={out}"]
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  process = subprocess.Popen([sys.executable, "-m", "mlrec.ingest", *options], env=environment)
  deadline = time.monotonic() + 120
  while not list(unfinished.glob("microlens/.own-*/*/*.cover")) and time.monotonic() < deadline:
    assert process.poll() is None or out.exists()
    if out.exists():
      break
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  process.wait()
  if out.exists():
    pytest.skip("it was finished before it could be killed")
  kept = {path: path.stat().st_mtime_ns for path in unfinished.glob("microlens/.own-*/*/*.cover")}
  report = ingest.ingest(log, to=out, media=media, frames="2x16", cover="16")
  assert kept
  assert report["media"]["made"]["videos"]["with"] == 7
  assert not unfinished.exists()
  assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "media", "out"]


def test_errors_of_the_system_name_the_folder_that_was_asked_for(log, tmp_path, monkeypatch):
  from tfds_microlens.ingest import log as log_lib

  for code, message in (
    (errno.EACCES, "cannot be used: Permission denied"),
    (errno.ENOSPC, "no space left on the disk"),
  ):

    def fail(file, records, code=code):
      raise OSError(code, os.strerror(code), file.name)

    monkeypatch.setattr(log_lib, "append", fail)
    with pytest.raises(DataError, match=message) as told:
      ingest.ingest(log, to=tmp_path / "out")
    assert str(told.value).startswith(f"{tmp_path / 'out'}: ")
    assert "unfinished" not in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_the_usual_names_of_columns_are_told_by_the_help(capsys):
  from tfds_microlens.ingest import columns

  assert _run("--help") == 0
  said = capsys.readouterr().out
  assert columns.USUAL.keys() == {"user", "item", "time", "rating", "title"}
  for role, names in columns.USUAL.items():
    assert f"  {role}: {', '.join(names)}" in said


def test_only_what_is_wrong_with_a_log_is_a_warning(tmp_path, caplog):
  rows = [f"u{n % 4},{n},{1 + n % 5},{1_700_000_000 + n}" for n in range(40)]
  (tmp_path / "log.csv").write_text("user,item,rating,time\n" + "\n".join(rows))
  said = []
  ingest.ingest(tmp_path / "log.csv", to=tmp_path / "well", min_rating=3, core="2,1", say=said.append)
  assert not caplog.records
  assert "of 40 rows 24 are left: 16 rated below 3" in said
  (tmp_path / "log.csv").write_text("user,item,rating,time\n" + "\n".join([*rows, ",7,5,1700000000", rows[3]]))
  ingest.ingest(tmp_path / "log.csv", to=tmp_path / "badly", min_rating=3)
  assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
    "left out: 1 without a user (row 41 first)",
    "1 rows are there twice: the same user, item and time; repeats='last' merges them, as all that a user has again",
  ]
