"""Checkpoints that cannot be read, parameters that are not finite, and a disk that is full."""

import errno
import json
import os
import pathlib
import shutil
import types
from typing import Any
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

import mlrec
from mlrec import files
from mlrec.config import ConfigError
from mlrec.train import checkpoint
from mlrec.train import loop
from mlrec.train.checkpoint import CheckpointError
from mlrec.train.checksum import earlier_checksum
from mlrec.train.model_builder import ModelBuilder
from mlrec.train.record import Record
from mlrec.train.session import Session
from mlrec.train.session import TrainingDiverged
from support.tiny_runs import assert_same_run
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import saved_arrays
from support.tiny_runs import saved_steps
from support.tiny_runs import tiny_arguments

# Orbax leaves reads that failed behind, whose errors nobody waits for.
pytestmark = [
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
  pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]


def truncate(folder: pathlib.Path) -> None:
  for path in (folder / "model").rglob("d/*"):
    os.truncate(path, path.stat().st_size // 2)


def empty(folder: pathlib.Path) -> None:
  for path in folder.rglob("*"):
    if path.is_file():
      os.truncate(path, 0)


def garble(folder: pathlib.Path) -> None:
  for path in folder.rglob("manifest.ocdbt"):
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))


def lose_arrays(folder: pathlib.Path) -> None:
  for path in (folder / "training").rglob("d"):
    shutil.rmtree(path)


def lose_item(folder: pathlib.Path) -> None:
  shutil.rmtree(folder / "training")


def lose_record(folder: pathlib.Path) -> None:
  (folder / "record" / "metadata").write_text("{")


def pipe_as_record(folder: pathlib.Path) -> None:
  """What would keep whoever reads it waiting."""
  (folder / "record" / "metadata").unlink()
  os.mkfifo(folder / "record" / "metadata")


def flip_a_byte(folder: pathlib.Path) -> None:
  """Changes one byte of an array such that Orbax alone reads another array without an error."""
  workdir, step = folder.parents[1], int(folder.name)
  before = saved_arrays(workdir, step)
  chunks = sorted((folder / "model").rglob("d/*"), key=lambda path: -path.stat().st_size)
  for path in chunks:
    whole = path.read_bytes()
    for at in np.random.default_rng(0).permutation(len(whole))[:30]:
      path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
      try:
        after = saved_arrays(workdir, step)
      except Exception:  # Orbax noticed
        continue
      if any(array.tobytes() != before[name].tobytes() for name, array in after.items()):
        return
    path.write_bytes(whole)
  raise AssertionError("Orbax notices every change")


DAMAGES = [
  truncate,
  empty,
  garble,
  lose_arrays,
  lose_item,
  lose_record,
  pipe_as_record,
  flip_a_byte,
]


@pytest.fixture
def interrupted(copied) -> pathlib.Path:
  """A run that was killed when its last checkpoint was saved, and the result was not yet written."""
  (copied / "result.json").unlink()
  return copied


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(damage, interrupted, finished, run_tiny, caplog):
  damage(interrupted / "checkpoints" / "30")
  run_tiny(interrupted)
  assert_same_run(interrupted, finished)
  said = " ".join(record.getMessage() for record in caplog.records)
  assert "Checkpoint of step 30" in said
  assert "falling back to the checkpoint before it" in said
  assert (interrupted / "checkpoints_unreadable" / "30").is_dir()


def test_reads_that_are_broken_off_with_another_one_print_no_tracebacks(command, interrupted, finished, pairs_file):
  latest = saved_steps(interrupted)[-1]
  for path in (interrupted / "checkpoints" / str(latest)).rglob("d/*"):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
  done = command(*tiny_arguments(pairs_file, interrupted))
  assert done.returncode == 0, done.stderr
  assert f"Checkpoint of step {latest} in" in done.stderr
  assert "Traceback" not in done.stderr
  assert_same_run(interrupted, finished)


def test_errors_of_another_kind_that_nobody_can_catch_are_still_told(monkeypatch):
  told = []
  monkeypatch.setattr(checkpoint, "_hooks", [told.append])
  others = [types.SimpleNamespace(exc_value=error) for error in (RuntimeError("of another kind"), OSError("a disk"))]
  for one in [*others, types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"))]:
    checkpoint._hook(one)
  assert told == others


def test_a_checkpoint_of_another_model_is_told_by_its_first_array_and_left_where_it_is(
  interrupted, run_tiny, monkeypatch, capfd, caplog
):
  """As of a version of mlrec in which the same config makes a wider model."""
  real = loop._plan

  def plan(config, split, builder, mesh, *others):
    wider = config.copy_and_resolve_references()
    wider.model.dim = 16
    return real(wider, split, ModelBuilder(wider, split), mesh, *others)

  monkeypatch.setattr(loop, "_plan", plan)
  told = r"step 30 is of another model .*\(params\.\S+ is \(.*8.*\) there, and \(.*16.*\) here\); .* another version"
  for use in (
    lambda: run_tiny(interrupted),
    lambda: run_tiny(interrupted, evaluate_only=True),
    lambda: mlrec.Recommender.load(interrupted),
  ):
    with pytest.raises(CheckpointError, match=told):
      use()
  assert saved_steps(interrupted) == [20, 30]
  # No reading is broken off, whose threads would tell of it in their own way.
  assert caplog.records == []
  assert "Traceback" not in capfd.readouterr().err


def rewrite(folder: pathlib.Path, **changed: Any) -> None:
  """Changes the record of a checkpoint; its digest stays what it was."""
  path = folder / "record" / "metadata"
  path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
  "changed",
  [
    {"best": 0.9}, {"best": None}, {"best": "0.9"}, {"best_step": 10}, {"best_step": 7}, {"best_step": None},
    {"stale": 7}, {"stopped": True}, {"seconds": 0.0}, {"data": "other"}, {"ids": "other"}, {"checksums": {}},
    {"config": {}}, {"more": 1}, {"digest": 0}, {"digest": None},
  ],
  ids=str,
)  # fmt: skip
def test_a_changed_record_is_a_damaged_checkpoint(changed, interrupted, finished, run_tiny, caplog):
  rewrite(interrupted / "checkpoints" / "30", **changed)
  run_tiny(interrupted)
  assert_same_run(interrupted, finished)
  assert "falling back to the checkpoint before it" in caplog.text


def as_earlier_versions_wrote_it(workdir: pathlib.Path, step: int) -> None:
  """Makes the record of a checkpoint what versions wrote whose checksums were of whole arrays."""
  path = workdir / "checkpoints" / str(step) / "record" / "metadata"
  record = {key: value for key, value in read_json(path).items() if key not in ("checksums", "digest")}
  arrays = saved_arrays(workdir, step)
  of = lambda item: {  # noqa: E731
    name.removeprefix(f"{item}/"): jnp.asarray(array) for name, array in arrays.items() if name.startswith(f"{item}/")
  }
  record["digests"] = {item: earlier_checksum(of(item)) for item in ("model", "training")}
  path.write_text(json.dumps(record | {"digest": zlib.crc32(files.canonical_json(record).encode())}))


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(interrupted, finished, run_tiny, caplog):
  as_earlier_versions_wrote_it(interrupted, 30)
  run_tiny(interrupted)
  assert_same_run(interrupted, finished)
  assert "falling back" not in caplog.text


def test_a_damaged_checkpoint_of_an_earlier_version_is_found_out(interrupted, finished, run_tiny, caplog):
  as_earlier_versions_wrote_it(interrupted, 30)
  flip_a_byte(interrupted / "checkpoints" / "30")
  run_tiny(interrupted)
  assert_same_run(interrupted, finished)
  assert "the arrays of 'model' are not those that were saved" in caplog.text


def test_a_damaged_best_is_told_with_what_can_still_be_evaluated_on_request(run_tiny, tmp_path, monkeypatch):
  workdir = tmp_path / "run"
  real = Record.judged
  monkeypatch.setattr(Record, "judged", lambda self, step, value, **options: real(self, step, 1 / step, **options))
  options = {"train.epochs": 3}
  assert run_tiny(workdir, **options)["best_step"] == 10
  truncate(workdir / "checkpoints" / "10")
  with pytest.raises(CheckpointError, match=r"(?s)step 10, cannot be read.* \[20, 30\].*--evaluate_only --step="):
    run_tiny(workdir, evaluate_only=True, **options)
  with pytest.raises(ConfigError, match=r"--step=25: there is no checkpoint .* there are \[10, 20, 30\]"):
    run_tiny(workdir, evaluate_only=True, step=25, **options)
  evaluated = run_tiny(workdir, evaluate_only=True, step=30, **options)
  assert evaluated["best_step"] == 30
  valid = {line["step"]: line["hr@10"] for line in metric_lines(workdir) if line["split"] == "valid"}
  assert evaluated["valid"]["hr@10"] == valid[30]


def test_when_no_checkpoint_can_be_read_the_error_says_what_was_tried(interrupted, run_tiny):
  for step in (20, 30):
    truncate(interrupted / "checkpoints" / str(step))
  with pytest.raises(CheckpointError, match=r"none of the checkpoints in .* \(steps \[20, 30\]\) can be read"):
    run_tiny(interrupted)


def test_when_no_checkpoint_can_be_read_the_next_try_does_not_start_anew_in_silence(interrupted, run_tiny):
  for step in (20, 30):
    truncate(interrupted / "checkpoints" / str(step))
  for _ in range(2):
    with pytest.raises(CheckpointError):
      run_tiny(interrupted)


def test_half_a_checkpoint_left_by_a_kill_is_no_checkpoint(interrupted, finished, run_tiny):
  folder = interrupted / "checkpoints"
  (folder / "30").rename(folder / "30.orbax-checkpoint-tmp")
  run_tiny(interrupted)
  assert_same_run(interrupted, finished)


def test_a_damaged_best_checkpoint_is_named_when_it_is_to_be_tested(copied, run_tiny):
  best = read_json(copied / "result.json")["best_step"]
  truncate(copied / "checkpoints" / str(best))
  with pytest.raises(CheckpointError, match=f"step {best}"):
    run_tiny(copied, evaluate_only=True)


def test_where_the_latest_is_damaged_evaluation_takes_no_other_for_the_best_unless_named(
  run_tiny, tmp_path, monkeypatch
):
  workdir = tmp_path / "run"
  real = Record.judged
  monkeypatch.setattr(Record, "judged", lambda self, step, value, **options: real(self, step, 1 / step, **options))
  result = run_tiny(workdir, **{"train.epochs": 2})
  assert result["best_step"] == 10
  lose_record(workdir / "checkpoints" / "20")
  with pytest.raises(CheckpointError, match=r"step 20, the latest, cannot be read .* not known which is the best"):
    run_tiny(workdir, evaluate_only=True, **{"train.epochs": 2})
  assert run_tiny(workdir, evaluate_only=True, step=10, **{"train.epochs": 2})["test"] == result["test"]


def spoil_losses(monkeypatch, step: int) -> None:
  """The loss of `step` arrives as NaN, whatever the parameters."""
  real = Session.took

  def took(self, state, count, values):
    values = np.array(values)
    if self.step < step <= self.step + count:
      values[step - self.step - 1] = np.nan
    real(self, state, count, values)

  monkeypatch.setattr(Session, "took", took)


@pytest.mark.parametrize("step", [10, 13, 20])
def test_a_loss_that_is_not_finite_stops_the_run_with_advice(step, run_tiny, tmp_path, monkeypatch):
  spoil_losses(monkeypatch, step)
  with pytest.raises(TrainingDiverged) as stopped:
    run_tiny(tmp_path / "run")
  message = str(stopped.value)
  assert f"the loss of step {step} is nan" in message
  assert "config.optimizer.lr" in message
  assert "config.optimizer.warmup_steps" in message
  good = 10 * ((step - 1) // 10)
  assert (f"the last good checkpoint is of step {good}" if good else "no checkpoint had been written") in message
  assert saved_steps(tmp_path / "run") == ([good] if good else [])
  assert not (tmp_path / "run" / "result.json").exists()
  assert all(line["step"] < step for line in metric_lines(tmp_path / "run"))


def test_the_command_reports_divergence_and_fails(command, pairs_file, tmp_path):
  settings = {"optimizer.lr": 1e30, "checkpoint.every_steps": 1, "train.steps_per_dispatch": 1}
  done = command(*tiny_arguments(pairs_file, tmp_path / "run", **settings))
  assert done.returncode == 1
  assert "Traceback" not in done.stderr
  assert "error: the loss of step 2 is nan; the last good checkpoint is of step 1" in done.stderr
  for step in saved_steps(tmp_path / "run"):
    for name, array in saved_arrays(tmp_path / "run", step).items():
      assert np.isfinite(array).all(), name


def not_finite_after_the_first_step(**more):
  """A step whose loss is finite and whose update is not."""
  return {"optimizer.lr": 1e38, "train.batch_size": 310, **more}


def test_no_checkpoint_holds_parameters_that_are_not_finite(run_tiny, tmp_path):
  with pytest.raises(TrainingDiverged):
    run_tiny(tmp_path / "run", **not_finite_after_the_first_step(**{"eval.every_epochs": 3}))
  for step in saved_steps(tmp_path / "run"):
    assert all(np.isfinite(array).all() for array in saved_arrays(tmp_path / "run", step).values())


def test_scores_that_are_not_finite_stop_the_run_as_divergence(run_tiny, tmp_path):
  with pytest.raises(TrainingDiverged):
    run_tiny(tmp_path / "run", **not_finite_after_the_first_step())


def fill_the_disk(monkeypatch, at: int) -> None:
  """From the `at`-th checkpoint on there is no space."""
  real, count = checkpoint.ocp.CheckpointManager.save, 0

  def save(self, *arguments, **options):
    nonlocal count
    count += 1
    if count >= at:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(self, *arguments, **options)

  monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)


def test_a_full_disk_leaves_the_last_checkpoint_whole(run_tiny, finished, tmp_path, monkeypatch):
  with monkeypatch.context() as full:
    fill_the_disk(full, 2)
    with pytest.raises(OSError, match="No space left") as stopped:
      run_tiny(tmp_path / "run")
  assert files.is_disk_full(stopped.value)
  assert saved_steps(tmp_path / "run") == [10]
  run_tiny(tmp_path / "run")
  assert_same_run(tmp_path / "run", finished)


def test_a_full_disk_while_json_is_written_leaves_the_file_that_was_there(tmp_path, monkeypatch):
  def full(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  path = tmp_path / "result.json"
  files.write_json(path, {"test": 0})
  monkeypatch.setattr(files.os, "fsync", full)
  with pytest.raises(OSError, match="No space left"):
    files.write_json(path, {"test": 1})
  assert read_json(path) == {"test": 0}


def test_a_full_disk_is_known_by_its_error_or_what_caused_it():
  saving = RuntimeError("saving failed")
  saving.__cause__ = OSError(errno.ENOSPC, "No space left on device")
  assert files.is_disk_full(saving)
  assert files.is_disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
  assert files.is_disk_full(ValueError('RESOURCE_EXHAUSTED: Error writing "/runs/a": No space left on device'))
  assert not files.is_disk_full(OSError(errno.EACCES, "Permission denied"))
  assert not files.is_disk_full(ValueError("something else"))


def test_an_accelerator_out_of_memory_is_no_full_disk():
  error = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 137438953472 bytes.")
  assert not files.is_disk_full(error)


_FULL = """
  import errno
  from mlrec import main
  from mlrec.train import checkpoint

  def save(self, *arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")

  checkpoint.ocp.CheckpointManager.save = save
  main.command_line.run(main.main, main._parse_flags)
"""


def test_the_command_says_that_the_disk_is_full(program, pairs_file, tmp_path):
  done = program(_FULL, *tiny_arguments(pairs_file, tmp_path / "run"))
  assert done.returncode == 1
  assert "Traceback" not in done.stderr
  assert f"error: no space left on the device that holds {tmp_path / 'run'}" in done.stderr
  assert "the run has saved nothing yet" in done.stderr


@pytest.mark.slow
def test_the_command_says_that_a_run_is_resumed_once_the_disk_has_room(program, command, copied, pairs_file):
  (copied / "result.json").unlink()
  arguments = tiny_arguments(pairs_file, copied, **{"train.epochs": 9})
  done = program(_FULL, *arguments)
  assert done.returncode == 1
  assert "the run is resumed from its last checkpoint" in done.stderr
  done = command(*arguments)
  assert "resumed at step 30 of 90" in done.stderr
