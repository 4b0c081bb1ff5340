"""What `init_from` says of files of PyTorch, and of workdirs that are damaged or another model's."""

import os
import re

import numpy as np
import pytest

from mlrec.config import ConfigError
from mlrec.data.id_map import IdMap
from mlrec.runs.workdir import Workdir
from support import torch_files as tf
from support.tiny_runs import read_json

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def started(tiny_config, pairs_file, tmp_path):
  """`started(source)`: the model of a tiny run before its first step, by PyTorch's names."""
  from flax import nnx

  from mlrec.data import leave_one_out
  from mlrec.data import read_pairs
  from mlrec.models.convert import to_torch
  from mlrec.train import loop
  from mlrec.train import warm_start

  def start(source=None, **overrides) -> dict[str, np.ndarray]:
    split = leave_one_out(read_pairs(pairs_file))
    run = loop.TrainingRun(tiny_config(**overrides), split, Workdir(tmp_path / "run").files)
    run.plan()
    state = run.spec.create()
    if source is not None:
      other = Workdir(source).files if source.is_dir() else source
      state = warm_start.load(other, run.spec, state, IdMap.of(split))
    return to_torch(nnx.merge(run.spec.graphdef, state.params, state.rest, copy=True))

  return start


@pytest.mark.parametrize("write", [tf.write_zip, tf.write_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pyth", ".bin"])
def test_a_warm_start_from_a_torch_file(write, suffix, started, tmp_path):
  rng = np.random.default_rng(0)
  arrays = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in started().items()}
  body = tf.mapping({"model": tf.ordered({f"module.{name}": tf.whole(name, a) for name, a in arrays.items()})})
  actual = started(write(tmp_path / f"a{suffix}", body, arrays))
  for name, array in arrays.items():
    np.testing.assert_array_equal(actual[name], array, err_msg=name)


def test_a_torch_file_that_is_refused_is_named_with_the_setting(started, tmp_path):
  path = tf.write_zip(tmp_path / "a.pt", tf.mapping({"x": tf.call(tf.name("os", "system"), tf.text("id"))}))
  with pytest.raises(ConfigError, match=r"config\.init_from = '.*a\.pt': .* names 'os\.system'"):
    started(path)


def test_a_damaged_checkpoint_is_not_called_another_model(copied, started):
  step = read_json(copied / "result.json")["best_step"]
  for path in (copied / "checkpoints" / str(step) / "model").rglob("d/*"):
    os.truncate(path, path.stat().st_size // 2)
  with pytest.raises(ConfigError, match=rf"config\.init_from = .*: checkpoint {step} cannot be read: .+") as error:
    started(copied)
  assert "another model" not in str(error.value)


def test_changed_arrays_are_not_called_another_model(copied, started, monkeypatch):
  from mlrec.train import checkpoint

  monkeypatch.setattr(checkpoint, "checksum", lambda arrays: 0)
  with pytest.raises(ConfigError, match="cannot be read: the arrays of 'model' are not those that were saved"):
    started(copied)


@pytest.mark.parametrize(
  ("overrides", "difference"),
  [
    ({"model.dim": 16}, r"params\.\S+ is \(.*\) there, and \(.*\) in this model"),
    ({"model.user.blocks": 3}, r"params\.\S+ is missing there, and \(.*\) in this model"),
  ],
)
def test_another_model_is_told_by_its_first_difference(overrides, difference, finished, started):
  with pytest.raises(ConfigError, match=rf"{re.escape(str(finished))}' holds another model: {difference}"):
    started(finished, **overrides)
