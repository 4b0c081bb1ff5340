"""Recommenders over the graph of interactions, trained as any other: resumed, on several devices, with features."""

from flax import nnx
from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec import config as config_lib
from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.id_map import IdMap
from mlrec.runs import experiment
from mlrec.runs.workdir import Workdir
from mlrec.train import loop
from mlrec.train import warm_start
from mlrec.train.model_builder import ModelBuilder
from mlrec.train.stop import Interrupted
from support.tiny_runs import assert_same_run
from support.tiny_runs import ITEMS
from support.tiny_runs import losses
from support.tiny_runs import read_json
from support.tiny_runs import saved_arrays
from support.tiny_runs import StopAt
from support.tiny_runs import TINY

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


def test_a_stopped_run_is_resumed_bit_for_bit(config_of, of_lightgcn, tmp_path):
  with pytest.raises(Interrupted):
    experiment.run(config_of(LIGHTGCN), tmp_path / "run", stop=StopAt(4))
  experiment.run(config_of(LIGHTGCN), tmp_path / "run")
  assert_same_run(tmp_path / "run", of_lightgcn)


def test_eight_devices_train_and_rank_as_one_does(command, pairs_file, of_lightgcn, tmp_path):
  (tmp_path / "config.py").write_text(
    "from ml_collections import ConfigDict\n"
    "from mlrec.config import default_config\n\n\n"
    "def get_config():\n"
    "  config = default_config()\n"
    f"  config.model = ConfigDict({LIGHTGCN!r})\n"
    f"  config.update_from_flattened_dict({SETTINGS | {'data.source': str(pairs_file)}!r})\n"
    "  return config\n"
  )
  done = command(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", devices=8)
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


def test_parameters_of_another_run_leave_the_graph_to_the_data(config_of, of_lightgcn, pairs_file, tmp_path):
  rows = [line.split("\t") for line in pairs_file.read_text().splitlines()]
  turned = tmp_path / "Turned_pairs.tsv"
  # The same items, each user's in the opposite order: other edges, as many.
  turned.write_text("".join(f"{user}\t{' '.join(items.split()[::-1])}\n" for user, items in rows))
  split = leave_one_out(read_pairs(turned))
  run = loop.TrainingRun(config_of(LIGHTGCN, **{"data.source": str(turned)}), split, Workdir(tmp_path).files)
  run.plan()
  made = run.spec.create()
  state = warm_start.load(Workdir(of_lightgcn).files, run.spec, made, IdMap.of(split))
  there = saved_arrays(of_lightgcn, read_json(of_lightgcn / "result.json")["best_step"])
  for found, name in ((state.params, "users"), (state.params, "items")):
    np.testing.assert_array_equal(found[name][...], there[f"model/params.{name}.value"])
  for path, own in nnx.to_flat_state(made.rest):
    found = dict(nnx.to_flat_state(state.rest))[path]
    np.testing.assert_array_equal(found[...], own[...])
  assert not np.array_equal(state.rest["graph"]["_items"][...], there["model/rest.graph._items.value"])


@pytest.mark.parametrize("model", [MMGCN, GRCN], ids=["mmgcn", "grcn"])
def test_models_of_pairs_learn_from_ids_and_features(model, config_of, features_file, tmp_path):
  # Every shipped config, of ids alone too, is trained elsewhere.
  result = experiment.run(config_of(model, **{"data.features": str(features_file)}), tmp_path / "run").to_json()
  values = list(losses(tmp_path / "run").values())
  assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4])
  # Ten of a hundred would be drawn by lot.
  assert result["valid"]["hr@10"] > 0.2
  arrays = {name: array for name, array in saved_arrays(tmp_path / "run").items() if ".content." in name}
  kept = next(array for name, array in arrays.items() if "features" in name)
  np.testing.assert_array_equal(kept[1:ITEMS], np.load(features_file))
  assert not kept[0].any()
  # The item that the file does not hold.
  assert not kept[ITEMS].any()
  assert any(array.shape == (5, 8) for array in arrays.values())


def test_features_are_part_of_the_data_and_none_are_none(config_of, features_file, tmp_path, pairs_file):
  split = leave_one_out(read_pairs(pairs_file))
  np.save(tmp_path / "other.npy", np.load(features_file) + 1)

  def builder(source):
    return ModelBuilder(config_of(GRCN, **{"data.features": str(source)}), split)

  one, again, other = (builder(path).fingerprints for path in (features_file, features_file, tmp_path / "other.npy"))
  assert one == again != other
  assert builder("").fingerprints == []
  assert not hasattr(builder("").create(rngs=nnx.Rngs(0)).content, "features")


@pytest.mark.parametrize("model", [MMGCN, GRCN], ids=["mmgcn", "grcn"])
def test_a_config_with_features_is_refused_without_them(model, config_of, tmp_path):
  with pytest.raises(DataError, match=r"data\.features is empty"):
    experiment.run(config_of(model | {"with_features": True}), tmp_path / "run")


def test_features_with_nan_are_refused_by_item(config_of, features_file, tmp_path):
  vectors = np.load(features_file)
  vectors[6, 2] = np.nan
  np.save(tmp_path / "bad.npy", vectors)
  with pytest.raises(ValueError, match="the vector of item 7 holds NaN"):
    experiment.run(config_of(MMGCN, **{"data.features": str(tmp_path / "bad.npy")}), tmp_path / "run")
