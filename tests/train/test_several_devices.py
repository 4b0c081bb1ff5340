"""The same command on one device, on eight, and in two processes: the same order, losses and metrics."""

import contextlib
import pathlib
import shutil
import signal
import sys

import jax
import numpy as np
import pytest

from support.several_processes import ended
from support.several_processes import free_port
from support.several_processes import two_processes
from support.tiny_runs import assert_same_arrays
from support.tiny_runs import environment
from support.tiny_runs import losses
from support.tiny_runs import read_json
from support.tiny_runs import saved_arrays
from support.tiny_runs import saved_steps
from support.tiny_runs import started
from support.tiny_runs import tiny_arguments
from support.tiny_runs import wait_for

# Sums over a batch are cut elsewhere: measured 2.4e-7 over 30 steps on 8 CPU devices, 1.6e-7 in 2 processes.
LOSS_TOLERANCE = 2e-6
PARAMETER_TOLERANCE = {"rtol": 0, "atol": 2e-5}


def assert_same_losses(workdir: pathlib.Path, expected: pathlib.Path) -> None:
  found, wanted = losses(workdir), losses(expected)
  assert found.keys() == wanted.keys()
  np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=LOSS_TOLERANCE, atol=0)


@pytest.fixture(scope="module")
def on_eight_devices(forked, pairs_file, tmp_path_factory) -> pathlib.Path:
  """The workdir of the tiny run on eight devices."""
  workdir = tmp_path_factory.mktemp("eight") / "run"
  arguments = tiny_arguments(pairs_file, workdir)
  done = forked.run("mlrec.main", arguments, cwd=workdir.parent, env=environment(devices=8))
  assert done.returncode == 0, done.stderr[-2000:]
  return workdir


def test_eight_devices_train_as_one_does(on_eight_devices, finished):
  assert read_json(on_eight_devices / "result.json")["devices"]["count"] == 8
  assert_same_losses(on_eight_devices, finished)


def test_parameters_after_thirty_steps_are_close(on_eight_devices, finished):
  found, wanted = saved_arrays(on_eight_devices), saved_arrays(finished)
  for name, array in wanted.items():
    np.testing.assert_allclose(found[name], array, err_msg=name, **PARAMETER_TOLERANCE)


def test_the_same_parameters_have_the_same_metrics_on_eight_devices(command, copied, pairs_file):
  done = command(*tiny_arguments(pairs_file, copied), "--evaluate_only", devices=8)
  assert done.returncode == 0, done.stderr[-2000:]
  evaluation, result = read_json(copied / "evaluation.json"), read_json(copied / "result.json")
  assert evaluation["devices"]["count"] == 8
  assert evaluation["valid"] == result["valid"]
  assert evaluation["test"] == result["test"]


def test_a_batch_holds_the_same_users_in_the_same_order_for_any_number_of_devices(pairs_file):
  from mlrec.data import leave_one_out
  from mlrec.data import read_pairs
  from mlrec.data.batches import Layout
  from mlrec.data.batches import TrainBatches

  split = leave_one_out(read_pairs(pairs_file))
  one, eight = (
    TrainBatches(split, Layout.of(10, packed=True), batch_size=32, seed=42, multiple_of=devices) for devices in (1, 8)
  )
  for step in (0, 9, 10, 25):
    few, many = one.batch(step), eight.batch(step)
    users = len(few.slots)
    np.testing.assert_array_equal(many.items[many.slots[:users]], few.items[few.slots])
    assert (many.items[many.slots[users:]] == 0).all()
    rows = len(few.weights)
    np.testing.assert_array_equal(many.weights[:rows], few.weights)
    assert not many.weights[rows:].any()
    assert all(axis % 8 == 0 for axis in (len(many.slots), len(many.weights), len(many.items)))


def test_every_leaf_of_a_state_is_created_where_its_sharding_says(tiny_config, pairs_file, tmp_path):
  from mlrec.data import leave_one_out
  from mlrec.data import read_pairs
  from mlrec.runs.workdir import Workdir
  from mlrec.train import loop

  config = tiny_config(**{"train.ema_decay": 0.9})
  run = loop.TrainingRun(config, leave_one_out(read_pairs(pairs_file)), Workdir(tmp_path).files)
  run.plan()
  state = run.spec.create()
  planned, made = jax.tree.leaves(run.spec.abstract), jax.tree.leaves(state)
  assert len(planned) == len(made) > 20
  for plan, leaf in zip(planned, made):
    assert isinstance(plan.sharding, jax.sharding.NamedSharding)
    assert plan.sharding.mesh == run.mesh
    assert leaf.sharding.is_equivalent_to(plan.sharding, leaf.ndim)
    assert (leaf.shape, leaf.dtype) == (plan.shape, plan.dtype)


def test_only_the_first_process_writes_to_the_workdir(tiny_config, tmp_path, monkeypatch):
  from mlrec.runs.workdir import Workdir

  monkeypatch.setattr(jax, "process_index", lambda *unused: 1)
  with Workdir(tmp_path / "run").locked():
    Workdir(tmp_path / "run").claim(tiny_config())
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_stop_together_and_one_resumes(pairs_file, finished, command, tmp_path):
  workdir = tmp_path / "run"
  metrics = workdir / "metrics.jsonl"
  with two_processes(*tiny_arguments(pairs_file, workdir)) as processes:
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process=processes[0])
    processes[1].send_signal(signal.SIGTERM)
    printed = ended(processes)
  assert "the state is saved: run the same command to resume" in printed[0][0]
  assert not (workdir / "result.json").exists()
  assert saved_steps(workdir)
  # The second process says nothing of its own, and leaves nothing behind.
  assert "hr@10" not in "".join(printed[1])
  assert {path.name for path in workdir.iterdir()} == {
    "config.json", "metrics.jsonl", "checkpoints", "data.safetensors", "ids.safetensors", "run.lock"
  }  # fmt: skip
  done = command(*tiny_arguments(pairs_file, workdir), devices=8)
  assert done.returncode == 0, done.stderr[-2000:]
  assert_same_losses(workdir, finished)
  found, wanted = read_json(workdir / "result.json"), read_json(finished / "result.json")
  assert found["config_hash"] == wanted["config_hash"]


@pytest.mark.slow
def test_a_run_of_one_process_is_resumed_in_two(pairs_file, finished, copied):
  (copied / "result.json").unlink()
  with two_processes(*tiny_arguments(pairs_file, copied)) as processes:
    ended(processes)
  result = read_json(copied / "result.json")
  assert result["devices"] == read_json(finished / "result.json")["devices"] | {"count": 8, "processes": 2}
  assert result["test"] == read_json(finished / "result.json")["test"]
  assert_same_arrays(saved_arrays(copied), saved_arrays(finished))


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["rows:model", "rows:data+model"])
def test_tables_that_are_cut_over_processes_train_alike_and_one_resumes(cut, pairs_file, finished, command, tmp_path):
  workdir = tmp_path / "run"
  arguments = [
    *tiny_arguments(pairs_file, workdir), f"--config.sharding.rules=(('table','{cut}'),)", "--config.sharding.model=8"
  ]  # fmt: skip
  with two_processes(*arguments, "--config.train.epochs=2") as processes:
    ended(processes)
  done = command(*arguments, "--config.sharding.model=1")
  assert done.returncode == 0, done.stderr[-2000:]
  assert_same_losses(workdir, finished)


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(pairs_file, copied):
  with two_processes(*tiny_arguments(pairs_file, copied), "--evaluate_only") as processes:
    printed = ended(processes)
  evaluation, result = read_json(copied / "evaluation.json"), read_json(copied / "result.json")
  assert evaluation["devices"]["processes"] == 2
  assert evaluation["valid"] == result["valid"]
  assert evaluation["test"] == result["test"]
  assert "test " in printed[0][0]
  assert "hr@10" not in printed[1][0]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_where_one_process_is_killed_the_other_says_so_and_the_run_is_resumed(
  killed, pairs_file, finished, command, tmp_path
):
  workdir = tmp_path / "run"
  metrics = workdir / "metrics.jsonl"
  arguments = [*tiny_arguments(pairs_file, workdir), "--config.checkpoint.every_steps=4"]
  with two_processes(*arguments, "--peer_timeout=5") as processes:
    wait_for(lambda: saved_steps(workdir), process=processes[0])
    processes[killed].kill()
    _, errors = processes[1 - killed].communicate(timeout=120)
  assert processes[1 - killed].returncode == 1
  assert f"error: process {killed} of 2 has" in errors.splitlines()[-1]
  assert "is resumed from its last checkpoint" in errors
  assert "Fatal Python error" not in errors
  assert metrics.exists()
  done = command(*arguments, devices=8)
  assert done.returncode == 0, done.stderr[-2000:]
  assert_same_losses(workdir, finished)


@pytest.mark.slow
def test_a_process_that_fails_alone_ends_at_once_and_the_other_says_that_it_is_gone(pairs_file, tmp_path):
  """Its data lie where only the first process has them."""
  each = [[f"--config.data.source={source}"] for source in (pairs_file, tmp_path / "Missing_pairs.tsv")]
  arguments = tiny_arguments(pairs_file, tmp_path / "run")
  with two_processes(*arguments, "--peer_timeout=5", each=each) as (first, second):
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 2
    assert "Missing_pairs.tsv" in errors.splitlines()[-1]
    _, errors = first.communicate(timeout=120)
  assert first.returncode == 1
  assert errors.splitlines()[-1].startswith("error: process 1 of 2 has not been heard of for 5 s")


@pytest.mark.slow
def test_processes_of_different_configs_are_refused(pairs_file, tmp_path):
  each = [["--config.optimizer.lr=0.001"], ["--config.optimizer.lr=0.1", "--config.model.dim=16"]]
  with two_processes(*tiny_arguments(pairs_file, tmp_path / "run"), each=each) as processes:
    for process in processes:
      errors = process.communicate(timeout=120)[1]
      assert process.returncode == 2, errors
      assert errors.splitlines()[-1].startswith(
        "error: process 1 has another command than process 0: config.model.dim is 16 in process 1, 8 in process 0; "
        "config.optimizer.lr is 0.1 in process 1, 0.001 in process 0: give all"
      )
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("differs", ["file", "key"])
def test_processes_that_read_different_data_are_refused(differs, pairs_file, make_pairs, tmp_path):
  if differs == "file":
    other = tmp_path / "there" / pairs_file.name
    other.parent.mkdir()
    shutil.copy(make_pairs(seed=1), other)
    each = [[f"--config.data.source={source}"] for source in (pairs_file, other)]
    told = f"config.data.source is {str(other)!r} in process 1, {str(pairs_file)!r} in process 0"
  else:
    each = [[], ["--config.data.max_length=7"]]
    told = "config.data.max_length is 7 in process 1, 10 in process 0"
  with two_processes(*tiny_arguments(pairs_file, tmp_path / "run"), each=each) as processes:
    for process in processes:
      errors = process.communicate(timeout=120)[1]
      assert process.returncode == 2, errors
      assert f"process 1 has read other interactions than process 0: {told}; all must have" in errors.splitlines()[-1]
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("finished_there", [False, True])
def test_processes_that_do_not_share_a_workdir_are_refused(finished_there, pairs_file, copied, tmp_path):
  here, there = tmp_path / "here", copied if finished_there else tmp_path / "there"
  _are_refused(pairs_file, here, there)
  assert not (here / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--evaluate_only"]])
def test_processes_that_see_other_checkpoints_are_refused(flags, pairs_file, copied, tmp_path):
  (copied / "result.json").unlink()
  shutil.copytree(copied, tmp_path / "there")
  first, latest = saved_steps(copied)
  shutil.rmtree(tmp_path / "there" / "checkpoints" / str(latest))
  errors = _are_refused(pairs_file, copied, tmp_path / "there", *flags)
  assert f"process 1 sees no finished run with checkpoints of steps {first} (" in errors
  assert f", {latest} (" in errors


def _are_refused(pairs_file: pathlib.Path, here: pathlib.Path, there: pathlib.Path, *flags: str) -> str:
  """Runs two processes in two workdirs; what the second says."""
  script = """
from mlrec import main
from mlrec.runs import workdir
workdir._SEEN_SECONDS = 1
main.command_line.run(main.main, main._parse_flags)
"""
  together = [f"--coordinator=localhost:{free_port()}", "--processes=2"]
  commands = [
    [
      sys.executable, "-c", script, *tiny_arguments(pairs_file, workdir), *flags, *together, f"--process={number}",
    ]
    for number, workdir in enumerate((here, there))
  ]  # fmt: skip
  with contextlib.ExitStack() as stack:
    for process in [stack.enter_context(started(one)) for one in commands]:
      errors = process.communicate(timeout=120)[1]
      assert process.returncode == 2, errors
      assert "the workdir must be the same for all, on a disk that they share" in errors.splitlines()[-1]
  return errors.splitlines()[-1]


@pytest.mark.slow
def test_processes_that_do_not_come_together_say_so(pairs_file, tmp_path):
  script = """
from mlrec import cluster, main
cluster._JOINING = 3
main.command_line.run(main.main, main._parse_flags)
"""
  together = [f"--coordinator=localhost:{free_port()}", "--processes=3"]
  commands = [
    [sys.executable, "-c", script, *tiny_arguments(pairs_file, tmp_path / "run"), *together, f"--process={number}"]
    for number in (0, 1)
  ]
  with contextlib.ExitStack() as stack:
    for process in [stack.enter_context(started(one)) for one in commands]:
      errors = process.communicate(timeout=120)[1]
      assert process.returncode == 1, errors
      assert errors.splitlines()[-1].startswith("error: the 3 processes of --coordinator=localhost:")
