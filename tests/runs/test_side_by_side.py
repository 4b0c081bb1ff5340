"""Protocols side by side: systems, ranks and changes of order that the paired tests tell, on records made for it."""

import pathlib
import re

import numpy as np
import pytest

from mlrec.runs.report import analysis
from mlrec.runs.report import render
from mlrec.runs.report import rows
from mlrec.runs.report import side_by_side
from mlrec.runs.report import statistics
from mlrec.runs.report.side_by_side import SideBySide
from support.report_runs import csv_rows
from support.report_runs import ranks_of
from support.report_runs import write_run

USERS = 400
_TIME, _UNSEEN = "time:0.8,0.1", "users:0.8,0.1"


@pytest.fixture
def write(finished, tmp_path):
  """Writes a run of a model under a protocol, with so many hits: `write("ease", _TIME, 120)`."""

  def make(model: str, protocol: str, hits: int, *, users=None, name: str = "", **options) -> str:
    seed = sum(map(ord, model + protocol + name))
    number = USERS if users is None else len(users)
    folder = tmp_path / "runs" / re.sub(r"\W", "_", f"{name or model}_{protocol}")
    config = {"model": {"name": model}, "data": {"split": protocol}, **options}
    return str(
      write_run(folder, finished, ranks=ranks_of(seed, number, hits), users=users, config=config, data=protocol)
    )

  return make


def found(folders: list[str]) -> SideBySide | None:
  runs, _ = rows.read(folders, split="test")
  tables, _ = rows.tables(runs, split="test", metric="hr@10")
  return side_by_side.make(tables, [analysis.analyse(table, "test") for table in tables], "test")


def test_an_order_changes_only_where_both_tests_say_so(write):
  hits = {
    "leave_one_out": {"ease": 60, "hstu": 160, "knn": 62, "markov": 110},
    _TIME: {"ease": 160, "hstu": 60, "knn": 58, "markov": 61},
  }
  beside = found([write(model, text, number) for text, of in hits.items() for model, number in of.items()])
  assert beside is not None
  assert beside.protocols == ["leave_one_out", _TIME]
  assert beside.metrics == ["ndcg@10", "hr@10"]
  assert (beside.tests, beside.pairs) == (12, 6)
  told = {(one.first, one.second, one.here, one.there) for one in beside.changes if one.metric == "hr@10"}
  # knn is above ease first and below it then, but only the latter is sure; markov and hstu are told apart once.
  assert told == {("hstu", "ease", 0, 1), ("markov", "ease", 0, 1)}
  change = next(one for one in beside.changes if one.metric == "hr@10" and one.first == "hstu")
  assert change.differences == pytest.approx((100 / USERS, -100 / USERS))
  ranks = {system: [cell.ranks for cell in beside.cells["hr@10", system] if cell] for system in beside.systems}
  assert ranks == {
    "hstu": [(1, 1), (2, 4)], "markov": [(2, 2), (2, 4)], "knn": [(3, 4), (2, 4)], "ease": [(3, 4), (1, 1)],
  }  # fmt: skip


def test_p_values_are_corrected_over_the_pairs_of_all_protocols(write):
  folders = [write("a", "leave_one_out", 150), write("b", "leave_one_out", 115),
             write("a", _TIME, 115), write("b", _TIME, 150)]  # fmt: skip
  runs, _ = rows.read(folders, split="test")
  tables, _ = rows.tables(runs, split="test", metric="hr@10")
  analysed = [analysis.analyse(table, "test") for table in tables]
  plain = [one.tests[0].differences["hr@10"].p for one in analysed]
  assert all(one.tests[0].corrected["hr@10"] == p for one, p in zip(analysed, plain)), "a pair a table"
  beside = side_by_side.make(tables, analysed, "test")
  assert beside is not None
  (change,) = (one for one in beside.changes if one.metric == "hr@10")
  assert list(change.p) == statistics.holm(plain)
  assert max(change.p) > max(plain) / 2
  assert min(change.p) == pytest.approx(2 * min(plain))


def test_systems_of_one_protocol_and_runs_of_one_are_not_set_side_by_side(write):
  folders = [write("a", "leave_one_out", 150), write("b", "leave_one_out", 20), write("a", _TIME, 90)]
  beside = found(folders)
  assert beside is not None
  assert beside.systems == ["a"]
  assert (beside.tests, beside.pairs) == (0, 0)
  text = render.make(folders)["markdown"]
  assert "* It cannot be told: no pair of systems was tested under two protocols or more." in text
  assert found(folders[:2]) is None
  assert found([folders[1], folders[2]]) is None
  assert "side by side" not in render.make(folders[:2])["markdown"]


def test_rows_of_one_name_are_told_apart_by_what_they_are_made_of(write):
  small, large = {"optimizer": {"lr": 0.1}}, {"optimizer": {"lr": 0.2}}
  folders = [
    write("a", text, 100 + n, name=f"{name}{text}", **options)
    for text in ("leave_one_out", _TIME)
    for n, (name, options) in enumerate((("small", small), ("large", large)))
  ]
  beside = found(folders)
  assert beside is not None
  assert len(beside.systems) == 2
  assert all(re.fullmatch(r"a [0-9a-f]{6}", system) for system in beside.systems)
  assert beside.pairs == 1


def test_a_protocol_of_several_targets_stands_beside_those_of_one_by_recall(write):
  users = np.repeat(np.arange(1, USERS // 2 + 1), 2)
  folders = [write("a", "leave_one_out", 200), write("b", "leave_one_out", 60),
             write("a", "labels", 60, users=users), write("b", "labels", 200, users=users)]  # fmt: skip
  beside = found(folders)
  assert beside is not None
  assert beside.metrics == ["ndcg@10", "recall@10"]
  values = {system: [cell.value.mean for cell in beside.cells["recall@10", system] if cell and cell.value]
            for system in beside.systems}  # fmt: skip
  # Ranks that are drawn may be those of targets that tie at the eleventh place, of which one is then the tenth.
  assert values == {
    "a": pytest.approx([200 / USERS, 60 / USERS], abs=0.01), "b": pytest.approx([60 / USERS, 200 / USERS], abs=0.01),
  }  # fmt: skip
  assert [(one.metric, one.first, one.second) for one in beside.changes] == [
    ("ndcg@10", "a", "b"), ("recall@10", "a", "b"),
  ]  # fmt: skip
  text = render.make(folders)["markdown"]
  assert "| test recall@10 |" in text
  assert "By recall@10 b is better than each of the other rows tested." in text


def test_all_forms_say_the_same(write, tmp_path):
  folders = [write("a", "leave_one_out", 160), write("b", "leave_one_out", 60),
             write("a", _UNSEEN, 60), write("b", _UNSEEN, 160)]  # fmt: skip
  out = tmp_path / "out"
  texts = render.make(folders, out=out, draw=False, html=True)
  line = (
    f"By hr@10 a is above b under leave_one_out (+0.2500, p < 0.001), and below it under {_UNSEEN} (−0.2500, p < 0.001)"
  )
  assert f"* {line.replace('<', '&lt;')}" in texts["markdown"]
  assert line.replace("<", "&lt;") in texts["html"]
  assert texts["html"].index("<h2>Protocols side by side</h2>") < texts["html"].index("<h3>Results</h3>")
  ranks = {
    (row["metric"], row["model"], row["protocol"]): (row["first_rank"], row["last_rank"], row["mean"])
    for row in csv_rows((out / "protocols.csv").read_text())
  }
  assert ranks["hr@10", "a", "leave_one_out"] == ("1", "1", "0.4")
  assert ranks["hr@10", "a", _UNSEEN] == ("2", "2", "0.15")
  changes = csv_rows((out / "order_changes.csv").read_text())
  assert [(row["metric"], row["higher_here"], row["here"], row["there"]) for row in changes] == [
    (metric, "a", "leave_one_out", _UNSEEN) for metric in ("ndcg@10", "hr@10")
  ]


def test_where_nothing_changes_it_is_said(write, tmp_path):
  folders = [write(model, text, hits) for text in ("leave_one_out", _TIME) for model, hits in (("a", 160), ("b", 60))]
  texts = render.make(folders, out=tmp_path / "out", draw=False)
  assert "* Nowhere: of 1 pairs of systems that are tested under two protocols or more, none" in texts["markdown"]
  assert csv_rows(pathlib.Path(tmp_path / "out" / "order_changes.csv").read_text()) == []
