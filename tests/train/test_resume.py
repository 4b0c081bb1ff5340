"""A run that was stopped or killed, at any moment, is resumed as if nothing had happened: bit for bit."""

import json
import os
import pathlib
import random
import shutil
import signal
import time

import numpy as np
import pytest

from mlrec import rows_in_lines
from mlrec.config import ConfigError
from mlrec.train import evaluator
from mlrec.train.record import Record
from mlrec.train.stop import Interrupted
from support.tiny_runs import assert_same_arrays
from support.tiny_runs import assert_same_run
from support.tiny_runs import main_command
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import run_to_the_end
from support.tiny_runs import saved_arrays
from support.tiny_runs import saved_steps
from support.tiny_runs import started
from support.tiny_runs import StopAt
from support.tiny_runs import TINY
from support.tiny_runs import tiny_arguments
from support.tiny_runs import wait_for

# Kills the process itself, as a machine that dies would, at the n-th call of a function that it wraps.
_KILLED_AT = """
  import os, signal, sys
  from mlrec import main
  from mlrec.train import checkpoint, loop, progress

  calls = 0

  def killed(owner, name, at, *, after):
    real = getattr(owner, name)

    def call(*arguments, **options):
      global calls
      calls += 1
      if calls == at and not after:
        os.kill(os.getpid(), signal.SIGKILL)
      result = real(*arguments, **options)
      if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
      return result

    setattr(owner, name, call)

  killed({owner}, {name!r}, {at}, after={after})
  main.command_line.run(main.main, main._parse_flags)
"""


@pytest.mark.parametrize("looks", [(1,), (1, 2, 3, 4)])
def test_a_stopped_run_is_resumed_bit_for_bit(looks, run_tiny, finished, tmp_path):
  run_to_the_end(run_tiny, tmp_path / "run", stop=StopAt(*looks), stops=len(looks))
  assert_same_run(tmp_path / "run", finished)


def test_a_run_that_saves_in_between_is_the_same_run(run_tiny, finished, tmp_path):
  run_to_the_end(run_tiny, tmp_path / "run", stop=StopAt(3), stops=1, **{"checkpoint.every_steps": 4})
  assert_same_run_but_for_its_config(tmp_path / "run", finished)


def test_a_run_whose_table_lies_in_lines_saves_and_resumes_as_others_do(run_tiny, tmp_path, monkeypatch):
  options = {"checkpoint.every_steps": 4, "train.ema_decay": 0.9, "optimizer.item_tables": "lazy_adamw"}
  run_tiny(tmp_path / "as it is", **options)
  # Four rows of the 101 in a line: the last is not full.
  monkeypatch.setitem(rows_in_lines.LANES, "cpu", 4 * TINY["model.dim"])
  run_tiny(tmp_path / "in lines", **options)
  run_to_the_end(run_tiny, tmp_path / "stopped", stop=StopAt(3), stops=1, **options)
  assert_same_run(tmp_path / "stopped", tmp_path / "in lines")
  wanted, found = saved_arrays(tmp_path / "as it is"), saved_arrays(tmp_path / "in lines")
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_mean_loss_of_an_epoch_is_of_all_its_steps_where_it_was_stopped_too(run_tiny, tmp_path, capsys):
  run_tiny(tmp_path / "whole")
  whole = [line for line in capsys.readouterr().err.splitlines() if "mean loss" in line]
  run_to_the_end(run_tiny, tmp_path / "stopped", stop=StopAt(2), stops=1)
  stopped = [line for line in capsys.readouterr().err.splitlines() if "mean loss" in line]
  assert saved_steps(tmp_path / "whole") == saved_steps(tmp_path / "stopped")
  assert whole
  assert stopped == whole


def test_a_run_is_not_taken_for_one_of_fewer_epochs_than_it_had(run_tiny, tmp_path):
  run_tiny(tmp_path / "run", **{"train.epochs": 2})
  before = read_json(tmp_path / "run" / "config.json"), read_json(tmp_path / "run" / "result.json")
  with pytest.raises(ConfigError, match=r"config\.train\.epochs = 1 are \d+ steps, and the run in .* has taken"):
    run_tiny(tmp_path / "run", **{"train.epochs": 1})
  assert (read_json(tmp_path / "run" / "config.json"), read_json(tmp_path / "run" / "result.json")) == before


def assert_same_run_but_for_its_config(actual, expected):
  assert_same_arrays(saved_arrays(actual), saved_arrays(expected))
  assert metric_lines(actual) == metric_lines(expected)
  results = [read_json(workdir / "result.json") for workdir in (actual, expected)]
  assert [results[0][split] for split in ("valid", "test")] == [results[1][split] for split in ("valid", "test")]


def test_a_run_with_a_moving_average_is_resumed_bit_for_bit(run_tiny, tmp_path):
  settings = {"train.ema_decay": 0.9, "train.epochs": 2}
  run_tiny(tmp_path / "whole", **settings)
  run_to_the_end(run_tiny, tmp_path / "run", stop=StopAt(2), stops=1, **settings)
  assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_is_set_to_another_year_changes_nothing(years, run_tiny, finished, tmp_path, monkeypatch):
  """In the midst of a run, and again while it is stopped."""
  real, calls = time.time, 0

  def jumping() -> float:
    nonlocal calls
    calls += 1
    return real() + (years * 365 * 86400 if calls % 3 else 0)

  monkeypatch.setattr(time, "time", jumping)
  workdir = tmp_path / "run"
  run_to_the_end(run_tiny, workdir, stop=StopAt(3), stops=1)
  monkeypatch.setattr(time, "time", lambda: real() - years * 365 * 86400)
  run_tiny(workdir, **{"train.epochs": 3})
  assert calls > 3
  assert_same_run(workdir, finished)
  assert 0 < read_json(workdir / "result.json")["seconds"] < 300


def test_patience_and_the_best_survive_a_stop(run_tiny, tmp_path, monkeypatch):
  settings = {"train.patience": 1, "train.epochs": 6}
  real = evaluator.Evaluator.figures
  scores = iter([0.5, 0.6, 0.4])

  def figures(self, ranked, name):
    return real(self, ranked, name) | ({"hr@10": next(scores, 0.6)} if name == "valid" else {})

  monkeypatch.setattr(evaluator.Evaluator, "figures", figures)
  # After the second validation.
  run_to_the_end(run_tiny, tmp_path / "run", stop=StopAt(5), stops=1, **settings)
  result = read_json(tmp_path / "run" / "result.json")
  assert result["best_step"] == 20
  assert [line["hr@10"] for line in metric_lines(tmp_path / "run") if line["split"] == "valid"] == [0.5, 0.6, 0.4]


def test_a_run_whose_epochs_are_one_group_of_steps_stops_too(run_tiny, tmp_path, monkeypatch):
  real = Record.judged

  def stop_then_judge(self, step, *arguments, **options):
    if step == 30:
      os.kill(os.getpid(), signal.SIGTERM)
    return real(self, step, *arguments, **options)

  monkeypatch.setattr(Record, "judged", stop_then_judge)
  with pytest.raises(Interrupted):
    run_tiny(tmp_path / "run", **{"train.steps_per_dispatch": 10, "train.epochs": 6})
  assert saved_steps(tmp_path / "run")[-1] <= 40


def test_groups_of_steps_of_another_size_train_the_same_parameters(run_tiny, finished, tmp_path):
  run_tiny(tmp_path / "run", **{"train.steps_per_dispatch": 2})
  assert_same_run_but_for_its_config(tmp_path / "run", finished)


def test_single_steps_train_the_same_parameters_but_for_rounding(run_tiny, finished, tmp_path):
  # A program of its own, without a loop around the step: a compiler may fuse it in another way.
  run_tiny(tmp_path / "run", **{"train.steps_per_dispatch": 1})
  found, wanted = saved_arrays(tmp_path / "run"), saved_arrays(finished)
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


def test_sigterm_stops_the_command_cleanly_and_the_same_command_resumes(command, pairs_file, finished, tmp_path):
  arguments = tiny_arguments(pairs_file, tmp_path / "run")
  with started(main_command(*arguments)) as process:
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process=process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
  assert process.returncode == 0
  assert "the state is saved: run the same command to resume" in output
  assert "Traceback" not in errors
  assert not (tmp_path / "run" / "result.json").exists()
  done = command(*arguments)
  assert done.returncode == 0, done.stderr[-2000:]
  assert_same_run(tmp_path / "run", finished)


@pytest.mark.slow
def test_a_run_killed_at_a_random_moment_is_resumed_bit_for_bit(pairs_file, run_tiny, tmp_path):
  settings = {"checkpoint.every_steps": 4, "train.steps_per_dispatch": 1}
  run_tiny(tmp_path / "whole", **settings)
  stop_at = random.Random(0).randint(11, 28)
  metrics = tmp_path / "run" / "metrics.jsonl"
  with started(main_command(*tiny_arguments(pairs_file, tmp_path / "run", **settings))) as process:
    wait_for(lambda: metrics.exists() and f'"step": {stop_at}' in metrics.read_text(), process=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert not (tmp_path / "run" / "result.json").exists()
  run_tiny(tmp_path / "run", **settings)
  assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
  ("owner", "name", "at", "after"),
  [
    ("checkpoint.ocp.CheckpointManager", "save", 2, True),  # while the arrays are on their way to the disk
    ("progress.MetricWriter", "write", 22, True),  # a validation is in metrics.jsonl, its checkpoint is not there
    ("loop", "Summary", 1, False),  # all is trained and tested, and result.json not yet written
  ],
  ids=["during a save", "between metrics and save", "before the result"],
)
def test_a_run_killed_at_the_worst_moment_is_resumed_bit_for_bit(
  owner, name, at, after, program, pairs_file, finished, run_tiny, tmp_path
):
  text = _KILLED_AT.format(owner=owner, name=name, at=at, after=after)
  done = program(text, *tiny_arguments(pairs_file, tmp_path / "run"))
  assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
  assert not (tmp_path / "run" / "result.json").exists()
  run_tiny(tmp_path / "run")
  assert_same_run(tmp_path / "run", finished)
  assert not list((tmp_path / "run" / "checkpoints").glob("*tmp*"))


def rewound(workdir: pathlib.Path) -> pathlib.Path:
  """`workdir` as if it had been killed in its last epoch, step 20 being saved."""
  (workdir / "result.json").unlink()
  shutil.rmtree(workdir / "checkpoints" / "30")
  return workdir


@pytest.mark.parametrize(
  "rest", ['{"step": 31, "split": "tra', '{"step": 31, "split": "train", "loss": 5.1}\n', "\x00\x00"]
)
def test_what_was_written_after_the_checkpoint_is_written_again_once(rest, copied, finished, run_tiny):
  with (rewound(copied) / "metrics.jsonl").open("a") as file:
    file.write(rest)
  run_tiny(copied)
  assert_same_run(copied, finished)


def test_a_line_cut_off_at_the_end_of_the_file_is_repaired(copied, finished, run_tiny):
  path = rewound(copied) / "metrics.jsonl"
  path.write_text(path.read_text()[:-40])
  run_tiny(copied)
  assert_same_run(copied, finished)


def test_more_epochs_may_be_asked_for_on_resuming(copied, run_tiny, tmp_path):
  run_tiny(tmp_path / "whole", **{"train.epochs": 4})
  run_tiny(rewound(copied), **{"train.epochs": 4})
  assert_same_run(copied, tmp_path / "whole")
  assert read_json(copied / "config.json")["train"]["epochs"] == 4


def test_a_finished_run_is_resumed_if_more_epochs_are_asked_for(copied, run_tiny):
  run_tiny(copied, **{"train.epochs": 4})
  assert saved_steps(copied)[-1] == 40


@pytest.mark.parametrize("setting", [{"model.dim": 16}, {"optimizer.lr": 0.5}, {"train.batch_size": 16}, {"seed": 1}])
def test_what_changes_the_model_or_its_training_is_refused_by_name(setting, copied, run_tiny, tiny_config):
  from mlrec.config import ConfigError

  ((key, value),) = setting.items()
  old = tiny_config()
  for part in key.split("."):
    old = old[part]
  before = (copied / "config.json").read_bytes()
  with pytest.raises(ConfigError) as refused:
    run_tiny(rewound(copied), **setting)
  assert f"config.{key}: {old} there, {value} now" in str(refused.value)
  assert (copied / "config.json").read_bytes() == before


def test_every_difference_is_named_at_once(copied, run_tiny):
  from mlrec.config import ConfigError

  user = {"name": "gru4rec", "blocks": 1}
  with pytest.raises(ConfigError) as refused:
    run_tiny(copied, user=user, **{"model.dim": 4})
  for line in ("config.model.dim: 8 there, 4 now", "config.model.user.name: 'sasrec' there, 'gru4rec' now"):
    assert line in str(refused.value)
  assert "config.model.user.heads: 2 there, '(absent)' now" in str(refused.value)


def test_logging_may_change_on_resuming(copied, finished, run_tiny):
  run_tiny(rewound(copied), **{"log.every_steps": 5})
  assert_same_arrays(saved_arrays(copied), saved_arrays(finished))
  steps = [line["step"] for line in metric_lines(copied) if line["split"] == "train"]
  assert steps == [*range(1, 21), 25, 30]


def test_the_same_data_elsewhere_is_the_same_data(copied, finished, run_tiny, pairs_file, tmp_path):
  moved = tmp_path / "Moved_pairs.tsv"
  moved.write_bytes(pairs_file.read_bytes().replace(b"\r\n", b"\n"))
  run_tiny(rewound(copied), **{"data.source": str(moved)})
  assert_same_run(copied, finished)


def test_other_data_are_refused(copied, run_tiny, make_pairs):
  with pytest.raises(ValueError, match=r"read other data \(fingerprint \w+, now \w+\)"):
    run_tiny(rewound(copied), **{"data.source": str(make_pairs(seed=1))})


def test_a_workdir_is_untouched_when_other_data_are_refused(copied, run_tiny, make_pairs):
  before = json.loads((rewound(copied) / "config.json").read_text())
  with pytest.raises(ValueError, match="other data"):
    run_tiny(copied, **{"data.source": str(make_pairs(seed=1))})
  assert json.loads((copied / "config.json").read_text()) == before


def test_evaluating_other_data_is_refused(copied, run_tiny, make_pairs):
  with pytest.raises(ValueError, match="other data"):
    run_tiny(copied, evaluate_only=True, **{"data.source": str(make_pairs(seed=1))})
