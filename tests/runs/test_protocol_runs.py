"""Runs under other protocols than leave-one-out, from the log to the table."""

import pathlib
from typing import ClassVar

import numpy as np
import pytest

import mlrec
from mlrec.config import ConfigError
from mlrec.data import Interactions
from mlrec.data import kept_split
from mlrec.data import protocols
from mlrec.data import read_pairs
from mlrec.data import Rows
from mlrec.data import Split
from mlrec.data.id_map import IdMap
from mlrec.inference.catalogue import Catalogue
from mlrec.inference.scorers import UNKNOWN
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.runs import baselines
from mlrec.runs import fitted
from mlrec.runs import workdir as workdirs
from mlrec.runs.per_user import PerUser
from mlrec.runs.report import render
from mlrec.runs.sweep import runner
from mlrec.search_space import log_uniform
from mlrec.serving.service import Service
from support import tiny_runs
from support.tiny_runs import read_json
from support.tiny_runs import saved_arrays
from support.tiny_runs import saved_steps

_TIME, _USERS = "time:0.7,0.1", "users:0.6,0.2"
_LIGHTGCN = {"name": "lightgcn", "dim": 8, "layers": 1}
_POPULARITY = {"name": "popularity"}


def write_csv(path: pathlib.Path, rows: dict[int, list[int]], *, seed: int = 0) -> pathlib.Path:
  """A `*_pairs.csv` of histories by user id, who come one after another and stay for some days."""
  rng = np.random.default_rng(seed)
  lines = []
  for number, (user, row) in enumerate(rows.items()):
    days = np.sort(rng.uniform(0, 60, len(row))) + 40 * number / len(rows)
    lines += [(1_672_531_200_000 + int(day * 86_400_000), user, item) for day, item in zip(days, row)]
  path.parent.mkdir(parents=True, exist_ok=True)
  text = "".join(f"{user},{item},{time}\n" for time, user, item in sorted(lines))
  path.write_text("user,item,timestamp\n" + text)
  return path


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> pathlib.Path:
  """A `*_pairs.csv` of 310 users and 100 items."""
  rows = dict(enumerate(tiny_runs.histories(), start=1))
  return write_csv(tmp_path_factory.mktemp("timed") / "Tiny_pairs.csv", rows)


def evaluated(log: pathlib.Path, text: str) -> Split:
  return protocols.parse(text).split(read_pairs(log), max_length=10, min_length=5)


@pytest.mark.parametrize("text", [_TIME, _USERS])
def test_a_run_is_validated_and_tested_on_the_users_of_its_protocol(text, log, run_tiny, tmp_path):
  said: list[str] = []
  result = run_tiny(tmp_path / "run", say=said.append, **{"data.source": str(log), "data.split": text})
  split = evaluated(log, text)
  sizes = {name: len(split.evaluated(name)) for name in ("valid", "test")}
  assert all(0 < size < split.num_users for size in sizes.values())
  assert text in said[0]
  for name, size in sizes.items():
    assert f"{size} users for {name}" in said[0]
    assert sum(value for key, value in result[name].items() if key.endswith("/targets")) == size
    assert result[name]["hr@10"] * size == pytest.approx(round(result[name]["hr@10"] * size))
    assert result[name]["hr@10"] > 0.1, "one item mostly leads to the next"
  assert result["data"] == split.fingerprint
  assert result.get("moments", {}) == split.cuts.moments
  assert all(f"users for {name} (from {moment} on)" in said[0] for name, moment in split.cuts.moments.items())
  # What is kept serves without the log.
  again = run_tiny(tmp_path / "run", evaluate_only=True, **{"data.source": str(log), "data.split": text})
  assert again["test"] == result["test"]


def test_ranks_are_those_of_the_users_who_have_a_target(log):
  split = evaluated(log, _TIME)

  class Nearest(FittedRecommender):
    """Scores items by how near they are to the newest of the history, and tells whom it was asked for."""

    asked: ClassVar[list[int]] = []

    def scores(self, histories, users):
      self.asked.extend(users.tolist())
      newest = histories.values[histories.offsets[1:] - 1]
      return -np.abs(np.arange(split.num_items + 1) - newest[:, None] - 1).astype(np.float32)

  for name in ("valid", "test"):
    Nearest.asked = []
    found = fitted.evaluate(Nearest(), split, name, chunk_bytes=1)
    ranks = []
    for user in split.evaluated(name):
      row, place = split.rows[int(user)].tolist(), split.cuts.targets[name][user]
      others = [item for item in range(1, split.num_items + 1) if item not in row[:place]]
      far = {item: abs(item - row[place - 1] - 1) for item in others}
      ranks.append(sum(far[item] <= far[row[place]] for item in others) if row[place] in far else np.inf)
    assert sorted(Nearest.asked) == split.evaluated(name).tolist()
    assert found["hr@10"] == pytest.approx(np.mean(np.array(ranks) <= 10))
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))


@pytest.mark.slow
def test_windows_make_epochs_longer_and_serve_models_of_all_sorts(log, run_tiny, tmp_path):
  options = {"data.source": str(log), "data.split": "time:0.8,0.1", "data.max_length": 3, "train.epochs": 1}
  steps = {}
  for windows in (1, 0):
    run_tiny(tmp_path / str(windows), **options, **{"data.train_windows": windows})
    steps[windows] = saved_steps(tmp_path / str(windows))[-1]
  assert steps[0] > steps[1]
  for model in (_LIGHTGCN, {"name": "ease", "regularization": 20.0}):
    result = run_tiny(tmp_path / model["name"], model=model, **options, **{"data.train_windows": 0})
    assert 0 < result["test"]["hr@20"] < 1


def test_without_a_split_the_last_epoch_is_kept_and_nothing_is_told_of_it(log, run_tiny, tmp_path, capfd):
  said: list[str] = []
  options = {"data.source": str(log), "data.split": "none", "train.patience": 1, "train.epochs": 3}
  result = run_tiny(tmp_path / "run", say=said.append, baselines=("popularity",), **options)
  assert not {"valid", "test"} & result.keys()
  assert result["best_epoch"] == 3
  assert result["best_step"] == saved_steps(tmp_path / "run")[-1]
  assert "training takes all config.train.epochs = 3; best_epoch" in said[1]
  assert "epoch 3 · mean loss" in capfd.readouterr().err
  assert not (tmp_path / "run" / "comparison.json").exists()
  # It is finished, and goes on for more epochs as any other.
  assert run_tiny(tmp_path / "run", say=said.append, **options) == result
  assert "is finished" in said[-1]
  longer = run_tiny(tmp_path / "run", **options | {"train.epochs": 4})
  assert longer["best_epoch"] == 4
  with pytest.raises(ConfigError, match=r"--evaluate_only: config\.data\.split = 'none' leaves nothing to evaluate on"):
    run_tiny(tmp_path / "run", evaluate_only=True, **options)


def test_the_moments_that_shares_come_to_are_kept_and_cut_alike(log, tmp_path):
  by_shares = evaluated(log, _TIME)
  assert sorted(by_shares.cuts.moments) == ["test", "valid"]
  moments = ",".join(by_shares.cuts.moments[name] for name in ("valid", "test"))
  assert moments.startswith("2023-")
  kept_split.write(by_shares, tmp_path / "data.safetensors")
  IdMap.of(by_shares).write(tmp_path / "ids.safetensors")
  kept = kept_split.read(tmp_path / "data.safetensors", tmp_path / "ids.safetensors")
  assert kept.cuts.moments == by_shares.cuts.moments
  by_moments = evaluated(log, f"time:{moments}")
  assert np.array_equal(by_moments.cuts.train, by_shares.cuts.train)
  assert all(np.array_equal(places, by_shares.cuts.targets[name]) for name, places in by_moments.cuts.targets.items())


@pytest.mark.slow
def test_without_a_split_a_stopped_run_ends_as_if_it_had_not_been(log, run_tiny, tmp_path):
  options = {"data.source": str(log), "data.split": "none"}
  run_tiny(tmp_path / "whole", **options)
  tiny_runs.run_to_the_end(run_tiny, tmp_path / "stopped", stop=tiny_runs.StopAt(2, 6), stops=2, **options)
  tiny_runs.assert_same_run(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_without_a_split_all_seeds_and_what_is_computed_at_once_are_finished_too(log, run_tiny, tmp_path):
  options = {"data.source": str(log), "data.split": "none"}
  seeds = run_tiny(tmp_path / "seeds", seeds=(0, 1), **options, **{"train.epochs": 1})
  assert seeds["seeds"] == [0, 1]
  assert (tmp_path / "seeds" / "result.json").exists()
  result = run_tiny(tmp_path / "popularity", model=_POPULARITY, **options)
  assert result["users"] == 310
  assert (tmp_path / "popularity" / "data.safetensors").exists()


@pytest.mark.parametrize(
  ("model", "text"),
  [
    (_LIGHTGCN, _TIME),
    pytest.param(_LIGHTGCN, _USERS, marks=pytest.mark.slow),
    ({"name": "dssm", "dim": 8}, _TIME),
    pytest.param({"name": "vbpr", "dim": 8}, _TIME, marks=pytest.mark.slow),
  ],
  ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_a_model_with_rows_of_users_ranks_for_unseen_ones_as_it_recommends(
  model, text, log, run_tiny, tmp_path, caplog
):
  features = tmp_path / "vectors.npy"
  np.save(features, np.random.default_rng(0).normal(size=(101, 4)).astype(np.float32))
  options = {"data.features": str(features)} if model["name"] == "vbpr" else {}
  run_tiny(tmp_path / "run", model=model, **options, **{"data.source": str(log), "data.split": text, "train.epochs": 1})
  split = evaluated(log, text)
  users = split.evaluated("test")
  trained = split.train.lengths[users] > 0
  assert 0 < (~trained).sum() == len(users) if text == _USERS else 0 < (~trained).sum() < len(users)
  assert f"Training sees nothing of {(~trained).sum()} of {len(users)} users for test" in caplog.text
  recommender = mlrec.Recommender.load(tmp_path / "run")
  found = recommender.recommend_dense(split.seen("test"), np.where(trained, users, UNKNOWN), 10)
  kept = PerUser.read(workdirs.Workdir(tmp_path / "run").per_user).splits["test"]
  assert np.array_equal(kept.recommended[:, :10], found.dense)
  places = (found.dense == split.targets("test")[:, None]).argmax(1) + 1
  inside = kept.ranks <= 10
  assert np.array_equal(kept.ranks[inside], places[inside])


@pytest.mark.slow
def test_a_model_of_everything_recommends_and_one_of_a_past_time_folds_in_whom_it_has_not_seen(log, run_tiny, tmp_path):
  options = {"data.source": str(log), "train.epochs": 1}
  run_tiny(tmp_path / "none", seeds=(0, 1), **options, **{"data.split": "none"})
  recommender = mlrec.Recommender.load(tmp_path / "none")
  assert recommender.recommend_users([1], k=3).dense.shape == (1, 3)
  run_tiny(tmp_path / "time", model=_LIGHTGCN, **options, **{"data.split": _TIME})
  recommender = mlrec.Recommender.load(tmp_path / "time")
  split = evaluated(log, _TIME)
  unseen = split.users[split.train.lengths == 0][:5].tolist()
  found = recommender.recommend_users(unseen, k=3)
  folded = recommender.recommend([recommender.history(user) for user in unseen], k=3)
  assert np.array_equal(found.dense, folded.dense)
  np.testing.assert_allclose(found.scores, folded.scores, rtol=1e-5)
  question, _ = Service(recommender, Catalogue()).question(user=unseen[0], k=3)
  assert (question.user, question.history.tolist()) == (
    UNKNOWN,
    split.rows[split.users.tolist().index(unseen[0])].tolist(),
  )


def test_a_sweep_without_validation_is_refused(log, tiny_config, tmp_path):
  config = tiny_config(**{"data.source": str(log), "data.split": "none"})
  sweep = runner.Sweep(config, {"optimizer.lr": log_uniform(1e-4, 1e-2)}, tmp_path / "sweep", file="tiny.py")
  with pytest.raises(ConfigError, match="'none': a sweep chooses by validation"):
    sweep.run(trials=1, seconds=None, say=lambda text: None)


def test_reports_have_a_table_for_each_protocol_and_one_of_systems_under_all(log, run_tiny, tmp_path):
  options = {"data.source": str(log), "train.epochs": 1, "model": _POPULARITY}
  folders = {text: tmp_path / f"run{n}" for n, text in enumerate(("leave_one_out", _TIME, _USERS, "none"))}
  results = {text: run_tiny(folder, **options, **{"data.split": text}) for text, folder in folders.items()}
  assert len({result["data"] for result in results.values()}) == 4
  assert len({result["config_hash"] for result in results.values()}) == 4
  notes: list[str] = []
  texts = render.make(list(map(str, folders.values())), note=notes.append)
  headings = [line for line in texts["markdown"].splitlines() if line.startswith("###")]
  assert len(headings) == 4
  assert headings[3] == "### Protocols side by side"
  assert "split" not in headings[0]
  assert f"split {_TIME}" in headings[1]
  assert f"split {_USERS}" in headings[2]
  assert [line.split(",")[3].strip('"') for line in texts["csv"].splitlines()][:2] == ["split", "leave_one_out"]
  assert _TIME in texts["csv"]
  assert f"{folders['none']} has no test metrics, as it was trained on everything: left out" in notes


def test_a_comparison_names_the_protocol(log, run_tiny, tmp_path):
  said: list[str] = []
  options = {"data.source": str(log), "data.split": _USERS, "train.epochs": 1, "baselines": ("popularity",)}
  result = run_tiny(tmp_path / "run", say=said.append, **options)
  rows = read_json(tmp_path / "run" / "comparison.json")
  assert {row["split"] for row in rows.values()} == {_USERS}
  assert rows["this run (id)"]["hr@10"] == result["test"]["hr@10"]
  assert any(line.startswith(f"test, {_USERS} ") for line in said)
  baselines.show({"a": {}}, said.append)
  assert said[-2].startswith("test ")


def test_each_protocol_has_a_workdir_of_its_own(tiny_config):
  names = [workdirs.default("id.py", "", tiny_config(**{"data.split": text})).name for text in ("leave_one_out", _TIME)]
  assert names == ["id_Tiny_pairs_sasrec_d8_seed42", "id_Tiny_pairs_time-0.7-0.1_sasrec_d8_seed42"]


_FUSED = {"name": "fused", "towers": {"id": {"name": "id"}, "vectors": {"name": "features"}}}


@pytest.mark.parametrize(
  ("day", "options"),
  [
    ("none", {}),
    pytest.param(_TIME, {"item": _FUSED}, marks=pytest.mark.slow),
    pytest.param(_TIME, {"model": _LIGHTGCN}, marks=pytest.mark.slow),
  ],
  ids=["sasrec", "fused", "lightgcn"],
)
def test_the_next_day_s_log_goes_on_from_yesterday_s_run(day, options, log, run_tiny, tmp_path, caplog):
  vectors = np.random.default_rng(0).normal(size=(1010, 6)).astype(np.float32)
  np.save(tmp_path / "vectors.npy", vectors)
  shared = {"data.features": str(tmp_path / "vectors.npy")} if "item" in options else {}
  run_tiny(tmp_path / "yesterday", **options, **shared, **{"data.source": str(log), "data.split": "none"})
  # Some go on, to items that are new too; some users are new, and one has gone.
  rows = {user: row for user, row in enumerate(tiny_runs.histories(), start=1) if user != 17}
  grown = {user: [*row, 1000 + user % 7, 500][: len(row) + user % 3] for user, row in rows.items()}
  grown |= {10_000 + n: [*tiny_runs.histories(seed=1)[n], 1000 + n % 9] for n in range(40)}
  today = write_csv(tmp_path / "today" / "Tiny_pairs.csv", grown, seed=1)
  # Without steps to speak of, what is known is where it was.
  still = {"optimizer.lr": 1e-12, "optimizer.weight_decay": 0.0, "train.epochs": 1}
  result = run_tiny(
    tmp_path / "run", **options, **shared, **still,
    **{"data.source": str(today), "data.split": day, "init_from": str(tmp_path / "yesterday")},
  )  # fmt: skip
  assert result["users"] == len(grown)
  ours, theirs = (IdMap.read(tmp_path / name / "ids.safetensors") for name in ("run", "yesterday"))
  known, first, second = np.intersect1d(ours.items, theirs.items, return_indices=True)
  assert len(ours.items) > len(known) == len(theirs.items) == 101
  assert f"{len(known) - 1} of {len(ours.items) - 1} items are known there" in caplog.text
  before, after = (saved_arrays(tmp_path / name) for name in ("yesterday", "run"))
  tables = [name for name in after if name.startswith("model/params") and len(after[name]) == len(ours.items)]
  assert len(tables) == 1
  np.testing.assert_allclose(after[tables[0]][first], before[tables[0]][second], atol=1e-6)
  new = np.setdiff1d(np.arange(len(ours.items)), first)
  assert (np.abs(after[tables[0]][new]).max(axis=1) > 0).all()
  if day != "none":
    assert result["test"]["hr@10"] > 0.2


def test_a_log_whose_users_have_two_lines_is_cut_by_the_later_one():
  lines = Rows.from_lists([[1, 2, 3], [4, 5], [6, 7, 8]])
  log = Interactions(np.array([1, 2, 1]), lines, timestamps=np.array([9, 9, 9, 1, 2, 1, 2, 3]))
  split = protocols.parse("none").split(log, max_length=10, min_length=2)
  assert split.users.tolist() == [1, 2]
  assert split.item_ids.tolist() == [0, 4, 5, 6, 7, 8]
  assert log.history_times[0].tolist() == [1, 2, 3]
