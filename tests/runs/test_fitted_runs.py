"""Runs of recommenders that are computed at once."""

from ml_collections import ConfigDict
import numpy as np
import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.interactions import Rows
from mlrec.models.recommenders.markov import Markov
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.runs import experiment
from mlrec.runs import fitted
from mlrec.runs import workdir as workdirs
from support.tiny_runs import read_json

_OPTIONS = {
  "popularity": {},
  "item_knn": {"shrink": 3.0, "decay": 0.8},
  "markov": {"window": 3, "decay": 0.7, "popularity": 1e-6},
  "ease": {"regularization": 20.0},
}


@pytest.fixture
def make(pairs_file):
  """Builds a validated config of a fitted model: `make("ease", max_items=3, **{"seeds": (0, 1)})`."""

  def build(name: str, options: dict | None = None, **overrides) -> ConfigDict:
    config = config_lib.default_config()
    config.model = ConfigDict({"name": name, **(_OPTIONS[name] if options is None else options)})
    config.update_from_flattened_dict({"data.source": str(pairs_file), "log.tensorboard": False, **overrides})
    return config_lib.validate(config)

  return build


@pytest.fixture(scope="module")
def split(pairs_file):
  return leave_one_out(read_pairs(pairs_file))


def run(config, workdir, *, say=lambda text: None, **options):
  """The result as JSON."""
  return experiment.run(config, workdir, say=say, **options).to_json()


@pytest.mark.parametrize("name", _OPTIONS)
def test_a_run_of_each_is_fitted_evaluated_and_kept(name, make, tmp_path):
  result = run(make(name), tmp_path / "run")
  assert result == read_json(tmp_path / "run" / "result.json")
  assert read_json(tmp_path / "run" / "config.json")["model"]["name"] == name
  assert 0 < result["test"]["hr@10"] <= result["test"]["hr@20"] < 1
  if name != "popularity":
    chance = 10 / 100
    assert result["test"]["hr@10"] > 2 * chance, "one item mostly leads to the next"


def test_buckets_of_targets_are_those_asked_for(make, split, tmp_path):
  result = run(make("markov", **{"eval.buckets": (30, 60)}), tmp_path / "run")
  counts = split.train_counts[split.targets("test")]
  sizes = {name: value for name, value in result["test"].items() if name.endswith("/targets")}
  assert sizes == {
    "cold/targets": (counts == 0).sum(), "count_1-30/targets": ((counts >= 1) & (counts <= 30)).sum(),
    "count_31-60/targets": ((counts > 30) & (counts <= 60)).sum(), "count_61+/targets": (counts > 60).sum(),
  }  # fmt: skip
  assert min(sizes["count_1-30/targets"], sizes["count_31-60/targets"]) > 0


def test_the_figures_are_those_of_scores_ranked_by_hand(split):
  model = Markov(split.num_items, window=3, decay=0.7)
  model.fit(split.train)
  figures = fitted.evaluate(model, split, "test")
  weights = np.zeros((split.num_items + 1, split.num_items + 1))
  for user in range(split.num_users):
    row = split.train[user]
    for place in range(len(row)):
      for distance in (1, 2, 3):
        if place + distance < len(row):
          weights[row[place], row[place + distance]] += 1 / distance
  np.fill_diagonal(weights, 0)
  hits = 0
  for user in range(split.num_users):
    history, target = split.rows[user][:-1], split.rows[user][-1]
    scores = sum(0.7**step * weights[item] for step, item in enumerate(history[::-1][:10]))
    candidates = np.setdiff1d(np.arange(1, split.num_items + 1), history)
    # Scores that tie in exact arithmetic lie closer than any others do.
    hits += (scores[candidates] >= scores[target] - 1e-6).sum() <= 10
  assert figures["hr@10"] == pytest.approx(hits / split.num_users, abs=2 / split.num_users)
  assert hits > 50


class _Recorder(FittedRecommender):
  """Scores that tell the users apart, and a note of what was asked for."""

  def __init__(self, num_items: int):
    self.num_items, self.asked = num_items, []

  def scores(self, histories: Rows, users: np.ndarray) -> np.ndarray:
    self.asked.append((users.tolist(), [histories[row].tolist() for row in range(len(histories))]))
    items = np.arange(self.num_items + 1)
    return ((users[:, None] * 7 + items * 13) % 31).astype(np.float32)


@pytest.mark.parametrize("chunk_bytes", [1, 20_000, 1 << 30])
def test_each_user_is_scored_once_in_chunks_within_the_bound(split, chunk_bytes):
  whole = fitted.evaluate(_Recorder(split.num_items), split, "valid")
  model = _Recorder(split.num_items)
  assert fitted.evaluate(model, split, "valid", chunk_bytes=chunk_bytes) == whole
  asked = sorted(model.asked)
  assert [user for users, _ in asked for user in users] == list(range(split.num_users))
  assert max(len(users) for users, _ in asked) <= max(chunk_bytes // (4 * (split.num_items + 1)), 8)
  inputs = split.inputs("valid")
  assert [row for _, rows in asked for row in rows] == [inputs[user].tolist() for user in range(split.num_users)]


def test_scores_that_are_not_finite_are_refused(split):
  class Broken(_Recorder):
    def scores(self, histories, users):
      scores = super().scores(histories, users)
      scores[users == split.num_users - 1, 3] = np.nan
      return scores

  with pytest.raises(ValueError, match="not finite"):
    fitted.evaluate(Broken(split.num_items), split, "test")


def test_a_finished_run_is_shown_and_not_fitted_again(make, tmp_path, monkeypatch):
  first = run(make("ease"), tmp_path / "run")
  monkeypatch.setattr(experiment, "FittedRun", None)
  said = []
  assert run(make("ease"), tmp_path / "run", say=said.append) == first
  assert "is finished" in said[0]


def test_another_option_needs_another_workdir(make, tmp_path):
  run(make("item_knn"), tmp_path / "run")
  with pytest.raises(ConfigError, match=r"config\.model\.shrink: 3\.0 there, 5\.0 now"):
    run(make("item_knn", {"shrink": 5.0, "decay": 0.8}), tmp_path / "run")


def test_evaluation_alone_fits_and_keeps_its_result_apart(make, tmp_path):
  evaluated = run(make("item_knn"), tmp_path / "run", evaluate_only=True)
  assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["evaluation.json"]
  result = run(make("item_knn"), tmp_path / "run")
  run(make("item_knn"), tmp_path / "run", evaluate_only=True)
  assert read_json(tmp_path / "run" / "result.json") == result
  assert (evaluated["valid"], evaluated["test"]) == (result["valid"], result["test"])


def test_one_seed_stands_for_all_of_what_draws_nothing(make, tmp_path):
  said = []
  result = run(make("markov", seeds=(4, 5, 6)), tmp_path / "run", say=said.append)
  assert said[0] == "markov draws nothing at random: seed 4 stands for all 3."
  assert result["seeds"] == [4]
  assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
    "config.json",
    "result.json",
    "run.lock",
    "seed_4",
  ]
  alone = run(make("markov"), tmp_path / "alone")
  assert result["test"]["hr@10"] == {"mean": alone["test"]["hr@10"], "std": 0}
  assert alone["config_hash"] == result["config_hash"]


def test_a_run_is_compared_with_popularity(make, tmp_path):
  result = run(make("ease", baselines=("popularity",)), tmp_path / "run")
  rows = read_json(tmp_path / "run" / "comparison.json")
  assert list(rows) == ["popularity", "this run (ease)"]
  assert rows["this run (ease)"]["hr@10"] == result["test"]["hr@10"]
  popularity = run(make("popularity"), tmp_path / "popularity")
  assert rows["popularity"]["hr@10"] == popularity["test"]["hr@10"]


def test_item_ids_are_no_baseline_of_a_model_without_an_item_tower(make, tmp_path):
  with pytest.raises(ConfigError, match=r"'id' is the same model with item IDs.*'item_knn' has no item tower"):
    run(make("item_knn", baselines=("popularity", "id")), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("item_knn", {"shrnik": 1.0}, r"config\.model\.shrnik = 1\.0.*'shrink'"),
    ("item_knn", {"similarity": "cosin"}, "'cosin'.*'cosine'"),
    ("markov", {"window": 0}, r"config\.model\.window = 0"),
    ("ease", {"max_items": 50}, r"config\.model\.max_items = 50: the data has 100 items"),
    ("esae", {}, "'esae'.*'ease'"),
  ],
)
@pytest.mark.parametrize("seeds", [(), (0, 1)])
def test_what_cannot_be_fitted_is_refused_by_name(name, options, message, seeds, make, tmp_path):
  with pytest.raises(ConfigError, match=message):
    run(make(name, options, seeds=seeds), tmp_path / "run")


def test_the_default_workdir_names_no_width_where_there_is_none(make):
  folder = workdirs.default("configs/50k/ease.py", "", make("ease", **{"data.source": "microlens/50k-sequences"}))
  assert str(folder) == "runs/ease_microlens-50k-sequences_seed42"
