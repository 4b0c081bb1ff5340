"""Runs of models that predict clicks: they learn, are resumed exactly, and say what does not suit them."""

import pathlib

from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.runs import experiment
from mlrec.runs.workdir import Workdir
from support import impression_folders as folders
from support.tiny_runs import assert_same_arrays
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import ROOT
from support.tiny_runs import saved_arrays

_DIN = {"name": "din", "dim": 8, "attention_hidden": (6,), "hidden": (8,), "dropout": 0.1}
_CLICKS = {"train.monitor": "auc", "train.batch_size": 128, "optimizer.lr": 1e-2, "impressions.negatives": 2}


@pytest.fixture
def run(tiny_config):
  """Runs DIN on a log, or another model: `run(workdir, epochs)`."""

  def run(
    workdir: pathlib.Path, epochs: int = 1, *, model=None, say=lambda text: None, evaluate_only=False, **settings
  ):
    config = tiny_config(model=model or _DIN, **{**_CLICKS, "train.epochs": epochs, **settings})
    return experiment.run(config, workdir, say=say, evaluate_only=evaluate_only).to_json()

  return run


def test_a_run_that_was_continued_is_the_same_run_and_learns(run, tmp_path):
  told: list[str] = []
  wanted = run(tmp_path / "whole", 4, say=told.append)
  assert wanted["test"]["auc"] > 0.7
  assert wanted["test"]["impressions"] == 3 * wanted["users"]
  assert wanted["test"]["click_rate"] == pytest.approx(1 / 3)
  assert any(
    " to train on (each clicked, 2 others drawn beside it), 930 for valid (33.3% clicks)" in text for text in told
  )
  assert any(text.startswith("test  auc 0.") and "log_loss" in text and "hr@10" not in text for text in told)
  run(tmp_path / "run", 2)
  found = run(tmp_path / "run", 4)
  assert_same_arrays(saved_arrays(tmp_path / "run"), saved_arrays(tmp_path / "whole"))
  assert metric_lines(tmp_path / "run") == metric_lines(tmp_path / "whole")
  assert found["test"] == wanted["test"]
  assert run(tmp_path / "run", 4, evaluate_only=True)["test"] == wanted["test"]
  assert not Workdir(tmp_path / "run").per_user.exists()


@pytest.mark.slow
def test_a_folder_of_impressions_is_trained_on_through_the_shipped_config(tmp_path, command):
  folder = folders.write_folder(tmp_path / "MicroLens_1M_x1", test_labels=False)
  arguments = [f"--config={ROOT / 'configs' / 'rank' / 'mmctr.py'}:dcn_v2", f"--config.data.source={folder}"]
  arguments += ["--config.train.epochs=6", "--config.train.batch_size=64", "--config.optimizer.lr=5e-3"]
  arguments += ["--config.log.tensorboard=False", "--config.model.dim=8", "--config.data.max_length=4"]
  done = command(*arguments, f"--workdir={tmp_path / 'run'}")
  assert done.returncode == 0, done.stderr
  assert "600 to train on (" in done.stdout
  assert "200 for test (no labels)" in done.stdout
  assert "test  is not judged: its impressions have no labels" in done.stdout
  result = read_json(tmp_path / "run" / "result.json")
  assert result["valid"]["auc"] > 0.65
  assert result["test"] == {"impressions": 200.0}
  # The files need not be there any more, but for the vectors of items.
  for name in ("train", "valid", "test"):
    (folder / f"{name}.parquet").unlink()
  import mlrec

  recommender = mlrec.Recommender.load(tmp_path / "run")
  (found,) = recommender.recommend([[3, 4]], k=3).items
  assert len(set(found) - {3, 4}) == 3


@pytest.mark.slow
def test_labels_and_their_order_are_part_of_what_a_run_read(tmp_path, run):
  folder = folders.write_folder(tmp_path / "data", train=100, valid=100)
  settings = {"data.source": str(folder), "data.max_length": 4}
  run(tmp_path / "run", **settings)
  columns = folders.impression_columns(100, seed=0)
  columns["label"][3] = 1 - columns["label"][3]
  folders.write(folder / "train.parquet", columns)
  with pytest.raises(ConfigError, match="its run read other data"):
    run(tmp_path / "run", 2, **settings)


@pytest.mark.parametrize(
  ("settings", "told"),
  [
    ({"train.monitor": "hr@10"}, r"config\.train\.monitor = 'hr@10': .*'din' is judged by clicks; .*'auc'"),
    ({"baselines": ("popularity",)}, r"config\.baselines = \('popularity',\): .*'din' is judged by clicks"),
    ({"loss.negative_groups": 4}, r"config\.loss\.negative_groups = 4: din is trained on impressions"),
    ({"model": {"name": "nfm", "dim": 8}}, r"config\.train\.monitor = 'auc': .*'nfm' is judged by places of targets"),
    (
      {"model": {**_DIN, "item": {"name": "fields"}}},
      r"config\.model\.item\.name = 'fields' reads categories of items",
    ),
  ],
)
def test_what_does_not_suit_is_refused(settings, told, run, tmp_path):
  with pytest.raises(ConfigError, match=told):
    run(tmp_path / "run", **settings)


@pytest.mark.parametrize(
  ("settings", "error", "told"),
  [
    ({"model": {"name": "popularity"}, "train.monitor": "hr@10"}, ConfigError, "'popularity' learns from histories"),
    (
      {"model": {"name": "nfm"}, "train.monitor": "hr@10"},
      ConfigError,
      r"'nfm' learns from histories, and .* impressions",
    ),
    ({"eval.users": 5}, DataError, r"config\.eval\.users = 5: .* holds impressions"),
    ({"data.split": "users:0.8,0.1"}, DataError, r"config\.data\.split = 'users:0\.8,0\.1'"),
  ],
)
def test_what_does_not_suit_impressions_of_files_is_refused(settings, error, told, run, tmp_path):
  folder = folders.write_folder(tmp_path / "data", train=50, valid=50)
  with pytest.raises(error, match=told):
    run(tmp_path / "run", **{"data.source": str(folder), "data.max_length": 4, **settings})


def test_validation_of_one_class_is_refused(run, tmp_path):
  folder = folders.write_folder(tmp_path / "data", train=50, valid=50)
  columns = folders.impression_columns(50, seed=1)
  columns["label"] = [0] * 50
  folders.write(folder / "valid.parquet", columns)
  with pytest.raises(DataError, match="of 50 impressions for validation all are clicks, or none is"):
    run(tmp_path / "run", **{"data.source": str(folder)})
  columns["user_id"], columns["label"] = list(range(50)), [0, 1] * 25
  folders.write(folder / "valid.parquet", columns)
  with pytest.raises(DataError, match=r"config\.train\.monitor = 'gauc': no user has both .*; give 'auc'"):
    run(tmp_path / "run", **{"data.source": str(folder), "train.monitor": "gauc"})


def test_the_shipped_configs_of_rankers_are_valid_and_of_the_demo():
  for path in sorted((ROOT / "configs" / "rank").glob("*.py")):
    config = config_lib.validate(config_lib.from_file(f"{path}:din", "get_config", ""))
    assert isinstance(config, ConfigDict)
    if path.stem != "mmctr":
      assert config.data.source == "microlens/demo-sequences"


@pytest.mark.slow
def test_impressions_are_judged_alike_on_eight_devices(pairs_file, command, tmp_path):
  results = []
  for devices in (1, 8):
    workdir = tmp_path / f"on_{devices}"
    done = command(
      f"--config={ROOT / 'configs' / 'rank' / 'din.py'}", f"--workdir={workdir}", f"--config.data.source={pairs_file}",
      "--config.train.epochs=2", "--config.train.batch_size=64", "--config.log.tensorboard=False",
      "--config.model.dim=8", devices=devices,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results.append(read_json(workdir / "result.json"))
  for name in ("auc", "log_loss"):
    np.testing.assert_allclose(results[1]["test"][name], results[0]["test"][name], atol=2e-3)
