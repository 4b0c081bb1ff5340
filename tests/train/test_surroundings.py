"""What a command does where its surroundings give way: pipes, streams, interrupts, disks, limits."""

import ast
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest

from mlrec import files
from mlrec import machine
from mlrec import terminal
from mlrec.train.stop import StopSignal
from support.tiny_runs import assert_same_run
from support.tiny_runs import environment
from support.tiny_runs import main_command
from support.tiny_runs import ROOT
from support.tiny_runs import saved_steps
from support.tiny_runs import started
from support.tiny_runs import tiny_arguments

_COMMANDS = ("main", "sweep", "study", "report", "features", "convert")


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_any_more_saves_and_ends_quietly(command, finished, pairs_file, tmp_path):
  arguments = tiny_arguments(pairs_file, tmp_path / "run")
  with started(main_command(*arguments)) as process:
    assert "310 users" in process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(timeout=300)
  assert process.returncode == 0, errors
  assert "Traceback" not in errors
  assert "Exception ignored" not in errors
  assert saved_steps(tmp_path / "run"), "it was asked to stop, and has saved"
  assert not (tmp_path / "run" / "result.json").exists()
  assert command(*arguments).returncode == 0
  assert_same_run(tmp_path / "run", finished)


def _slow(*values):
  return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize("closed", ["2>&-", *map(_slow, (">&- 2>&-", ">&-", "2>&- <&-"))])
def test_closed_streams_keep_no_run_from_its_end(closed, finished, pairs_file, tmp_path):
  program = ["sh", "-c", f'"$@" {closed}', "sh", *main_command(*tiny_arguments(pairs_file, tmp_path / "run"))]
  done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr
  assert_same_run(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_output_that_cannot_be_written_is_lost_and_the_run_is_not(pairs_file, tmp_path):
  program = ["sh", "-c", '"$@" >/dev/full', "sh", *main_command(*tiny_arguments(pairs_file, tmp_path / "run"))]
  done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=300)
  assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
  assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_written_as_escapes(encoding, command, pairs_file, tmp_path):
  arguments = tiny_arguments(pairs_file, tmp_path / "rün", **{"train.epochs": 1})
  done = command(*arguments, PYTHONIOENCODING=encoding)
  assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
  done = command("--config=ü.py", PYTHONIOENCODING=encoding)
  assert done.returncode == 2
  assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", _COMMANDS)
def test_commands_are_ready_for_ctrl_c_before_they_import_anything(name):
  tree = ast.parse((ROOT / "mlrec" / f"{name}.py").read_text(encoding="utf-8"))
  first = tree.body[1]
  assert isinstance(first, ast.If)
  assert ast.unparse(first.test) == "__name__ == '__main__'"
  assert "startup.prepare()" in ast.unparse(first)


def ended_by(program: str) -> subprocess.CompletedProcess:
  # Where the tests run in the background of a shell, processes inherit that Ctrl-C is ignored.
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program)], env=environment(), capture_output=True, text=True, timeout=300,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )  # fmt: skip


def test_ctrl_c_while_a_command_starts_ends_it_without_a_word():
  done = ended_by("""
    from mlrec import startup
    startup.prepare()
    import os, signal
    os.kill(os.getpid(), signal.SIGINT)
    print("still here")
  """)
  assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_twice_ends_a_run_without_a_word():
  done = ended_by("""
    from mlrec import startup
    startup.prepare()
    import os, signal
    from mlrec.train.stop import StopSignal
    with StopSignal() as stop:
      os.kill(os.getpid(), signal.SIGINT)
      assert stop.agreed()
      print("asked", flush=True)
      os.kill(os.getpid(), signal.SIGINT)
      print("still here")
  """)
  assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "asked\n", "")


@pytest.fixture
def as_in_a_notebook():
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("as_in_a_notebook")
def test_ctrl_c_twice_in_a_notebook_is_a_keyboard_interrupt_there():
  with StopSignal() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.agreed()
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_begins_after_its_reader_has_gone_is_asked_to_stop(monkeypatch):
  read, write = os.pipe()
  os.close(read)
  lost = type(terminal._lost)()
  monkeypatch.setattr(terminal, "_lost", lost)
  with os.fdopen(write, "w") as stream:
    terminal.write("nobody reads this\n", stream)
    terminal.write("nor this\n", stream)
  with StopSignal() as stop:
    assert stop.agreed()
  lost.clear()
  with StopSignal() as stop:
    assert not stop.agreed()


def test_a_checkpoint_that_would_not_fit_is_refused_before_it_is_begun(run_tiny, finished, tmp_path, monkeypatch):
  with monkeypatch.context() as full:
    full.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 1000))
    with pytest.raises(OSError, match=r"a checkpoint of \d+ MiB, and 0 MiB are free") as stopped:
      run_tiny(tmp_path / "run")
  assert stopped.value.errno == errno.ENOSPC
  assert files.is_disk_full(stopped.value)
  assert not list((tmp_path / "run" / "checkpoints").iterdir())
  run_tiny(tmp_path / "run")
  assert_same_run(tmp_path / "run", finished)


def test_too_few_open_files_are_told_at_once(pairs_file, tmp_path):
  arguments = main_command(*tiny_arguments(pairs_file, tmp_path / "run"))
  done = subprocess.run(
    ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *arguments], env=environment(), capture_output=True, text=True
  )
  assert done.returncode == 2
  assert done.stderr.strip().splitlines()[-1] == (
    "error: this process may have 40 files open at once (ulimit -n), and checkpoints need 96"
  )
  assert not (tmp_path / "run").exists()


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_lets():
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    assert machine.allow_open_files(100) == 100
    assert machine.allow_open_files(80) == 100
  finally:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_name_of_data_that_is_too_long_is_told(command, tmp_path):
  done = command(*tiny_arguments("a" * 300 + "_pairs.tsv", tmp_path / "run"))
  assert done.returncode in (1, 2)
  assert "Traceback" not in done.stderr
  assert done.stderr.strip().endswith("File name too long")
