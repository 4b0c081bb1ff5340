"""What a run keeps of each user, and what is refused when it is read."""

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file

from mlrec import metrics
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.interactions import DataError
from mlrec.runs.per_user import PerUser
from mlrec.runs.per_user import UserRecords
from support.tiny_runs import read_json


@pytest.fixture(scope="module")
def split(pairs_file):
  return leave_one_out(read_pairs(pairs_file))


def assert_records_make_the_result(workdir, split):
  found, result = PerUser.read(workdir / "per_user.safetensors"), read_json(workdir / "result.json")
  assert (found.data, found.config_hash, found.seed) == (split.fingerprint, result["config_hash"], result["seed"])
  np.testing.assert_array_equal(found.items, split.item_ids[1:])
  np.testing.assert_array_equal(found.train_counts, split.train_counts[1:])
  assert found.splits.keys() == {"valid", "test"}
  for name, records in found.splits.items():
    np.testing.assert_array_equal(records.users, split.users)
    np.testing.assert_array_equal(records.targets, split.targets(name))
    counts = split.train_counts[records.targets]
    made = metrics.all_metrics(records.ranks, records.recommended, counts, split.num_items)
    assert {key: result[name][key] for key in made} == made


def test_a_trained_run_keeps_what_its_metrics_are_made_of(finished, split):
  assert_records_make_the_result(finished, split)


def test_so_does_one_that_is_computed_at_once(run_tiny, split, tmp_path):
  run_tiny(tmp_path / "run", model={"name": "markov"})
  assert_records_make_the_result(tmp_path / "run", split)


def test_none_are_kept_where_the_config_says_so_nor_left_of_an_earlier_part_of_the_run(run_tiny, copied):
  assert (copied / "per_user.safetensors").exists()
  run_tiny(copied, **{"train.epochs": 4, "eval.per_user": False})
  assert not (copied / "per_user.safetensors").exists()


def test_evaluation_alone_leaves_them_as_they_are(run_tiny, copied):
  before = (copied / "per_user.safetensors").read_bytes()
  run_tiny(copied, evaluate_only=True, step=20)
  assert (copied / "per_user.safetensors").read_bytes() == before


def test_whoever_may_read_the_result_may_read_them(finished):
  mode = (finished / "result.json").stat().st_mode
  assert (finished / "per_user.safetensors").stat().st_mode == mode


def _with(name, change):
  def damage(arrays, said):
    arrays[name] = change(arrays[name])

  return damage


def _set(place, value):
  def change(array):
    array = array.copy()
    array[place] = value
    return array

  return change


@pytest.mark.parametrize(
  ("damage", "reason"),
  [
    (_with("test/ranks", lambda x: x.astype(np.int64)), r"test/ranks must be int32 of 1 axes, not int64 \(310,\)"),
    (_with("test/ranks", _set(3, 0)), r"test/ranks holds 0 to \d+, of 100 items"),
    (_with("test/targets", _set(3, 101)), r"test/targets holds 1 to 101, of 100 items"),
    (_with("test/recommended", _set((3, 2), -1)), r"test/recommended holds -1 to 100, of 100 items"),
    (_with("test/recommended", np.ravel), r"test/recommended must be int32 of 2 axes, not int32 \(3100,\)"),
    (_with("valid/users", lambda x: x[1:]), r"its arrays of 'valid' are of different lengths"),
    (_with("valid/users", _set(3, 1)), r"valid/users names one twice"),
    (_with("items", lambda x: x[::-1].copy()), r"its items must be ascending ids"),
    (_with("train_counts", _set(3, -1)), r"its items must be ascending ids with a count of training each"),
    (lambda arrays, said: arrays.pop("test/users"), r"it has no 'test/users'"),
    (lambda arrays, said: said.pop("data"), r"it has no 'data'"),
    (lambda arrays, said: said.update(seed="x"), r"invalid literal"),
  ],
)
def test_a_file_of_something_else_is_refused_with_the_reason(damage, reason, finished, tmp_path):
  arrays, found = load_file(finished / "per_user.safetensors"), PerUser.read(finished / "per_user.safetensors")
  said = {"data": found.data, "config_hash": found.config_hash, "seed": str(found.seed)}
  damage(arrays, said)
  save_file(arrays, tmp_path / "a.safetensors", metadata=said)
  with pytest.raises(DataError, match=rf"a\.safetensors: a run's records of users cannot be read \({reason}"):
    PerUser.read(tmp_path / "a.safetensors")


def test_means_of_gains_are_the_metrics():
  ranks = np.array([1, 3, 10, 11, 700, metrics.MISS], np.int32)
  gains = UserRecords(np.array([5, 4, 6, 7, 1, 2]), ranks, np.ones(6, np.int32), np.ones((6, 10), np.int32)).gains
  assert gains["hr@10"].mean() == gains["recall@10"].mean() == metrics.hit_rate(ranks, 10)
  assert gains["ndcg@10"].mean() == pytest.approx(metrics.ndcg(ranks, 10), abs=1e-7)
  np.testing.assert_allclose(gains["ndcg@10"][:3], [1, 0.5, 1 / np.log2(11)])


@pytest.mark.parametrize("size", [0, 7, 100, 5000])
def test_a_file_that_is_cut_off_is_refused(size, finished, tmp_path):
  (tmp_path / "a").write_bytes((finished / "per_user.safetensors").read_bytes()[:size])
  with pytest.raises(DataError, match="a: a run's records of users cannot be read"):
    PerUser.read(tmp_path / "a")
