"""`config.train.parts`: batches made in parts train as those that are made in one."""

import numpy as np
import pytest

from mlrec.config import ConfigError
from mlrec.data.batches import TrainBatches
from support.several_processes import ended
from support.several_processes import two_processes
from support.tiny_runs import environment
from support.tiny_runs import losses
from support.tiny_runs import read_json
from support.tiny_runs import saved_arrays
from support.tiny_runs import tiny_arguments

# Dropout is drawn for each part.
GROUPED = {"loss.negative_groups": 8, "model.user.dropout": 0.0}
PARTED = {**GROUPED, "train.parts": 8}


def assert_close(found, wanted):
  assert found.keys() == wanted.keys()
  np.testing.assert_allclose(list(found.values()), list(wanted.values()), rtol=5e-6)


@pytest.fixture(scope="module")
def grouped(run_tiny, tmp_path_factory):
  """The run whose batches are made in one, of eight groups that see their own negatives."""
  workdir = tmp_path_factory.mktemp("grouped") / "run"
  run_tiny(workdir, **GROUPED)
  return workdir


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_a_batch_in_parts_has_the_loss_of_the_same_groups(parts, run_tiny, grouped, tmp_path):
  run_tiny(tmp_path / "run", **PARTED | {"train.parts": parts})
  assert_close(losses(tmp_path / "run"), losses(grouped))
  found, wanted = saved_arrays(tmp_path / "run"), saved_arrays(grouped)
  for name, array in wanted.items():
    np.testing.assert_allclose(found[name], array, err_msg=name, rtol=0, atol=5e-5)


@pytest.mark.parametrize(
  "item_tables", ["lazy_adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "adagrad"))]
)
def test_a_row_that_several_parts_read_is_moved_once(item_tables, run_tiny, tmp_path):
  """Where each row is moved by the sum of its gradients, or each part's gradient moved it alone."""
  for name, options in (("grouped", GROUPED), ("parted", PARTED)):
    run_tiny(tmp_path / name, **options, **{"optimizer.item_tables": item_tables})
  assert_close(losses(tmp_path / "parted"), losses(tmp_path / "grouped"))


@pytest.mark.slow
def test_the_cloze_task_is_made_in_parts(run_tiny, tmp_path):
  model = {"name": "bert4rec", "dim": 8, "dropout": 0.0, "mask_probability": 0.0, "last_probability": 1.0}
  for name, parts in (("grouped", 1), ("parted", 8)):
    run_tiny(tmp_path / name, model=model, **{"loss.negative_groups": 8, "train.parts": parts})
  assert_close(losses(tmp_path / "parted"), losses(tmp_path / "grouped"))


@pytest.mark.slow
def test_a_softmax_over_all_items_is_made_in_parts(run_tiny, tmp_path):
  model = {"name": "sequential", "dim": 8, "loss": "full_softmax", "user": {"name": "sasrec", "dropout": 0.0}}
  for name, parts in (("whole", 1), ("parted", 4)):
    run_tiny(tmp_path / name, model=model, **{"train.parts": parts})
  assert_close(losses(tmp_path / "parted"), losses(tmp_path / "whole"))


@pytest.mark.slow
def test_items_drawn_are_each_part_s_own(run_tiny, tmp_path):
  model = {"name": "sequential", "dim": 8, "loss": "sampled_softmax", "negatives": 16}
  result = run_tiny(tmp_path / "run", model=model, **{"train.parts": 4, "train.epochs": 8})
  first, *_, last = losses(tmp_path / "run").values()
  assert last < first
  assert result["test"]["hr@10"] > 0.15


def test_a_run_in_parts_is_resumed_bit_for_bit(run_tiny, tmp_path):
  run_tiny(tmp_path / "whole", **PARTED)
  for epochs in (1, 3):
    run_tiny(tmp_path / "broken", **PARTED | {"train.epochs": epochs})
  assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_eight_devices_have_a_part_each(forked, run_tiny, pairs_file, tmp_path):
  run_tiny(tmp_path / "one", **PARTED)
  arguments = tiny_arguments(pairs_file, tmp_path / "eight", **PARTED)
  done = forked.run("mlrec.main", arguments, cwd=tmp_path, env=environment(devices=8))
  assert done.returncode == 0, done.stderr[-2000:]
  assert_close(losses(tmp_path / "eight"), losses(tmp_path / "one"))


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"train.parts": 5}, r"config\.train\.batch_size = 32 must be a multiple of config\.train\.parts = 5"),
    ({"train.parts": 0}, r"config\.train\.parts must be at least 1, not 0"),
    (
      {"train.parts": 4},
      r"config\.train\.parts = 4: .*negative_groups = 1 must be a multiple .* give 4",
    ),
    (
      {"train.parts": 4, "model": {"name": "dssm", "dim": 8}},
      r"train\.parts = 4: dssm is trained on interactions",
    ),
  ],
)
def test_parts_that_cannot_be_are_refused(overrides, message, run_tiny, tmp_path):
  with pytest.raises(ConfigError, match=message):
    run_tiny(tmp_path / "run", **overrides)


def test_parts_that_the_devices_do_not_divide_are_refused(command, pairs_file, tmp_path):
  done = command(*tiny_arguments(pairs_file, tmp_path / "run", **GROUPED, **{"train.parts": 4}), devices=8)
  assert done.returncode == 2
  assert (
    "error: config.train.parts = 4 must be a multiple of the 8 devices: train on as many as divide it" in done.stderr
  )


def test_a_run_in_parts_is_evaluated_on_devices_that_do_not_divide_them(run_tiny, command, pairs_file, tmp_path):
  result = run_tiny(tmp_path / "run", **PARTED)
  done = command(*tiny_arguments(pairs_file, tmp_path / "run", **PARTED), "--evaluate_only", devices=3)
  assert done.returncode == 0, done.stderr[-2000:]
  assert read_json(tmp_path / "run" / "evaluation.json")["test"] == result["test"]


def test_a_process_makes_its_own_parts_alone(tiny_config, pairs_file, tmp_path, monkeypatch):
  """As process 1 of two, whose devices are the second half of the mesh."""
  from mlrec.data import leave_one_out
  from mlrec.data import read_pairs
  from mlrec.runs.workdir import Workdir
  from mlrec.train import batch_stream
  from mlrec.train import loop
  from mlrec.train.sharding import Shares

  run = loop.TrainingRun(tiny_config(**PARTED), leave_one_out(read_pairs(pairs_file)), Workdir(tmp_path).files)
  run.plan()
  made = []
  real = TrainBatches._raw_of
  monkeypatch.setattr(
    TrainBatches, "_raw_of", lambda self, users, step, part: made.append((step, part)) or real(self, users, step, part)
  )
  groups = batch_stream.Groups(run.batches, [0, 2], 4, None, Shares((2, 3), 4), 8)
  stacked = groups(0).stacked
  assert made == [(step, part) for step in (0, 1) for part in (4, 5, 6, 7)]
  assert stacked.items.shape[:2] == (4, 4)


@pytest.mark.slow
def test_two_processes_train_as_one_does(pairs_file, run_tiny, tmp_path):
  run_tiny(tmp_path / "one", **PARTED)
  with two_processes(*tiny_arguments(pairs_file, tmp_path / "two", **PARTED)) as processes:
    ended(processes)
  assert_close(losses(tmp_path / "two"), losses(tmp_path / "one"))
  assert read_json(tmp_path / "two" / "result.json")["devices"]["count"] == 8
