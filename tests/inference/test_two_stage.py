"""Retrieval, then ranking: exact ranks, and the command."""

import shutil

import numpy as np
import pytest

import mlrec
from mlrec import metrics
from mlrec.config import ConfigError
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.inference.two_stage import TwoStage
from mlrec.inference.two_stage import WEIGHTS
from mlrec.runs import experiment
from support.tiny_runs import environment
from support.tiny_runs import read_json

_RANKER = {"name": "dcn_v2", "dim": 8, "cross_layers": 1, "hidden": (8,)}
_CANDIDATES = 20


@pytest.fixture(scope="module")
def ranker(tmp_path_factory, tiny_config):
  workdir = tmp_path_factory.mktemp("ranker") / "run"
  config = tiny_config(model=_RANKER, **{"train.epochs": 2, "train.monitor": "gauc", "train.batch_size": 128})
  experiment.run(config, workdir, say=lambda text: None)
  return workdir


@pytest.fixture(scope="module")
def stages(finished, ranker):
  return TwoStage(mlrec.Recommender.load(finished), mlrec.Recommender.load(ranker), _CANDIDATES)


def _orders(stages, inputs, seen):
  """All items of a user in the order of both stages, by whole matrices of scores."""
  retrieved = stages.retriever.loaded.scorer.scores(inputs)
  clicked = stages.ranker.loaded.scorer.scores(inputs)
  for row in range(len(inputs)):
    allowed = np.setdiff1d(np.arange(1, retrieved.shape[1]), seen[row])
    order = allowed[np.argsort(-retrieved[row, allowed], kind="stable")]
    first = order[:_CANDIDATES]
    yield [*first[np.argsort(-clicked[row, first], kind="stable")], *order[_CANDIDATES:]], set(first)


def test_ranks_are_those_of_the_whole_order(stages, pairs_file, finished):
  split = leave_one_out(read_pairs(pairs_file))
  targets = split.targets("test")
  ranks, among = [], []
  for target, (order, first) in zip(targets, _orders(stages, split.inputs("test"), split.seen("test"))):
    ranks.append(order.index(target) + 1)
    among.append(target in first)
  found = stages.evaluate("test")
  assert found.users == len(targets)
  assert found.among == np.mean(among)
  wanted = metrics.ranking_metrics(np.array(ranks))
  assert found.after == pytest.approx(wanted)
  # Retrieval alone is what its run has found.
  stated = read_json(finished / "result.json")["test"]
  assert found.before == pytest.approx({key: stated[key] for key in found.before})
  assert found.after != found.before


def test_a_mix_has_the_weight_that_validates_best(stages):
  stages = TwoStage(stages.retriever, stages.ranker, _CANDIDATES)
  found = {}
  for weight in WEIGHTS:
    stages.weight = weight
    found[weight] = stages.evaluate("valid").after["ndcg@10"]
  stages.choose_weight()
  assert found[stages.weight] == max(found.values())
  assert len(set(found.values())) > 1
  # As good as nothing of the ranker leaves the retriever's order.
  stages.weight = 1e-9
  assert stages.evaluate("test").after == pytest.approx(stages.evaluate("test").before)


def test_users_are_recommended_the_candidates_in_the_rankers_order(stages):
  users = [7, 9]
  found, places = stages.recommend_users(users, k=5)
  retrieved = stages.retriever.recommend_users(users, k=_CANDIDATES).items
  for items, before, order in zip(found.items, places, retrieved):
    assert items == [order[place - 1] for place in before]
  assert (np.diff(found.scores, axis=1) <= 0).all()
  rows, _ = stages.retriever.known_users(stages.retriever.users.dense(users))
  scores = stages.ranker.loaded.scorer.scores(rows.last(10))
  np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.dense, axis=1), rtol=1e-4, atol=1e-5)


def test_candidates_are_no_more_than_items(stages):
  assert TwoStage(stages.retriever, stages.ranker, 10_000).candidates == stages.retriever.num_items


def test_runs_that_do_not_fit_are_refused(stages, tmp_path, tiny_config, make_pairs):
  with pytest.raises(ConfigError, match=r"'sequential' predicts no clicks; name a run of .*'din'"):
    TwoStage(stages.retriever, stages.retriever, 5)
  other = tmp_path / "other"
  config = tiny_config(model={"name": "popularity"}, **{"data.source": str(make_pairs(users=50, seed=3))})
  experiment.run(config, other, say=lambda text: None)
  with pytest.raises(ConfigError, match=r"are of different users: train both on one config\.data\.source"):
    TwoStage(mlrec.Recommender.load(other), stages.ranker, 5)
  by_users = tmp_path / "by_users"
  config = tiny_config(model={"name": "popularity"}, **{"data.split": "users:0.8,0.1"})
  experiment.run(config, by_users, say=lambda text: None)
  stages = TwoStage(mlrec.Recommender.load(by_users), stages.ranker, 5)
  with pytest.raises(ConfigError, match="have different targets for test"):
    stages.evaluate("test")


@pytest.fixture
def rerank(forked, tmp_path):
  def run(*arguments):
    return forked.run("mlrec.rerank", [*map(str, arguments)], cwd=tmp_path, env=environment())

  return run


def test_the_command_prints_before_and_after_and_writes_them(rerank, finished, ranker, tmp_path, stages):
  done = rerank(f"--retriever={finished}", f"--ranker={ranker}", f"--candidates={_CANDIDATES}", "--to=figures.json")
  assert done.returncode == 0, done.stderr
  found = read_json(tmp_path / "figures.json")
  wanted = stages.evaluate("test")
  assert found["after"] == pytest.approx(wanted.after)
  assert (found["candidates"], found["users"], found["split"]) == (_CANDIDATES, wanted.users, "test")
  lines = done.stdout.splitlines()
  assert f"{wanted.users} users, 20 candidates of each: the target is among them for {wanted.among:.1%}" in lines[0]
  assert lines[1].split() == ["hr@10", "ndcg@10", "hr@20", "ndcg@20", "mrr"]
  assert lines[3].split()[:3] == ["then", "dcn_v2", f"{wanted.after['hr@10']:.4f}"]


@pytest.mark.slow
def test_the_command_recommends_to_users(rerank, finished, ranker):
  done = rerank(f"--retriever={finished}", f"--ranker={ranker}", "--user=7,9", "--k=2")
  assert done.stdout.splitlines()[0] == "user 7:"
  assert done.stdout.count(" of retrieval)") == 4


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (["--retriever=nothing"], "--ranker=WORKDIR is required"),
    (
      ["--retriever=run", "--ranker=configs/rank/dni.py"],
      "--ranker=configs/rank/dni.py: it is no workdir, and as a config",
    ),
    (["--retriever=run", "--ranker=run", "--split=train"], "value should be one of <valid|test>"),
    (["--retriever=run", "--ranker=run", "--split=valid", "--mix"], "--mix chooses on validation"),
    (["--retriever=run", "--ranker=run", "--user=1", "--to=x.json"], "--to is for figures, and --user recommends"),
  ],
)
def test_mistakes_are_told_in_a_line(arguments, told, rerank, finished, tmp_path):
  shutil.copytree(finished, tmp_path / "run")
  done = rerank(*arguments)
  assert done.returncode == 2
  assert told in done.stderr
  assert "Traceback" not in done.stderr
