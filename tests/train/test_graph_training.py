"""Recommenders over the graph of interactions, trained as any other: resumed, on several devices, with features."""

import subprocess

from ml_collections import ConfigDict
import numpy as np
import pytest
from tiny_runs import assert_same_run
from tiny_runs import environment
from tiny_runs import ITEMS
from tiny_runs import losses
from tiny_runs import main_command
from tiny_runs import read_json
from tiny_runs import saved_arrays
from tiny_runs import TINY

from mlrec import config as config_lib
from mlrec.train import experiment
from mlrec.train import loop

LIGHTGCN = {"name": "lightgcn", "dim": 8}
MMGCN = {"name": "mmgcn", "dim": 8, "latent": 8, "layers": 1}
GRCN = {"name": "grcn", "dim": 8, "latent": 8, "routing": 1}
# Twelve steps an epoch.
SETTINGS = {name: value for name, value in TINY.items() if name != "model.dim"} | {
  "optimizer.lr": 1e-2, "optimizer.weight_decay": 0.0, "train.batch_size": 192, "train.epochs": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def features_file(tmp_path_factory):
  """Vectors of all items but the last."""
  path = tmp_path_factory.mktemp("features") / "vectors.npy"
  np.save(path, np.random.default_rng(0).normal(size=(ITEMS - 1, 5)).astype(np.float32))
  return path


@pytest.fixture(scope="module")
def config_of(pairs_file):
  def make(model, **overrides):
    config = config_lib.default_config()
    config.model = ConfigDict(model)
    config.update_from_flattened_dict({**SETTINGS, "data.source": str(pairs_file), **overrides})
    return config_lib.validate(config)

  return make


@pytest.fixture(scope="module")
def of_lightgcn(config_of, tmp_path_factory):
  """The workdir of a LightGCN run that was never interrupted."""
  workdir = tmp_path_factory.mktemp("lightgcn") / "run"
  experiment.run(config_of(LIGHTGCN), workdir)
  return workdir


def test_a_stopped_run_goes_on_bit_for_bit(config_of, of_lightgcn, tmp_path, monkeypatch):
  asked = []

  def stop_once(self):
    asked.append(None)
    return len(asked) == 4

  monkeypatch.setattr(loop.StopSignal, "agreed", stop_once)
  with pytest.raises(loop.Interrupted):
    experiment.run(config_of(LIGHTGCN), tmp_path / "run")
  experiment.run(config_of(LIGHTGCN), tmp_path / "run")
  assert_same_run(tmp_path / "run", of_lightgcn)


def test_eight_devices_train_and_rank_as_one_does(pairs_file, of_lightgcn, tmp_path):
  (tmp_path / "config.py").write_text(
    "from ml_collections import ConfigDict\n"
    "from mlrec.config import default_config\n\n\n"
    "def get_config():\n"
    "  config = default_config()\n"
    f"  config.model = ConfigDict({LIGHTGCN!r})\n"
    f"  config.update_from_flattened_dict({SETTINGS | {'data.source': str(pairs_file)}!r})\n"
    "  return config\n"
  )
  done = subprocess.run(
    main_command(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"),
    env=environment(devices=8), capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  found, wanted = read_json(tmp_path / "run" / "result.json"), read_json(of_lightgcn / "result.json")
  assert found["devices"]["count"] == 8
  assert found["config_hash"] == wanted["config_hash"]
  values, expected = losses(tmp_path / "run"), losses(of_lightgcn)
  assert values.keys() == expected.keys()
  np.testing.assert_allclose(list(values.values()), list(expected.values()), rtol=5e-6)
  arrays = saved_arrays(of_lightgcn)
  for name, array in saved_arrays(tmp_path / "run").items():
    np.testing.assert_allclose(array, arrays[name], rtol=0, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("model", [MMGCN, GRCN], ids=["mmgcn", "grcn"])
def test_ids_alone_and_ids_with_features_train_and_learn(model, config_of, features_file, tmp_path):
  shapes = {}
  for name, source in (("id", ""), ("v", str(features_file))):
    result = experiment.run(config_of(model, **{"data.features": source}), tmp_path / name)
    values = list(losses(tmp_path / name).values())
    assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4])
    # Ten of a hundred would be drawn by lot.
    assert result["valid"]["hr@10"] > 0.2
    shapes[name] = {key: array.shape for key, array in saved_arrays(tmp_path / name).items() if ".content." in key}
  assert any(shape == (ITEMS + 1, 8) for shape in shapes["id"].values())
  assert any(shape == (5, 8) for shape in shapes["v"].values())
  assert not any(shape == (ITEMS + 1, 8) for shape in shapes["v"].values())


def test_other_features_are_other_data(config_of, features_file, tmp_path):
  settings = {"train.epochs": 1, "data.features": str(features_file)}
  experiment.run(config_of(GRCN, **settings), tmp_path / "run")
  np.save(tmp_path / "other.npy", np.load(features_file) + 1)
  settings |= {"train.epochs": 2, "data.features": str(tmp_path / "other.npy")}
  with pytest.raises(config_lib.ConfigError, match="read other data"):
    experiment.run(config_of(GRCN, **settings), tmp_path / "run")


def test_features_with_nan_are_refused_by_item(config_of, features_file, tmp_path):
  vectors = np.load(features_file)
  vectors[6, 2] = np.nan
  np.save(tmp_path / "bad.npy", vectors)
  with pytest.raises(ValueError, match="the vector of item 7 holds NaN"):
    experiment.run(config_of(MMGCN, **{"data.features": str(tmp_path / "bad.npy")}), tmp_path / "run")
