"""Which rows a report calls best, and what it says of seeds and tuning: by paired tests of records made for it."""

import json
import pathlib
import re

import numpy as np
import pytest

from mlrec.config import ConfigError
from mlrec.runs.report import render
from support.report_runs import csv_rows
from support.report_runs import ranks_of
from support.report_runs import write_run

USERS = 400


@pytest.fixture
def runs(finished, tmp_path):
  """Writes runs by name: `runs(a=ranks, b=ranks)` returns their folders."""

  def make(**ranks) -> list[str]:
    return [
      str(write_run(tmp_path / "runs" / name, finished, ranks=one, config={"model": {"name": name}}))
      for name, one in ranks.items()
    ]

  return make


def _hits(number: int, seed: int) -> np.ndarray:
  return ranks_of(seed, USERS, number)


def _best(folders: list[str], **options) -> dict[str, str]:
  """By model, in which metrics the Markdown table calls it best."""
  text = render.make(folders, **options)["markdown"]
  lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
  if "best by test" not in lines[0]:
    return {}
  return {line[0]: line[lines[0].index("best by test")] for line in lines[2:]}


def test_a_row_is_best_alone_only_where_the_test_says_so_of_all_others(runs):
  folders = runs(far=_hits(200, 1), near=_hits(120, 2), low=_hits(60, 3))
  assert _best(folders) == {"far": "ndcg@10, hr@10", "near": "–", "low": "–"}
  text = render.make(folders)["markdown"]
  assert "By hr@10 far is better than each of the other rows tested." in text
  assert "Holm's correction over the 3 pairs of the 3 rows tested" in text


def test_rows_that_are_not_told_from_the_highest_share_the_place(runs):
  folders = runs(high=_hits(103, 1), close=_hits(101, 2), low=_hits(20, 3))
  assert _best(folders) == {"high": "ndcg@10, hr@10", "close": "ndcg@10, hr@10", "low": "–"}
  text = render.make(folders)["markdown"]
  assert "By hr@10 no row is best: high and close are not told apart from the highest." in text
  found = {row["model"]: row["test/hr@10/best"] for row in csv_rows(render.make(folders)["csv"])}
  assert found == {"high": "1", "close": "1", "low": "0"}


def test_none_is_best_where_a_higher_row_has_no_records_or_nothing_is_tested(runs):
  folders = runs(top=_hits(250, 1), mid=_hits(120, 2), low=_hits(20, 3))
  pathlib.Path(folders[0], "per_user.safetensors").unlink()
  notes: list[str] = []
  assert _best(folders, note=notes.append) == {}
  text = render.make(folders)["markdown"]
  assert "By hr@10 none may be called best: a row that is not tested has a higher mean." in text
  assert re.search(r"top has no per_user\.safetensors", notes[0])
  assert _best(folders[1:], tests=False) == {}
  assert "test" not in render.make(folders[1:], tests=False)["markdown"].replace("test hr", "").replace("test ndcg", "")
  assert _best(folders[1:2]) == {}, "a row alone"


def test_the_page_sets_off_what_may_be_called_best_and_says_why(runs, tmp_path):
  folders = runs(high=_hits(103, 1), close=_hits(101, 2), low=_hits(20, 3))
  text = render.make(folders, out=tmp_path / "out", draw=False, html=True)["html"]
  results = text[text.index("<h3>Results</h3>") : text.index("<h3>Paired tests</h3>")]
  lines = re.findall(r"<tr>(.*?)</tr>", results)[1:4]
  assert [line.count('class="best"') for line in lines] == [2, 2, 0]
  assert "Set off: the highest mean, and what a paired test does not tell from it" in results
  assert "has the highest test hr@10" in text
  assert "is best by" not in text


def _tuned(folder: str, trials: int, seconds: float) -> None:
  path = pathlib.Path(folder, "config.json")
  config = json.loads(path.read_text())
  config["tuning"] = {"trials": trials, "seconds": seconds}
  path.write_text(json.dumps(config))


def test_tuning_budgets_are_told_and_whether_they_are_equal(runs):
  folders = runs(a=_hits(100, 1), b=_hits(90, 2), c=_hits(80, 3))
  assert "uning" not in render.make(folders)["markdown"], "nothing is stated, and nothing made up"
  for folder in folders:
    _tuned(folder, 30, 600.0)
  text = render.make(folders)["markdown"]
  assert "Tuning budgets are equal: 30 trials each and 600 seconds each." in text
  assert "| tuning trials | tuning s |" in text
  _tuned(folders[1], 12, 1200.5)
  _tuned(folders[2], 0, 0.0)
  text = render.make(folders)["markdown"]
  assert "Tuning budgets are not equal: 12 to 30 trials and 600 to 1,200 seconds; not stated of c." in text
  found = {row["model"]: (row["tuning_trials"], row["tuning_seconds"]) for row in csv_rows(render.make(folders)["csv"])}
  assert found == {"a": ("30", "600.0"), "b": ("12", "1200.5"), "c": ("", "")}


@pytest.mark.parametrize(("key", "value"), [("trials", "x"), ("trials", 2.5), ("seconds", [])])
def test_a_budget_that_is_no_number_is_refused_by_its_key(key, value, runs):
  (folder,) = runs(a=_hits(100, 1))
  path = pathlib.Path(folder, "config.json")
  config = json.loads(path.read_text())
  config["tuning"] = {key: value}
  path.write_text(json.dumps(config))
  with pytest.raises(ConfigError, match=rf"config\.json: it is no config of mlrec\.main: tuning\.{key} must be"):
    render.make([folder])
