"""Runs over codes of items: they learn, are resumed exactly, and stand in a fused tower."""

import functools
import pathlib
import shutil

import numpy as np
import pytest

from mlrec.config import ConfigError
from mlrec.content import codes as code_files
from mlrec.data.interactions import DataError
from mlrec.inference.recommender import Recommender
from mlrec.models.quantizers.quantizer import told_apart
from support import tiny_runs
from support.tiny_runs import assert_same_run
from support.tiny_runs import metric_lines

_TIGER = {"name": "tiger", "dim": 8, "user": tiny_runs.SASREC}
_FUSED = {
  "name": "sequential",
  "dim": 8,
  "item": {"name": "fused", "towers": {"id": {"name": "id"}, "code": {"name": "codes"}}},
  "user": tiny_runs.SASREC,
}


@pytest.fixture(scope="module")
def codes_file(tmp_path_factory):
  """Items that follow one another share codes, as histories have them."""
  items = np.arange(1, tiny_runs.ITEMS + 1)
  path = tmp_path_factory.mktemp("codes") / "codes.safetensors"
  code_files.write(path, told_apart(np.stack([items // 20, items // 5 % 4], axis=1)), items, {})
  return path


@pytest.fixture
def run(run_tiny, codes_file):
  settings = {"train.batch_size": 64, "optimizer.lr": 1e-2, "data.codes": str(codes_file)}
  return functools.partial(run_tiny, **settings)


def test_a_tiger_learns_goes_on_where_it_was_and_recommends_what_it_ranks_first(run, codes_file, tmp_path):
  wanted = run(tmp_path / "whole", model=_TIGER, **{"train.epochs": 4})
  moved = shutil.copy(codes_file, tmp_path)
  for epochs in (2, 4):
    run(tmp_path / "run", model=_TIGER, **{"train.epochs": epochs, "data.codes": moved})
  assert_same_run(tmp_path / "run", tmp_path / "whole")
  losses = [line["loss"] for line in metric_lines(tmp_path / "whole") if line["split"] == "train"]
  assert np.mean(losses[-3:]) < np.mean(losses[:3]) < 1.2 * np.log(tiny_runs.ITEMS)
  # A tenth of the items would be there by luck.
  assert wanted["test"]["hr@10"] > 0.15
  pathlib.Path(moved).unlink()
  recommender = Recommender.load(tmp_path / "run", places={"codes": str(codes_file)})
  split = recommender.loaded.split
  histories = [split.item_ids[split.rows[user][:-1]].tolist() for user in range(tiny_runs.USERS)]
  recommended = recommender.recommend(histories, k=10)
  hits = [target in items for target, items in zip(split.item_ids[split.targets("test")], recommended.items)]
  assert np.mean(hits) == pytest.approx(wanted["test"]["hr@10"])
  # Scores are logarithms of probabilities, highest first.
  assert (np.diff(recommended.scores, axis=1) <= 0).all()
  assert (np.exp(recommended.scores).sum(1) < 1).all()


@pytest.mark.slow
def test_codes_are_features_of_a_fused_tower(run, tmp_path):
  found = run(tmp_path / "run", model=_FUSED, **{"train.epochs": 1})
  assert found["test"]["hr@10"] > 0
  assert np.isfinite(found["test"]["ndcg@10"])


@pytest.mark.slow
def test_a_run_is_not_resumed_with_other_codes(run, codes_file, tmp_path):
  run(tmp_path / "run", model=_TIGER, **{"train.epochs": 1})
  items = np.arange(1, tiny_runs.ITEMS + 1)
  found = code_files.read(str(codes_file), np.arange(tiny_runs.ITEMS + 1)).codes[1:]
  code_files.write(tmp_path / "others.safetensors", found[::-1], items, {})
  with pytest.raises(ConfigError, match="its run read other data"):
    run(tmp_path / "run", model=_TIGER, **{"train.epochs": 2, "data.codes": str(tmp_path / "others.safetensors")})


@pytest.mark.parametrize("model", [_TIGER, _FUSED], ids=["tiger", "fused"])
def test_a_model_of_codes_without_any_says_what_to_set(model, run, tmp_path):
  with pytest.raises(DataError, match=r"config\.data\.codes is empty.* python -m mlrec\.codes"):
    run(tmp_path / "run", model=model, **{"data.codes": ""})
