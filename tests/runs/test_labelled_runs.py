"""Runs on a log in MMRec's format under its labels: its evaluation stated plainly, records, messages."""

import pytest

import mlrec
from mlrec.config import ConfigError
from mlrec.runs.per_user import PerUser
from support import labelled_logs
from support.tiny_runs import read_json

_MODELS = {
  "sasrec": {},
  "ease": {"model": {"name": "ease", "regularization": 5.0}},
  "item_knn": {"model": {"name": "item_knn"}},
}


@pytest.fixture(scope="module")
def log():
  return labelled_logs.lines()


@pytest.fixture(scope="module")
def source(log, tmp_path_factory):
  return labelled_logs.write(tmp_path_factory.mktemp("data") / "tiny.inter", log)


def _options(source) -> dict:
  return {"data.source": str(source), "data.split": "labels", "train.monitor": "recall@20"}


@pytest.fixture(scope="module", params=list(_MODELS))
def run(request, source, run_tiny, tmp_path_factory):
  """A finished run, its messages and its result."""
  workdir = tmp_path_factory.mktemp("labels") / request.param
  said: list[str] = []
  result = run_tiny(workdir, say=said.append, **_MODELS[request.param], **_options(source))
  return workdir, said, result


def test_recall_and_ndcg_are_those_of_mmrec_s_evaluation(run, log):
  workdir, _, result = run
  train = labelled_logs.of_label(log, 0)
  recommender = mlrec.Recommender.load(workdir)
  users = sorted(train)
  # All items but those of the user's training, with their scores: at the test the validation items are among them.
  found = recommender.recommend([[str(item) for item in train[user]] for user in users], k=recommender.num_items)
  for label, name in ((1, "valid"), (2, "test")):
    positives = labelled_logs.of_label(log, label)
    lists = {}
    for user, row in zip(users, found):
      assert not {int(item) for item, _ in row} & set(train[user])
      # Of equal scores ours counts the targets last.
      order = sorted(row, key=lambda pair, user=user: (-pair[1], int(pair[0]) in positives[user]))
      lists[user] = [int(item) for item, _ in order]
    plain = labelled_logs.mmrec_metrics(lists, positives)
    assert {key: result[name][key] for key in plain} == pytest.approx(plain, abs=1e-9)
    assert max(len(row) for row in positives.values()) == 2, "some users have several targets"
    assert result[name]["hr@10"] >= result[name]["recall@10"] > 0.05


def test_records_have_a_row_a_target_and_make_the_result(run, log):
  workdir, _, result = run
  records = PerUser.read(workdir / "per_user.safetensors")
  for label, name in ((1, "valid"), (2, "test")):
    found = records.splits[name]
    pairs = sorted(zip((found.users - 1).tolist(), (records.items[found.targets - 1] - 1).tolist()))
    assert pairs == sorted((user, item) for user, item, _, one in log if one == label)
    assert {key: gains.mean() for key, gains in found.gains.items()} == pytest.approx(
      {key: result[name][key] for key in found.gains}
    )


def test_messages_tell_users_and_targets(run, log):
  _, said, result = run
  targets = sum(label == 2 for *_, label in log)
  assert any(f"labels: {sum(label == 0 for *_, label in log):,} interactions to train on" in line for line in said)
  assert any(line.endswith(f"310 users with {targets} targets for test") for line in said)
  assert any(line.startswith("test ") and f"recall@20 {result['test']['recall@20']:.4f}" in line for line in said)


def test_users_without_training_are_not_evaluated(log, run_tiny, tmp_path):
  cold = [(user, item, time, max(label, 1) if user < 5 else label) for user, item, time, label in log]
  source = labelled_logs.write(tmp_path / "cold.inter", cold)
  run_tiny(tmp_path / "run", model={"name": "popularity"}, **_options(source))
  found = PerUser.read(tmp_path / "run" / "per_user.safetensors").splits["test"]
  assert set(found.users.tolist()) == set(range(6, 311))


def test_seeds_are_summarised_with_recall(source, run_tiny, tmp_path):
  said: list[str] = []
  run_tiny(tmp_path / "run", say=said.append, seeds=(0, 1), model={"name": "popularity"}, **_options(source))
  summary = read_json(tmp_path / "run" / "result.json")
  assert f"recall@20 {summary['test']['recall@20']['mean']:.4f} ±" in said[-1]


def test_recall_is_no_monitor_where_a_user_has_one_target(tiny_config):
  with pytest.raises(ConfigError, match=r"monitor = 'recall@20': .* a user has one target, .* give 'hr@20'"):
    tiny_config(**{"train.monitor": "recall@20"})
  with pytest.raises(ConfigError, match=r"monitor = 'recall@21': did you mean 'recall@20'"):
    tiny_config(**{"train.monitor": "recall@21", "data.split": "labels"})
