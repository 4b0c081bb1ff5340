"""`configs/studies/protocols.py`: one command for the page of protocols, of logs with times, without, and labelled."""

import pathlib

import pytest

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.runs.study import BARS
from mlrec.runs.study import definition
from mlrec.runs.study import runner
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun
from support import labelled_logs
from support import tiny_runs
from support.report_runs import csv_rows

_FILE = tiny_runs.ROOT / "configs" / "studies" / "protocols.py"


def _run(argument: str, source: pathlib.Path, workdir: pathlib.Path, **keys) -> list[str]:
  """Runs the study on a log; what it says."""
  file = f"{_FILE}:{argument}"
  config = config_lib.from_file(file, "get_config", "")
  config = config_lib.with_values(config, {"data.source": str(source), "log.tensorboard": False, **keys})
  said: list[str] = []
  runner.run(definition.load(file), config, workdir, draw=False, say=said.append)
  return said


@pytest.fixture(scope="module")
def timed(tmp_path_factory) -> pathlib.Path:
  """A `*_pairs.csv` of the same histories as the fixture `pairs_file`."""
  lines = sorted(labelled_logs.lines(), key=lambda line: line[2])
  path = tmp_path_factory.mktemp("data") / "Tiny_pairs.csv"
  body = (f"{user + 1},{item + 1},{time}\n" for user, item, time, _ in lines)
  path.write_text("user,item,timestamp\n" + "".join(body))
  return path


@pytest.mark.slow
def test_one_command_sets_models_side_by_side_under_three_protocols(timed, tmp_path):
  said = _run("popularity,markov", timed, tmp_path)
  assert said[-1].startswith("6 of 6 runs in ")
  assert said[-2] == f"the runs side by side, and their paired tests, in {tmp_path / 'report.html'}"
  found = csv_rows((tmp_path / "protocols.csv").read_text())
  assert {row["protocol"] for row in found} == {"leave_one_out", "time:0.8,0.1", "users:0.8,0.1"}
  assert {row["model"] for row in found} == {"popularity", "markov"}
  assert all(row["first_rank"] for row in found)
  text = (tmp_path / "report.md").read_text()
  assert text.count("best by test") >= 3
  assert "### Protocols side by side" in text
  assert "<h2>Protocols side by side</h2>" in (tmp_path / "report.html").read_text()


def test_a_log_without_times_has_the_other_protocols_and_says_why(pairs_file, tmp_path):
  _run("popularity,markov", pairs_file, tmp_path)
  assert "has no timestamps; name a" in (tmp_path / "study.md").read_text()
  found = csv_rows((tmp_path / "protocols.csv").read_text())
  assert {row["protocol"] for row in found} == {"leave_one_out", "users:0.8,0.1"}


def test_labels_of_a_file_in_mmrec_s_format_are_a_fourth(tmp_path):
  source = labelled_logs.write(tmp_path / "tiny.inter", labelled_logs.lines())
  _run("markov,item_knn,labels", source, tmp_path / "study", seeds=(0, 1))
  found = csv_rows((tmp_path / "study" / "protocols.csv").read_text())
  assert {row["protocol"] for row in found} == {"leave_one_out", "time:0.8,0.1", "users:0.8,0.1", "labels"}
  assert {row["metric"] for row in found} == {"ndcg@10", "recall@10"}
  report = csv_rows((tmp_path / "study" / "report.csv").read_text())
  by_label = next(row for row in report if row["split"] == "labels" and row["model"] == "markov")
  told = {(row["metric"], row["model"], row["protocol"]): row["mean"] for row in found}
  assert told["recall@10", "markov", "labels"] == by_label["test/recall@10"]


def test_models_are_those_of_the_shipped_configs_with_their_settings():
  study = definition.load(f"{_FILE}:ease,sasrec")
  assert [run.series for run in study.runs] == ["ease", "sasrec"] * 3
  base = config_lib.from_file(str(_FILE), "get_config", "")
  for run in study.runs[:2]:
    config = definition.config_of(base, run)
    shipped = config_lib.from_file(str(_FILE.parents[1] / "50k" / f"{run.series}.py"), "get_config", "")
    same = [dict(config_lib.flatten(one)) for one in (config, shipped)]
    assert {key for key in same[0] if same[0][key] != same[1][key]} == {"data.source"}
  with pytest.raises(ConfigError, match=r"no model 'sasrek': did you mean 'sasrec'"):
    definition.load(f"{_FILE}:sasrek")


def test_a_series_of_a_study_with_a_report_has_no_equals_sign():
  with pytest.raises(ConfigError, match="which have no '=': 'a=b'"):
    definition.check(Study("t", "x", BARS, [StudyRun("a=b", "y")], report=True))
