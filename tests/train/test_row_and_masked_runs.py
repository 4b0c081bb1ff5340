"""Runs of NFM, DeepFM, BERT4Rec and HSTU: they learn, and are resumed exactly."""

import pathlib

from ml_collections import ConfigDict
import numpy as np
import pytest

from support.tiny_runs import assert_same_arrays
from support.tiny_runs import metric_lines
from support.tiny_runs import saved_arrays

_MODELS = {
  "nfm": {"name": "nfm", "dim": 8, "dropout": 0.1},
  "deepfm": {"name": "deepfm", "dim": 8, "dropout": 0.1},
  "bert4rec": {"name": "bert4rec", "dim": 8, "item": {"name": "id"}, "blocks": 1},
  "hstu": {"name": "sequential", "dim": 8, "user": {"name": "hstu", "blocks": 1}},
}
# Near kin of the others here.
_SLOW = ("deepfm", "hstu")


@pytest.fixture
def run(tiny_config):
  """Runs a model: `run(name, workdir, epochs)`."""
  from mlrec import config as config_lib
  from mlrec.runs import experiment

  def run(name: str, workdir: pathlib.Path, epochs: int, **options):
    config = tiny_config(**{"train.epochs": epochs, "train.batch_size": 64, "optimizer.lr": 1e-2})
    with config.unlocked():
      config.model = ConfigDict(_MODELS[name])
    return experiment.run(config_lib.validate(config), workdir, say=lambda text: None, **options).to_json()

  return run


@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=pytest.mark.slow) if name in _SLOW else name for name in _MODELS]
)
def test_a_run_that_was_continued_is_the_same_run(name, run, tmp_path):
  wanted = run(name, tmp_path / "whole", 2)
  run(name, tmp_path / "run", 1)
  found = run(name, tmp_path / "run", 2)
  assert_same_arrays(saved_arrays(tmp_path / "run"), saved_arrays(tmp_path / "whole"))
  lines = metric_lines(tmp_path / "whole")
  assert metric_lines(tmp_path / "run") == lines
  losses = [line["loss"] for line in lines if line["split"] == "train"]
  assert np.mean(losses[-3:]) < np.mean(losses[:3])
  assert found["test"] == wanted["test"]
  assert run(name, tmp_path / "run", 2, evaluate_only=True)["test"] == wanted["test"]
