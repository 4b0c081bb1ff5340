"""Validation after so many steps, epochs of so many steps, and evaluation on a sample of users."""

import numpy as np
import pytest

from mlrec.runs.per_user import PerUser
from mlrec.train import evaluator
from mlrec.train.evaluator import Evaluator
from support.tiny_runs import assert_same_run
from support.tiny_runs import metric_lines
from support.tiny_runs import read_json
from support.tiny_runs import run_to_the_end
from support.tiny_runs import saved_steps
from support.tiny_runs import StopAt


def _validated(workdir):
  return [line["step"] for line in metric_lines(workdir) if line["split"] == "valid"]


def test_a_run_validates_within_its_epochs(run_tiny, finished, tmp_path):
  result = run_tiny(tmp_path / "run", **{"eval.every_steps": 4, "train.epochs": 2})
  assert _validated(tmp_path / "run") == [4, 8, 10, 12, 16, 20]
  assert result["best_step"] in saved_steps(tmp_path / "run")
  of_epochs = [line for line in metric_lines(finished) if line["split"] == "valid"][:2]
  assert [
    line for line in metric_lines(tmp_path / "run") if line["step"] in (10, 20) and line["split"] == "valid"
  ] == of_epochs


def test_it_is_resumed_bit_for_bit(run_tiny, tmp_path):
  settings = {"eval.every_steps": 4, "train.epochs": 2}
  run_tiny(tmp_path / "whole", **settings)
  run_to_the_end(run_tiny, tmp_path / "run", stop=StopAt(1, 2), stops=2, **settings)
  assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_lazy_tables_are_brought_up_to_date_for_it(run_tiny, tmp_path):
  settings = {"train.epochs": 1, "eval.every_steps": 4, "train.ema_decay": 0.9}
  dense = run_tiny(tmp_path / "dense", **settings)
  lazy = run_tiny(tmp_path / "lazy", **settings, **{"optimizer.item_tables": "lazy_adamw"})
  found, wanted = (
    [line["mrr"] for line in metric_lines(tmp_path / name) if "mrr" in line] for name in ("lazy", "dense")
  )
  np.testing.assert_allclose(found, wanted, rtol=0.02)
  assert lazy["test"]["mrr"] == pytest.approx(dense["test"]["mrr"], rel=0.02)


def test_groups_of_steps_end_where_a_validation_is_due(run_tiny, tmp_path):
  run_tiny(
    tmp_path / "run",
    **{"eval.every_steps": 3, "train.steps_per_dispatch": 8, "train.steps_per_epoch": 7, "train.epochs": 2},
  )
  assert _validated(tmp_path / "run") == [3, 6, 7, 9, 12, 14]


@pytest.mark.slow
def test_patience_counts_validations_within_epochs(run_tiny, tmp_path, monkeypatch):
  real, scores = Evaluator.figures, iter([0.5, 0.6, 0.4, 0.3])

  def figures(self, ranked, name):
    return real(self, ranked, name) | ({"hr@10": next(scores, 0.6)} if name == "valid" else {})

  monkeypatch.setattr(Evaluator, "figures", figures)
  result = run_tiny(tmp_path / "run", **{"eval.every_steps": 4, "train.patience": 2, "train.epochs": 5})
  assert _validated(tmp_path / "run") == [4, 8, 10, 12]
  assert result["best_step"] == 8


@pytest.mark.slow
def test_epochs_may_be_of_so_many_steps(run_tiny, finished, tmp_path):
  result = run_tiny(tmp_path / "run", **{"train.steps_per_epoch": 15, "train.epochs": 2})
  assert _validated(tmp_path / "run") == [15, 30]
  last = [line for line in metric_lines(finished) if line["split"] == "valid"][-1]
  # Steps are those of whole passes: after three of them all is the same.
  assert [line for line in metric_lines(tmp_path / "run") if line["split"] == "valid"][-1] == last
  assert result["best_epoch"] in (1, 2)


def test_the_best_validation_is_not_computed_again(run_tiny, tmp_path, monkeypatch):
  real, ranked = Evaluator.ranks, []

  def ranks(self, params, rest, name):
    ranked.append(name)
    return real(self, params, rest, name)

  monkeypatch.setattr(evaluator.Evaluator, "ranks", ranks)
  result = run_tiny(tmp_path / "run")
  assert ranked == ["valid", "valid", "valid", "test"]
  del ranked[:]
  again = run_tiny(tmp_path / "run", evaluate_only=True)
  assert ranked == ["valid", "test"]
  assert again["valid"] == result["valid"]


def test_a_sample_of_users_stands_for_all_and_is_told(run_tiny, tmp_path):
  said: list[str] = []
  run_tiny(tmp_path / "run", say=said.append, **{"eval.users": 60, "train.epochs": 1, "baselines": ("popularity",)})
  records = PerUser.read(tmp_path / "run" / "per_user.safetensors").splits
  assert len(records["test"].users) == len(records["valid"].users) == 60
  assert np.array_equal(records["test"].users, records["valid"].users)
  other = PerUser.read(_with(run_tiny, tmp_path / "other", seed=7) / "per_user.safetensors").splits
  assert np.array_equal(other["test"].users, records["test"].users), "a sample is the same in every run"
  whole = PerUser.read(_with(run_tiny, tmp_path / "whole", **{"eval.users": 10_000}) / "per_user.safetensors").splits
  assert len(whole["test"].users) > 300
  place = {int(user): n for n, user in enumerate(whole["test"].users)}
  among = [place[int(user)] for user in records["test"].users]
  assert np.array_equal(whole["test"].targets[among], records["test"].targets)
  assert np.array_equal(whole["test"].ranks[among], records["test"].ranks)
  assert any("sample of 60 users" in line for line in said)
  assert read_json(tmp_path / "run" / "comparison.json")["popularity"]["split"] == "leave_one_out, sample of 60 users"
  hashes = [read_json(tmp_path / name / "result.json")["config_hash"] for name in ("run", "whole")]
  assert hashes[0] != hashes[1]


@pytest.mark.parametrize(
  ("users", "told"),
  [pytest.param(60, "of a user); leave_one_out, sample of 60 users", marks=pytest.mark.slow), (10_000, "of a user)")],
)
def test_the_line_about_the_data_says_that_a_sample_is_evaluated_where_it_is_one(users, told, run_tiny, tmp_path):
  said: list[str] = []
  run_tiny(tmp_path / "run", say=said.append, **{"eval.users": users, "train.epochs": 1})
  (line,) = (line for line in said if " interactions (the last" in line)
  assert line.endswith(told)


def _with(run_tiny, workdir, **settings):
  run_tiny(workdir, **({"eval.users": 60, "train.epochs": 1} | settings))
  return workdir


@pytest.mark.parametrize("key", ["eval.users", "eval.every_steps", "train.steps_per_epoch"])
def test_they_are_no_negative_numbers(key, tiny_config):
  with pytest.raises(ValueError, match=rf"config\.{key} must be at least 0, not -1"):
    tiny_config(**{key: -1})
