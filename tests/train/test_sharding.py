"""`config.sharding`: tables cut over devices, and what must not show it."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import sharding_rules
from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.config import validate
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.registry import OptionError
from mlrec.runs.workdir import Workdir
from mlrec.train import loop
from mlrec.train.checksum import checksum
from mlrec.train.sharding import is_filled_up
from mlrec.train.sharding import make_mesh
from mlrec.train.sharding import rows_over
from support.tiny_runs import environment
from support.tiny_runs import losses
from support.tiny_runs import read_json
from support.tiny_runs import ROOT
from support.tiny_runs import saved_arrays
from support.tiny_runs import tiny_arguments

CUT = ("--config.sharding.rules=(('table','rows:model'),('users','fsdp:data'))", "--config.sharding.model=4")


@pytest.fixture
def plan(tiny_config, pairs_file, tmp_path):
  """Plans the tiny run on this process's device, with rules."""

  def made(*rules, **overrides):
    config = tiny_config(**{"sharding.rules": rules, **overrides})
    run = loop.TrainingRun(config, leave_one_out(read_pairs(pairs_file)), Workdir(tmp_path).files)
    run.plan()
    return run

  return made


@pytest.mark.parametrize(
  ("rule", "problem"),
  [
    ("table", "holds 'table': expected pairs of strings, such as ('table', 'rows:model')"),
    (("table", 3), "holds ('table', 3): expected pairs"),
    (("ta(ble", "rows:model"), "holds 'ta(ble', which is no regular expression"),
    (("table", "row:model"), "holds 'row:model': did you mean 'rows:model'? expected rows:AXES"),
    (("table", "rows:modle"), "holds 'rows:modle': did you mean 'rows:model'?"),
    (("table", "rows"), "holds 'rows': expected rows:AXES, fsdp:AXES or whole"),
    (("table", "whole:data"), "holds 'whole:data': expected"),
    (("table", "fsdp:data+data"), "holds 'fsdp:data+data': expected"),
  ],
)
def test_a_rule_that_is_none_is_told_with_what_was_expected(rule, problem):
  config = default_config()
  config.sharding.rules = (rule,)
  with pytest.raises(ConfigError, match=re.escape(f"config.sharding.rules {problem}")):
    validate(config)
  with pytest.raises(OptionError):
    sharding_rules.parse([rule])


def test_a_rule_that_fits_no_parameter_is_told_with_those_there_are(plan):
  with pytest.raises(ConfigError, match=r"\('tabel', 'rows:model'\) fits no parameter.*items\.table\.embedding"):
    plan(("tabel", "rows:model"))


def test_a_mesh_that_the_devices_do_not_divide_is_told():
  with pytest.raises(
    ConfigError, match=r"config\.sharding\.model = 2 must divide the number of devices, 3: give 1 or 3"
  ):
    make_mesh([*jax.devices()[:1]] * 3, 2)


def test_rows_that_fill_a_table_up_are_zeros_and_count_as_no_parameters(plan):
  whole, cut = plan(), plan(("table", "rows:model"))
  assert cut.spec.parameters == whole.spec.parameters
  before, after = (run.spec.create().params["items"]["table"]["embedding"][...] for run in (whole, cut))
  assert after.shape == (512, before.shape[1])
  np.testing.assert_array_equal(after[: len(before)], before)
  assert not np.any(after[len(before) :])


def test_rows_are_the_same_for_powers_of_two_of_devices():
  mesh = make_mesh(jax.devices()[:1])
  assert rows_over(mesh, ("model",), 19221) == 19456
  assert is_filled_up(19221, 19456)
  assert is_filled_up(19221, 19968)  # for 3 devices
  assert not is_filled_up(19221, 19457)
  assert not is_filled_up(19221, 18944)


def test_a_table_that_is_cut_trains_and_ranks_as_a_whole_one(run_tiny, finished, tmp_path):
  """On one device nothing is cut, but rows are there that are nobody's."""
  run_tiny(tmp_path / "run", **{"sharding.rules": (("table", "rows:model"),)})
  assert losses(tmp_path / "run") == losses(finished)
  found, wanted = read_json(tmp_path / "run" / "result.json"), read_json(finished / "result.json")
  assert (found["valid"], found["test"]) == (wanted["valid"], wanted["test"])
  assert found["config_hash"] == wanted["config_hash"]


def test_a_run_goes_on_with_other_rules(run_tiny, finished, tmp_path):
  workdir = tmp_path / "run"
  for epochs, rules in ((1, ()), (2, (("table", "rows:model"),)), (3, ())):
    run_tiny(workdir, **{"sharding.rules": rules, "train.epochs": epochs})
  assert losses(workdir) == losses(finished)
  np.testing.assert_equal(saved_arrays(workdir), saved_arrays(finished))


@pytest.mark.slow
@pytest.mark.parametrize("item_tables", ["adamw", "lazy_adamw"])
def test_losses_and_metrics_do_not_depend_on_how_eight_devices_are_cut(item_tables, forked, pairs_file, tmp_path):
  ran = []
  for name, options in (("whole", ()), ("cut", CUT)):
    workdir = tmp_path / name
    arguments = [*tiny_arguments(pairs_file, workdir), f"--config.optimizer.item_tables={item_tables}", *options]
    done = forked.run("mlrec.main", arguments, cwd=tmp_path, env=environment(devices=8))
    assert done.returncode == 0, done.stderr[-2000:]
    ran.append((losses(workdir), [read_json(workdir / "result.json")[split] for split in ("valid", "test")]))
  (whole_losses, whole), (cut_losses, cut) = ran
  np.testing.assert_allclose(list(cut_losses.values()), list(whole_losses.values()), rtol=2e-6)
  assert cut == whole


@pytest.mark.slow
def test_a_run_is_continued_on_fewer_devices_and_on_more(forked, pairs_file, finished, tmp_path):
  workdir = tmp_path / "run"
  for epochs, devices, options in ((1, 8, CUT), (2, 4, CUT), (3, 1, CUT[:1])):
    arguments = [*tiny_arguments(pairs_file, workdir), *options, f"--config.train.epochs={epochs}"]
    done = forked.run("mlrec.main", arguments, cwd=tmp_path, env=environment(devices=devices))
    assert done.returncode == 0, done.stderr[-2000:]
  np.testing.assert_allclose(list(losses(workdir).values()), list(losses(finished).values()), rtol=2e-6)


@pytest.mark.parametrize(
  ("item_tables", "loss"),
  [
    pytest.param("adamw", "", marks=pytest.mark.slow),
    pytest.param("lazy_adamw", "", marks=pytest.mark.slow),
    pytest.param("sgd", "", marks=pytest.mark.slow),
    pytest.param("adamw", "full_softmax", marks=pytest.mark.slow),
  ],
)
def test_each_of_eight_devices_holds_an_eighth_of_the_tables(item_tables, loss, eight_devices, pairs_file):
  eight_devices.call("cut_tables:memory_falls", str(pairs_file), item_tables, loss)


def test_checksums_do_not_depend_on_how_an_array_is_cut(eight_devices):
  eight_devices.call("cut_tables:checksums_agree")


def test_a_checksum_tells_of_what_changes():
  array = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
  before = checksum({"a": array})
  flipped, swapped = array.copy(), array.copy()
  flipped[5, 3] *= -1
  swapped[[0, 1]] = swapped[[1, 0]]
  two_signs = array * np.where(np.arange(8) < 2, -1, 1).astype(np.float32)
  others = [{"a": flipped}, {"a": swapped}, {"a": two_signs}, {"b": array}, {"a": array[:-1]}, {"a": array, "b": array}]
  assert len({before, *map(checksum, others)}) == 7
  assert checksum({"a": jnp.asarray(array)}) == before
  with pytest.raises(TypeError, match="elements of 1, 2 or 4 bytes, not of float64"):
    checksum({"a": array.astype(np.float64)})


_WITH_TRANSITIONS = """
import pathlib
import sys
from ml_collections import ConfigDict
from mlrec import config as config_lib
from mlrec.runs import experiment
pairs, workdir, cut = sys.argv[1:]
config = config_lib.default_config()
with config.unlocked():
  config.model = ConfigDict({
    "name": "sequential", "dim": 8, "item": {"name": "id"}, "user": {"name": "sasrec", "blocks": 1},
    "transitions": {"share": 0.3},
  })
config.data.source, config.train.epochs, config.train.batch_size, config.log.tensorboard = pairs, 2, 64, False
if cut == "cut":
  config.sharding.model, config.sharding.rules = 4, (("table", "rows:model"),)
experiment.run(config_lib.validate(config), pathlib.Path(workdir), say=lambda text: None)
"""


@pytest.mark.slow
def test_a_model_mixed_with_a_chain_ranks_alike_however_eight_devices_are_cut(pairs_file, tmp_path):
  ran = []
  for name in ("whole", "cut"):
    workdir = tmp_path / name
    command = [sys.executable, "-c", _WITH_TRANSITIONS, str(pairs_file), str(workdir), name]
    done = subprocess.run(command, cwd=ROOT, env=environment(devices=8), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    ran.append([read_json(workdir / "result.json")[split] for split in ("valid", "test")])
  for whole, cut in zip(*ran, strict=True):
    assert cut == pytest.approx(whole, rel=1e-6)
    assert whole["hr@10"] > 0
