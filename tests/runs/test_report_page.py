"""The page of a report: what it says, what it leaves out, and that nothing in a workdir is more than text."""

import dataclasses
import html
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest

from mlrec import metrics_by_user
from mlrec.config import ConfigError
from mlrec.runs.per_user import PerUser
from mlrec.runs.per_user import UserRecords
from mlrec.runs.report import analysis
from mlrec.runs.report import curves
from mlrec.runs.report import differences
from mlrec.runs.report import render
from mlrec.runs.report import rows
from mlrec.runs.report import statistics
from mlrec.runs.report.scales import named
from mlrec.runs.report.scales import Scale
from support.tiny_runs import environment
from support.tiny_runs import read_json

USERS, ITEMS = 60, 25


def ranks_of(seed: int, hits: int = 20) -> np.ndarray:
  """Ranks of the users, of which so many are within the first ten."""
  rng = np.random.default_rng(seed)
  ranks = rng.integers(11, ITEMS, USERS)
  ranks[rng.permutation(USERS)[:hits]] = rng.integers(1, 11, hits)
  return ranks.astype(np.int32)


def ndcg_of(ranks: np.ndarray) -> np.ndarray:
  """What each user adds to NDCG@10."""
  return metrics_by_user.ndcg(ranks, np.arange(len(ranks)), 10)


@pytest.fixture
def workdir(finished, tmp_path):
  """Writes what a page reads of a finished run: `workdir("a", ranks=…, result={"seed": 1}, config={"train": …})`."""

  def make(name: str, *, ranks=None, users=None, result=None, config=None, records=True, said=None) -> pathlib.Path:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    settings, found = read_json(finished / "config.json"), read_json(finished / "result.json")
    for section, values in (config or {}).items():
      settings[section] |= values
    ranks = ranks_of(0) if ranks is None else ranks
    found["test"] |= {
      "hr@10": float((ranks <= 10).mean()),
      "ndcg@10": float(ndcg_of(ranks).mean()),
    }
    found |= {"config_hash": name, "data": "d", **(result or {})}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "result.json").write_text(json.dumps(found))
    if records:
      rng = np.random.default_rng(len(name))
      users = np.arange(1, len(ranks) + 1) if users is None else users
      kept = UserRecords(
        users, ranks, rng.integers(1, ITEMS + 1, len(ranks)), rng.integers(1, ITEMS + 1, (len(ranks), 10))
      )
      about = {"data": found["data"], "config_hash": found["config_hash"], "seed": found["seed"]} | (said or {})
      per_user = PerUser(**about, items=np.arange(1, ITEMS + 1), train_counts=np.arange(ITEMS), splits={"test": kept})
      per_user.write(folder / "per_user.safetensors")
    return folder

  return make


@pytest.fixture
def page(tmp_path):
  """The page of workdirs, and the lines on what was left out."""

  def make(*folders, **options) -> tuple[str, list[str]]:
    notes: list[str] = []
    texts = render.make(
      list(map(str, folders)), out=tmp_path / "out", draw=False, html=True, note=notes.append, **options
    )  # fmt: skip
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == texts["html"]
    return texts["html"], notes

  return make


class _Reader(html.parser.HTMLParser):
  """Elements, attributes and text of a page whose elements are all closed."""

  def __init__(self, text: str):
    super().__init__(convert_charrefs=True)
    self.tags, self.attributes, self.text, self._open = set(), [], "", []
    self.feed(text)
    self.close()
    assert self._open == []

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += attrs
    if tag not in ("meta", "wbr"):
      self._open.append(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag

  def handle_data(self, data):
    self.text += data


def cells(text: str, heading: str) -> list[list[str]]:
  """The lines of the table under a heading, as text."""
  table = re.search(r"<tbody>(.*?)</tbody>", text[text.index(f"<h3>{heading}</h3>") :])[1]
  lines = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
  return [[html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in line] for line in lines]


def test_a_page_of_real_runs_is_whole_in_itself(finished, run_tiny, page, tmp_path):
  run_tiny(tmp_path / "markov", model={"name": "markov"})
  text, notes = page(finished, tmp_path / "markov")
  assert notes == []
  found = _Reader(text)
  assert found.tags <= {
    "html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "p", "strong", "span", "div",
    "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "g", "path", "rect", "circle", "text",
    "ul", "li", "details", "summary", "wbr",
  }  # fmt: skip
  assert not {name for name, _ in found.attributes} & {"src", "href", "style"}
  assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in found.attributes
  assert "http" not in text.replace("http-equiv", "")
  assert "prefers-color-scheme: dark" in text
  headings = re.findall(r"<h3>(.*?)</h3>", text)
  assert headings == [
    "Results", "Learning curves", "Popular and cold items", "Cost", "Paired tests", "Beyond accuracy",
    "Differences of configs",
  ]  # fmt: skip
  assert len(cells(text, "Results")) == 2
  assert page(finished, tmp_path / "markov")[0] == text, "the same runs give the same page"


def test_pairs_are_tested_on_their_users_and_corrected(workdir, page):
  ranks = {"a": ranks_of(1, 40), "b": ranks_of(2, 20), "c": ranks_of(3, 19)}
  text, _ = page(*(workdir(name, ranks=one) for name, one in ranks.items()))
  lines = cells(text, "Paired tests")
  assert [line[0] for line in lines] == ["1SASRec a − 2SASRec b", "1SASRec a − 3SASRec c", "2SASRec b − 3SASRec c"]
  gains = np.stack([ndcg_of(one) for one in ranks.values()] +
                   [(one <= 10).astype(float) for one in ranks.values()], axis=1)  # fmt: skip
  pairs = [(0, 1), (0, 2), (1, 2)]
  found = statistics.paired_bootstrap(gains, [*pairs, *((a + 3, b + 3) for a, b in pairs)])
  p = statistics.holm([one.p for one in found[:3]])
  signed = lambda value: f"{value:+.4f}".replace("-", "−")  # noqa: E731
  for line, ndcg, hr, corrected in zip(lines, found[:3], found[3:], p):
    assert line[1:4] == [str(USERS), signed(ndcg.mean), f"{signed(ndcg.low)} to {signed(ndcg.high)}"]
    assert line[4] == ("< 0.001" if corrected < 0.001 else f"{corrected:.3f}")
    assert line[5] == signed(hr.mean)
  assert "its ndcg@10 is higher than that of all 2 other rows tested" in text


def test_systems_that_are_alike_are_not_told_apart(workdir, page):
  text, _ = page(workdir("a"), workdir("b"))
  assert cells(text, "Paired tests") == [
    ["1SASRec a − 2SASRec b", str(USERS), *2 * ["+0.0000", "+0.0000 to +0.0000", "1.000"]]
  ]  # fmt: skip
  assert "is higher than that of no other row tested" in text


def test_gains_of_seeds_are_averaged_for_each_user(workdir):
  many = [workdir(f"s{seed}", ranks=ranks_of(seed), result={"seed": seed, "config_hash": "x"}) for seed in (0, 1)]
  table = table_of(*many, workdir("b", ranks=ranks_of(5, 30)))
  (test,) = analysis.analyse(table, "test").tests
  place = [row.config_hash for row in table.rows].index("x")
  mean = np.mean([(ranks_of(seed) <= 10) for seed in (0, 1)])
  other = (ranks_of(5, 30) <= 10).mean()
  assert test.differences["hr@10"].mean == pytest.approx((mean - other) * (1 if place == test.first else -1))


def table_of(*folders) -> rows.Table:
  found, _ = rows.read(list(map(str, folders)), split="test")
  (table,), _ = rows.tables(found, split="test", metric="hr@10")
  return table


def test_only_users_that_both_ranked_are_compared(workdir):
  order = np.random.default_rng(0).permutation(USERS)
  a, b = ranks_of(1, 30), ranks_of(2)
  # The second ranked the first forty alone, in another order; the third other users than the first two.
  part = order[order < 40]
  table = table_of(
    workdir("a", ranks=a), workdir("b", ranks=b[part], users=part + 1),
    workdir("c", ranks=a, users=np.arange(USERS) + 50),
  )  # fmt: skip
  place = {row.config_hash: number for number, row in enumerate(table.rows)}
  tests = {frozenset((test.first, test.second)): test for test in analysis.analyse(table, "test").tests}
  assert {pair: test.users for pair, test in tests.items()} == {
    frozenset((place["a"], place["b"])): 40, frozenset((place["a"], place["c"])): 11,
  }  # fmt: skip
  test = tests[frozenset((place["a"], place["b"]))]
  wanted = (a[:40] <= 10).mean() - (b[:40] <= 10).mean()
  assert abs(test.differences["hr@10"].mean) == pytest.approx(abs(wanted))


def test_runs_of_other_data_are_not_tested_against_each_other(workdir, page):
  text, _ = page(workdir("a"), workdir("b", result={"data": "other"}))
  assert text.count("<section>") == 2
  assert "Paired tests" not in text


@pytest.mark.parametrize(
  ("options", "reason"),
  [
    ({"records": False}, r"b has no per_user\.safetensors, as runs of older versions"),
    ({"said": {"data": "e"}}, r"per_user\.safetensors: these are the records of another run than result\.json is of"),
    ({"said": {"seed": 7}}, "these are the records of another run"),
    ({"said": {"config_hash": "z"}}, "these are the records of another run"),
    ({"result": {"test": {"hr@10": 0.9}}}, r"its ranks do not make the test hr@10 of result\.json, 0\.9"),
  ],
)
def test_records_that_are_missing_or_of_another_run_are_left_out_and_named(options, reason, workdir, page):
  text, notes = page(workdir("a"), workdir("b", **options), workdir("c", ranks=ranks_of(4)))
  assert len(notes) == 1
  assert re.search(reason, notes[0])
  assert re.search(reason, _Reader(text).text)
  assert len(cells(text, "Paired tests")) == 1
  assert len(cells(text, "Results")) == 3


def test_damaged_records_are_left_out_and_named(workdir, page):
  folder = workdir("b")
  (folder / "per_user.safetensors").write_bytes(b"\0" * 50)
  text, notes = page(workdir("a"), folder)
  assert "a run's records of users cannot be read" in notes[0]
  assert len(cells(text, "Results")) == 2


def test_the_best_rows_alone_are_tested_and_many_pairs_fold_away(workdir, page):
  text, _ = page(*(workdir(f"r{n:02}", ranks=ranks_of(n, 20 + n)) for n in range(analysis.MOST_TESTED + 2)))
  assert len(cells(text, "Paired tests")) == analysis.MOST_TESTED - 1, "those of the best row"
  rest = analysis.MOST_TESTED * (analysis.MOST_TESTED - 1) // 2 - (analysis.MOST_TESTED - 1)
  assert f"<summary>{rest} more pairs</summary>" in text
  assert f"The best {analysis.MOST_TESTED} rows are tested." in text
  assert "the best 8 rows" in text, "bars of more could not be told apart"


def test_lists_are_told_by_content_where_vectors_are_named(workdir, page, tmp_path):
  folders = [workdir("a"), workdir("b", ranks=ranks_of(4))]
  text, _ = page(*folders)
  assert "diversity" not in text
  np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(ITEMS, 3)).astype(np.float32))
  text, notes = page(*folders, vectors=str(tmp_path / "v.npy"))
  assert notes == []
  for line in cells(text, "Beyond accuracy"):
    assert 0 < float(line[2]) < 1
    assert 0 < float(line[3]) < 10
    assert 0.5 < float(line[4]) < 1.5
  np.savez(tmp_path / "v.npz", a=1)
  with pytest.raises(ConfigError, match=r"--vectors=.*v\.npz: expected a \.npy or \.json file"):
    page(*folders, vectors=str(tmp_path / "v.npz"))
  (tmp_path / "v.json").write_text('{"900": [1.0]}')
  text, notes = page(*folders, vectors=str(tmp_path / "v.json"))
  assert "none of its 1 vectors belongs to these items" in notes[0]


def test_a_page_needs_a_folder_and_vectors_need_a_page(workdir):
  folder = str(workdir("a"))
  with pytest.raises(ConfigError, match="--html is written to the folder of --out"):
    render.make([folder], html=True)
  with pytest.raises(ConfigError, match=r"--vectors=v\.npy is for the page: give --html"):
    render.make([folder], vectors="v.npy")


def test_only_keys_that_differ_are_shown(workdir, page):
  text, _ = page(workdir("a"), workdir("b", config={"train": {"batch_size": 64}, "model": {"new": [1, "x"]}}))
  assert cells(text, "Differences of configs") == [
    ["model.new", "–", '[1, "x"]'], ["train.batch_size", "32", "64"],
  ]  # fmt: skip


def test_curves_are_read_of_whole_lines_of_validations_alone(tmp_path):
  path = tmp_path / "metrics.jsonl"
  line = lambda **said: json.dumps(said)  # noqa: E731
  path.write_text("\n".join([
    line(step=10, split="valid", x=0.1), line(step=5, split="train", x=0.7), line(step=20, split="valid", x=0.2),
    line(step=30, split="valid", x=None), line(step="4", split="valid", x=0.3), line(step=40, split="valid", y=0.3),
    line(step=50, split="valid", x=1e300), line(step=60, split=["valid"], x=0.3), '["valid"]', '{"split": "valid"',
    line(step=70, split="valid", x=0.3, pad="p" * 100_000), line(step=80, split="valid", x=0.4),
  ]))  # fmt: skip
  assert curves.validations(path, "x") == [(10, 0.1), (20, 0.2), (80, 0.4)]
  assert curves.validations(tmp_path / "none", "x") == []
  path.write_text("\n".join(line(step=step, split="valid", x=0.5) for step in range(1, 1001)))
  assert 300 <= len(curves.validations(path, "x")) <= 400


def test_a_curve_is_over_epochs(finished, page):
  text, _ = page(finished)
  (curve,) = re.findall(r'<path d="M([^"]*)" class="curve">', text)
  assert curve.count("L") == 2, "three epochs"
  assert ">epoch</text>" in text


HOSTILE = [
  "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><script>x</script>", "<!--", "a\nb\x1b[31m",
  "=1+cmd|' /C calc'!A0", "\u202egnp", "&lt;b&gt;", "'onload='x", "]]>", "javascript:alert(1)", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_workdir_names_is_text(text, workdir, page):
  buckets = {f"count_5{text}/hr@10": 0.1, f"count_5{text}/targets": 3.0}
  folders = [
    workdir(name, ranks=ranks, result={"config_hash": f"{text}{name}", "data": text},
            config={"model": {"name": text, f"k{text}": [text, name]}, "data": {"source": text}},
            records=text != "\ud800")
    for name, ranks in (("a", ranks_of(0)), ("b", ranks_of(1)))
  ]  # fmt: skip
  for folder in folders:
    result = json.loads((folder / "result.json").read_text())
    result["test"] |= buckets
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": "valid", "ndcg@10": 0.1, text: 1}))
  made, _ = page(*folders)
  found = _Reader(made)
  assert not found.tags & {"script", "img", "iframe", "b"}
  assert not {name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href", "style")}
  assert made.count("<style>") == made.count("</style>") == made.count("</html>") == 1
  assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", made)
  printable = text.replace("\n", " ").replace("\x1b", r"\x1b").replace("\u202e", r"\u202e").replace("\ud800", r"\ud800")
  for place in (f"{printable}, 310 users", f"k{printable}", *([] if "\n" in text else [f"5{printable}"])):
    assert place in found.text


@pytest.mark.parametrize(
  "result",
  [
    {"seconds": 1e308, "cpu_seconds": 1e-300, "parameters": 2**62, "peak_memory_mib": -1.0},
    {"test": {"hr@10": 1e308, "ndcg@10": -5.0, "cold/hr@10": 7.0, "count_1-5/hr@10": 1e-320}},
    {"best_step": 1, "best_epoch": 2**62},
    {"best_step": -3, "best_epoch": 2},
  ],
)
def test_figures_that_cannot_be_are_no_reason_to_fail(result, workdir, page):
  folders = [workdir("a", records=False), workdir("b", records=False, result=result)]
  for folder in folders:
    lines = [{"step": step, "split": "valid", "ndcg@10": 0.1} for step in (2**62, 2**62 + 1, 2**63 - 1)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
  text, _ = page(*folders)
  assert not re.search(r'="[^"]*\b(nan|inf)\b', text), "no mark lies nowhere"


def test_a_config_that_is_nested_too_deeply_is_refused_in_a_line(workdir):
  table = table_of(workdir("a"))
  run = table.rows[0].runs[0]
  deep: dict = {}
  for _ in range(100_000):
    deep = {"a": deep}
  row = dataclasses.replace(table.rows[0], runs=[dataclasses.replace(run, config=deep)])
  with pytest.raises(ConfigError, match=r"a/config\.json: it is no config of mlrec\.main: its values are nested too"):
    differences.of_configs(dataclasses.replace(table, rows=[row]))


def test_the_command_writes_the_page(workdir, tmp_path, forked):
  folders = [str(workdir("a")), str(workdir("b", ranks=ranks_of(3)))]
  done = forked.run("mlrec.report", [*folders, "--out=o", "--html", "--noplot"], cwd=tmp_path, env=environment())
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith("### ")
  assert {path.name for path in (tmp_path / "o").iterdir()} == {"report.md", "report.csv", "report.html"}


@pytest.mark.parametrize(
  "values", [[], [0.0], [0.3], [1e-12, 2e-12], [0.0391, 0.0412], [0, 1], [3, 3.0000001], [1e16, 1e16 + 2]]
)
@pytest.mark.parametrize("options", [{}, {"zero": True}, {"whole": True}])
def test_a_scale_holds_its_values_between_a_few_ticks(values, options):
  scale = Scale.linear(values, 100, 0, **options)
  assert 2 <= len(scale.ticks) <= 8
  assert list(scale.ticks) == sorted(set(scale.ticks))
  for value in values:
    assert -1e-3 <= scale(value) <= 100 + 1e-3
  assert (scale(scale.low), scale(scale.high)) == (100, 0)


@pytest.mark.parametrize("values", [[1.0], [0.05, 2.4], [255, 1693], [1_322_624, 2_543_104], [1e-6, 1e15]])
def test_a_scale_of_ratios_names_a_few_ticks(values):
  scale = Scale.log(values, 0, 100)
  assert 2 <= len(scale.ticks) <= 30
  assert all(0 <= scale(value) <= 100 for value in (*values, *scale.ticks))


def test_ticks_have_short_names():
  assert [named(value) for value in (0, 0.05, 0.30000000000000004, 10, 1500, 20_000, 2.5e6, 3e9)] == [
    "0", "0.05", "0.3", "10", "1,500", "20k", "2.5M", "3G",
  ]  # fmt: skip
