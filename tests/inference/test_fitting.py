"""From a table in memory to recommendations."""

from ml_collections import ConfigDict
import numpy as np
import pyarrow as pa
import pytest

import mlrec
from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.data import read_pairs
from mlrec.data.interactions import Interactions
from mlrec.runs.workdir import Workdir
from support.tiny_runs import histories

_QUICK = {"train.epochs": 1, "model.dim": 8, "train.batch_size": 32, "log.tensorboard": False}


@pytest.fixture(scope="module")
def columns() -> dict[str, list]:
  rows = histories(users=60, items=30)
  return {
    "user": [f"u{user}" for user, row in enumerate(rows) for _ in row],
    "item": [item for row in rows for item in row],
    "time": [1_700_000_000 + 60 * place for row in rows for place, _ in enumerate(row)],
  }


@pytest.mark.slow
def test_a_table_becomes_a_recommender_whose_workdir_is_that_of_the_command(columns, tmp_path, program):
  recommender = mlrec.fit(pa.table(columns), workdir=tmp_path / "run", overrides=_QUICK)
  first = [item for user, item in zip(columns["user"], columns["item"]) if user == "u3"]
  assert recommender.history("u3") == first[-13:]
  assert len(recommender.recommend_users(["u3"], k=5).items[0]) == 5
  assert Workdir(tmp_path / "run").result.exists()
  assert not (tmp_path / "run" / "table.parquet").exists()
  said = []
  again = mlrec.fit(columns, workdir=tmp_path / "run", overrides=_QUICK, say=said.append)
  assert any("is finished" in line for line in said)
  assert again.recommend_users(k=3).items == recommender.recommend_users(k=3).items


class _Stream:
  """What Polars and pandas are to others."""

  def __init__(self, table):
    self._table = table

  def __arrow_c_stream__(self, requested_schema=None):
    return self._table.__arrow_c_stream__(requested_schema)


def test_tables_of_any_library_and_configs_of_any_form_are_taken(columns):
  found = mlrec.fit(_Stream(pa.table(columns)), "50k/item_knn.py")
  config = config_lib.default_config()
  with config.unlocked():
    config.model = ConfigDict({"name": "item_knn"})
  other = mlrec.fit(pa.RecordBatch.from_pydict(columns), config)
  assert found.recommend_users(["u5"]).items[0]
  assert other.recommend_users(["u5"]).items[0]


def test_columns_may_have_names_of_their_own(columns):
  renamed = {"who": columns["user"], "clip": columns["item"], "time": columns["time"]}
  found = mlrec.fit(renamed, "configs/50k/item_knn.py", user="who", item="clip")
  assert found.history("u3")


@pytest.mark.parametrize(
  ("frame", "message"),
  [
    (3, "expected a table of Arrow, pandas or Polars, or a mapping of columns, not int"),
    ({"user": [1, 2], "item": [1]}, "the table cannot be read"),
    ({"user": [1, 2], "thing": [1, 2]}, "item"),
    ({"user": [], "item": []}, "."),
  ],
)
def test_what_is_no_log_is_told(frame, message, tmp_path):
  with pytest.raises(DataError, match=message):
    mlrec.fit(frame, workdir=tmp_path / "run")


def test_a_table_that_cannot_be_used_is_told_in_the_words_of_the_call_and_leaves_no_folder(tmp_path):
  pair = {"user": [1, 2], "item": [1, 2]}
  for frame, options, message in (
    (
      {"viewer": [1, 2], "clip": [1, 2]},
      {},
      r"the table: which column is the user\?.*user=COLUMN.*item\?.*item=COLUMN",
    ),
    ({"viewer": [1, 2], "clip": [1, 2]}, {"user": "viwer", "item": "x"}, "user='viwer' .*'viewer'.*item='x'"),
    (pair, {"core": "a--b=c"}, "core='a--b=c': expected a number"),
    (pair, {"min_rating": 2}, "min_rating=2: the table has no column of ratings.*rating=COLUMN"),
    (pair | {"time": [1_700_000_000, 1_700_000_000_000]}, {}, "the table: .*mixes units.*milliseconds$"),
  ):
    with pytest.raises(DataError, match=message) as told:
      mlrec.fit(frame, workdir=tmp_path / "run", **options)
    assert "--" not in str(told.value).replace("a--b", "")
    assert "parquet" not in str(told.value)
    assert not (tmp_path / "run").exists()
  with pytest.raises(ConfigError, match=r"workdir=.*no NUL"):
    mlrec.fit(pair, workdir="a\0b")


def test_ratings_decide_what_counts_where_a_least_one_is_said(columns, tmp_path):
  rated = {**columns, "rating": [1 + place % 5 for place in range(len(columns["user"]))]}
  every = mlrec.fit(rated, "50k/item_knn.py", overrides={"data.min_length": 3})
  some = mlrec.fit(rated, "50k/item_knn.py", min_rating=3, overrides={"data.min_length": 3})
  assert len(some.loaded.split.rows.values) < len(every.loaded.split.rows.values)


def test_what_is_no_config_is_told(columns, tmp_path):
  with pytest.raises(ConfigError, match="there is no such file"):
    mlrec.fit(columns, "configs/nothing.py", workdir=tmp_path / "run")
  with pytest.raises(ConfigError, match=r"config\.train\.epochs must be at least 1"):
    mlrec.fit(columns, workdir=tmp_path / "run", overrides={"train.epochs": 0})


@pytest.mark.parametrize("model", [{}, {"model": {"name": "item_knn"}}, {"model": {"name": "lightgcn", "dim": 8}}])
def test_evaluation_of_the_log_that_was_split_is_the_test_of_the_run(model, run_tiny, pairs_file, tmp_path):
  result = run_tiny(tmp_path / "run", **model, **({} if "model" in model else {"train.epochs": 1}))
  log = read_pairs(pairs_file)
  # What the benchmark's protocol keeps of a user.
  kept = Interactions(log.users, log.histories.last(13))
  found = mlrec.Recommender.load(tmp_path / "run").evaluate(kept)
  assert found.pop("users") == 310
  assert found == pytest.approx({name: result["test"][name] for name in found}, abs=1e-6)


def test_a_later_log_is_evaluated_by_what_the_run_knows_of_it(finished):
  recommender = mlrec.Recommender.load(finished)
  from mlrec.data import Rows

  log = Interactions(np.array([7, 9999, 5]), Rows.from_lists([[3, 4000, 8], [2, 3, 1], [4000, 1]]))
  found = recommender.evaluate(log)
  assert found["users"] == 2
  lists = recommender.recommend([[3], [2, 3]]).items
  assert found["hr@10"] == np.mean([8 in lists[0], 1 in lists[1]])
  with pytest.raises(DataError, match="no user has two items that the run knows"):
    recommender.evaluate(Interactions(np.array([7]), Rows.from_lists([[4000, 8]])))
