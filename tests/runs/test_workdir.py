"""Whose a workdir is: its lock, its claim, and what of it can be lost."""

import json
import os
import signal
import socket

import pytest

from mlrec.config import ConfigError
from mlrec.runs.workdir import Workdir
from support.tiny_runs import assert_same_run
from support.tiny_runs import main_command
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import saved_steps
from support.tiny_runs import started
from support.tiny_runs import tiny_arguments
from support.tiny_runs import wait_for


def test_a_second_run_in_a_workdir_is_told_who_has_it_and_leaves_it_alone(run_tiny, tmp_path):
  run = tmp_path / "run"
  with Workdir(run).locked():
    before = sorted(run.iterdir())
    with pytest.raises(ConfigError, match=rf"in use by process {os.getpid()} on {socket.gethostname()}: wait for it"):
      run_tiny(run)
    assert sorted(run.iterdir()) == before
  run_tiny(run, **{"train.epochs": 1})


def test_of_two_commands_in_one_workdir_the_first_ends_as_if_it_were_alone(command, finished, pairs_file, tmp_path):
  run = tmp_path / "run"
  arguments = tiny_arguments(pairs_file, run)
  with started(main_command(*arguments)) as first:
    wait_for(lambda: (run / "config.json").exists(), process=first)
    first.send_signal(signal.SIGSTOP)
    second = command(*arguments)
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=300)
  assert second.returncode == 2
  assert second.stderr.strip().splitlines()[-1].startswith(f"error: {run} is in use by process {first.pid} on ")
  assert "Traceback" not in second.stderr
  assert first.returncode == 0, errors
  assert_same_run(run, finished)


def test_a_lock_ends_with_its_process(program, run_tiny, tmp_path):
  run = tmp_path / "run"
  text = """
    import os, pathlib, signal, sys
    from mlrec.runs.workdir import Workdir
    with Workdir(pathlib.Path(sys.argv[1])).locked():
      os.kill(os.getpid(), signal.SIGKILL)
  """
  assert program(text, run).returncode == -signal.SIGKILL
  assert read_json(run / "run.lock")["host"] == socket.gethostname()
  run_tiny(run, **{"train.epochs": 1})


# Kills the process at a place of its start.
_KILLED = """
  import os, signal
  import mlrec.main
  from mlrec.runs import workdir
  from mlrec.train import checkpoint

  def killed(*unused, **options):
    os.kill(os.getpid(), signal.SIGKILL)

  {owner} = killed
  mlrec.main.command_line.run(mlrec.main.main, mlrec.main._parse_flags)
"""


@pytest.mark.parametrize(
  "owner",
  [
    "workdir.Workdir.claim",
    "workdir.files.write_json",
    pytest.param("checkpoint.Checkpoints.restore_latest", marks=pytest.mark.slow),
    pytest.param("checkpoint.Checkpoints.save", marks=pytest.mark.slow),
    "checkpoint.ocp.CheckpointManager.save",
  ],
)
def test_a_run_killed_before_its_first_checkpoint_leaves_a_folder_for_any_run(
  owner, program, run_tiny, pairs_file, tmp_path
):
  run = tmp_path / "run"
  done = program(_KILLED.format(owner=owner), *tiny_arguments(pairs_file, run))
  assert done.returncode == -signal.SIGKILL, done.stderr
  assert not saved_steps(run)
  assert run_tiny(run, **{"model.dim": 4, "train.epochs": 1})["best_step"]


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"init_from": "nothing"}, r"config\.init_from = .*nothing"),
    ({"user": {"name": "sasrec", "heads": 3}}, r"config\.model\.user\.heads = 3"),
    ({"optimizer.lr": 0.0}, r"config\.optimizer\.lr"),
  ],
)
def test_what_is_refused_does_not_keep_the_corrected_run_out(wrong, message, run_tiny, finished, tmp_path):
  with pytest.raises(ValueError, match=message):
    run_tiny(tmp_path / "run", **wrong)
  run_tiny(tmp_path / "run")
  assert_same_run(tmp_path / "run", finished)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["config.json", "result.json", "run.lock", "metrics.jsonl", "ids.safetensors"])
def test_what_takes_the_place_of_a_runs_own_files_is_named(name, make, run_tiny, tmp_path):
  (tmp_path / "w").mkdir()
  make(tmp_path / "w" / name)
  with pytest.raises(ConfigError, match=f"{name} is no file"):
    run_tiny(tmp_path / "w")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"model": '])
def test_a_result_that_is_cut_off_is_told(text, copied, run_tiny):
  (copied / "result.json").write_text(text)
  with pytest.raises(ConfigError, match=r"result\.json: it is no result of mlrec\.main"):
    run_tiny(copied)


def test_the_names_of_a_workdir_may_be_any_text(run_tiny, finished, tmp_path):
  run = tmp_path / "ünï cødé %41 #?&*]{x}"
  run_tiny(run)
  assert_same_run(run, finished)


@pytest.mark.parametrize("name", ["a[b]", "a[b/run", "a\\b"])
def test_names_whose_checkpoints_would_be_lost_are_refused(name, run_tiny, tmp_path):
  with pytest.raises(ConfigError, match="Orbax loses checkpoints whose path has a"):
    run_tiny(tmp_path / name)
  assert not (tmp_path / name).exists()


def test_a_name_that_is_no_text_is_refused(run_tiny, tmp_path):
  with pytest.raises(ConfigError, match="is no UTF-8 text"):
    run_tiny(tmp_path / os.fsdecode(b"n\xff"))


@pytest.mark.parametrize("name", ["a" * 300, "/".join(["abcdefghi"] * 600)])
def test_names_that_are_too_long_are_refused(name, run_tiny, tmp_path):
  with pytest.raises(ConfigError, match="File name too long"):
    run_tiny(tmp_path / name)


def test_lines_of_metrics_that_are_no_text_are_dropped_on_resuming(copied, finished, run_tiny):
  (copied / "result.json").unlink()
  with (copied / "metrics.jsonl").open("ab") as file:
    file.write(b'\xff\xfe\x00{"step": 1}\n' + json.dumps({"step": "x"}).encode())
  run_tiny(copied)
  assert metric_lines(copied) == metric_lines(finished)
