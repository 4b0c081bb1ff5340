"""Reports: what is one row, what is told apart or left out, the published figures beside ours, and the files."""

import csv
import io
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pytest

from mlrec.config import ConfigError
from mlrec.runs import published
from mlrec.runs.report import render
from support.tiny_runs import environment
from support.tiny_runs import read_json


@pytest.fixture
def workdir(finished, tmp_path):
  """Writes what a report reads of a finished run: `workdir("a", result={"seed": 1}, data={"source": …})`."""

  def make(name: str, *, hr: float | None = None, result=None, model=None, **sections) -> pathlib.Path:
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    config, found = read_json(finished / "config.json"), read_json(finished / "result.json")
    for section, values in sections.items():
      config[section] |= values
    config["model"] = model or config["model"]
    found |= result or {}
    if hr is not None:
      found["test"]["hr@10"] = hr
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(found))
    return folder

  return make


def make(arguments: list[str], **options) -> dict[str, str]:
  """The report; notes go where the command has them."""
  return render.make(arguments, note=lambda line: print(f"note: {line}", file=sys.stderr), **options)


def rows(texts: dict[str, str]) -> list[dict[str, str]]:
  return list(csv.DictReader(io.StringIO(texts["csv"])))


def cells(texts: dict[str, str]) -> list[dict[str, str]]:
  """The rows of the first Markdown table."""
  lines = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
    for line in texts["markdown"].splitlines()
    if line.startswith("|")
  ]
  return [dict(zip(lines[0], line)) for line in lines[2:] if len(line) == len(lines[0])]


def test_a_finished_run_is_a_row_with_what_it_found_and_used(finished):
  texts = make([str(finished)])
  result = read_json(finished / "result.json")
  (row,) = rows(texts)
  for split, name in (("test", "hr@10"), ("test", "ndcg@20"), ("test", "mrr")):
    assert float(row[f"{split}/{name}"]) == result[split][name], "to the last digit"
  assert result["cpu_seconds"] > 0
  assert result["peak_memory_mib"] > 50
  # The table of 100 items and the padding; ten positions; the rest is the encoder's.
  assert result["parameters"] > 101 * 8 + 10 * 8
  assert float(row["wall_minutes"]) == pytest.approx(result["seconds"] / 60)
  assert float(row["cpu_minutes"]) == pytest.approx(result["cpu_seconds"] / 60)
  assert float(row["parameters"]) == result["parameters"]
  assert row["device_minutes"] == "", "the host's processor is no device"
  assert row["paper/hr@10"] == ""
  (shown,) = cells(texts)
  assert shown["model"] == "SASRec"
  assert shown["test hr@10"] == f"{result['test']['hr@10']:.4f}"
  assert shown["config"] == f"`{result['config_hash']}`"
  assert not any(name.startswith(("paper", "device")) for name in shown), "columns of no row are left out"


def test_buckets_stand_in_order_of_training_counts(workdir):
  counts = {"count_51+/hr@10": 0.5, "count_6-20/hr@10": 0.3, "count_1-5/hr@10": 0.2, "cold/hr@10": 0.1,
            "count_21-50/hr@10": 0.4}  # fmt: skip
  folder = workdir("a", result={"test": {"hr@10": 0.3} | counts})
  (row,) = cells(make([str(folder)]))
  names = [name for name in row if name.endswith(" hr@10") and not name.startswith("test")]
  assert names == ["cold hr@10", "1-5 hr@10", "6-20 hr@10", "21-50 hr@10", "51+ hr@10"]
  assert [row[name] for name in names] == ["0.1000", "0.2000", "0.3000", "0.4000", "0.5000"]


def test_seeds_of_one_config_are_one_row(workdir):
  values = [0.10, 0.13, 0.11]
  folders = [workdir(f"s{seed}", hr=value, result={"seed": seed}) for seed, value in enumerate(values)]
  texts = make([str(folder) for folder in folders])
  (row,) = rows(texts)
  assert row["seeds"] == "0 1 2"
  assert float(row["test/hr@10"]) == pytest.approx(np.mean(values))
  assert float(row["test/hr@10/std"]) == pytest.approx(np.std(values, ddof=1))
  assert cells(texts)[0]["test hr@10"] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def test_a_workdir_of_several_seeds_and_a_folder_of_workdirs_are_read(workdir, capsys):
  for seed in (0, 1, 2):
    workdir(f"many/seed_{seed}", hr=0.1 + seed / 100, result={"seed": seed})
  many = workdir("many_config")
  config = read_json(many / "config.json") | {"seeds": [0, 1, 2, 3]}
  shutil.rmtree(many)
  (many.parent / "many" / "config.json").write_text(json.dumps(config))
  (row,) = rows(make([str(many.parent)]))
  assert row["seeds"] == "0 1 2"
  assert re.search(r"note: .*seed_3 is not finished: left out", capsys.readouterr().err)


def test_rows_are_sorted_by_the_metric_asked_for_those_without_it_last(workdir):
  folders = [
    workdir(name, result={"config_hash": name, "test": test})
    for name, test in (("a", {"hr@10": 0.1, "mrr": 0.3}), ("b", {"hr@10": 0.3}), ("c", {"hr@10": 0.2, "mrr": 0.1}))
  ]
  names = list(map(str, folders))
  assert [row["config_hash"] for row in rows(make(names))] == ["b", "c", "a"]
  assert [row["config_hash"] for row in rows(make(names, metric="mrr"))] == ["a", "c", "b"]
  with pytest.raises(ConfigError, match=r"no run has the test metric 'hr@11': did you mean 'hr@10'"):
    make(names, metric="hr@11")


def test_runs_of_other_data_have_a_table_of_their_own_and_this_is_said(workdir, capsys):
  one = workdir("one")
  other = workdir(
    "other", result={"data": "0123456789ab", "config_hash": "x"}, data={"source": "microlens/demo-sequences"}
  )
  texts = make([str(one), str(other)])
  assert texts["markdown"].count("### ") == 2
  assert (
    "### microlens/demo-sequences, 310 users, 100 items, histories of up to 10, data 0123456789ab" in texts["markdown"]
  )
  assert len({row["data"] for row in rows(texts)}) == 2
  assert "note: the workdirs read 2 data sets, whose figures do not compare: a table each" in capsys.readouterr().err


def test_what_is_left_out_is_named(workdir, capsys):
  good, twin = workdir("good"), workdir("twin")
  unfinished, trial = workdir("unfinished"), workdir("trial")
  (unfinished / "result.json").unlink()
  result = read_json(trial / "result.json")
  del result["test"]
  (trial / "result.json").write_text(json.dumps(result))
  (row,) = rows(make(list(map(str, (good, twin, unfinished, trial, good)))))
  assert row["workdirs"] == str(good)
  notes = capsys.readouterr().err
  assert f"{twin} repeats seed 42 of {good}: left out" in notes
  assert f"{unfinished} is not finished: left out" in notes
  assert f"{trial} has no test metrics, as a trial of a sweep: left out" in notes
  assert f"{good} is named twice: it counts once" in notes
  with pytest.raises(ConfigError, match="none of the workdirs holds a finished run with test metrics"):
    make([str(trial)])
  assert len(rows(make([str(trial)], split="valid"))) == 1


def test_files_that_are_missing_or_damaged_are_named(workdir, tmp_path, capsys):
  folder = workdir("sasrec_a")
  with pytest.raises(ConfigError, match=r"sasrec_b is no folder: did you mean 'sasrec_a'"):
    make([str(folder.with_name("sasrec_b"))])
  (tmp_path / "empty").mkdir()
  with pytest.raises(ConfigError, match=r"empty is no workdir, nor a folder of workdirs: there is no config\.json"):
    make([str(tmp_path / "empty")])
  assert len(rows(make([str(folder), str(tmp_path / "empty")]))) == 1
  told = capsys.readouterr().err
  assert "empty is no workdir, nor a folder of workdirs: there is no config.json in it: left out" in told
  (folder / "result.json").write_text('{"test": ')
  with pytest.raises(ConfigError, match=r"result\.json: it is no result of mlrec\.main: "):
    make([str(folder)])
  (folder / "result.json").write_text("{}")
  with pytest.raises(ConfigError, match=r"result\.json: it is no result of mlrec\.main: it has no 'seed'"):
    make([str(folder)])
  with pytest.raises(ConfigError, match="name a WORKDIR"):
    make([])


def test_runs_that_read_other_features_are_not_averaged(workdir):
  folders = [
    workdir(name, result={"seed": seed}, data={"features": f"/data/{name}.npy"}) for seed, name in enumerate("ab")
  ]
  assert [row["model"] for row in rows(make(list(map(str, folders))))] == ["SASRec_ID+V"] * 2


def test_the_published_figures_stand_beside_ours_where_the_data_are_the_same(workdir):
  files = {"source": "data/MicroLens-100k_pairs.tsv"}
  video = {"name": "video", "encoder": "slow_r50", "mode": "top"}
  sequential = {"name": "sequential", "user": {"name": "sasrec"}}
  folders = [
    workdir("id", result={"users": 100_000, "config_hash": "id"}, data=files),
    workdir("loss", result={"users": 100_000, "config_hash": "loss"}, data=files,
            model=sequential | {"loss": "gbce"}),
    workdir("video", result={"users": 100_000, "config_hash": "video"}, data=files, model=sequential | {"item": video}),
    workdir("dssm", result={"users": 100_000, "config_hash": "dssm"}, data=files | {"features": "v.npy"},
            model={"name": "dssm"}),
  ]  # fmt: skip
  texts = make([*map(str, folders[:3]), f"DSSM={folders[3]}"])
  beside = {row["config_hash"]: (row["model"], row["paper/hr@10"], row["paper/ndcg@20"]) for row in rows(texts)}
  assert beside["id"] == ("SASRec", "0.0909", "0.061")
  assert beside["loss"] == ("SASRec, gbce", "", "")
  assert beside["video"] == ("SASRec_V (slow_r50, top)", "0.0933", "")
  assert beside["dssm"] == ("DSSM", "0.0394", "0.0258"), "a name that was asked for decides"
  assert {row["paper hr@10"] for row in cells(texts)} == {"0.0909", "0.0933", "0.0394", "–"}
  assert "paper" not in make([str(folders[0])], split="valid")["markdown"]


@pytest.mark.parametrize(
  ("item", "label"),
  [
    ({"name": "text", "encoder": "minilm_l6", "mode": "full"}, "SASRec_text (minilm_l6, full)"),
    ({"name": "image", "encoder": "clip_b32", "mode": "frozen"}, "SASRec_image (clip_b32, frozen)"),
    ({"name": "features", "dnn_layers": 2}, "SASRec_vectors"),
    ({"name": "fused", "fusion": "gate", "towers": {"id": {"name": "id"}, "title": {"name": "text"}}},
     "SASRec_fused (id+title, gate)"),
  ],
)  # fmt: skip
def test_towers_that_were_not_published_have_names_of_their_own_and_no_published_figures(workdir, item, label):
  folder = workdir(
    "a", result={"users": 100_000}, data={"source": "microlens/100k-sequences"},
    model={"name": "sequential", "user": {"name": "sasrec"}, "item": item},
  )  # fmt: skip
  (row,) = rows(make([str(folder)]))
  assert (row["model"], row["paper/hr@10"]) == (label, "")


@pytest.mark.parametrize(
  ("source", "users"),
  [("microlens/50k-sequences", 50_000), ("x/MicroLens-100k_pairs.tsv", 310), ("100k_pairs.tsv", 100_000)],
)
def test_the_published_figures_are_not_shown_beside_other_data(workdir, source, users):
  folder = workdir("id", result={"users": users}, data={"source": source})
  assert "paper" not in make([str(folder)])["markdown"]


def test_the_published_tables_are_whole_and_name_encoders_and_modes_that_exist():
  from mlrec.models.registry import models
  from mlrec.models.registry import VIDEO_ENCODER

  found = published.microlens_100k()
  main = [row for row in found if "(" not in row.model]
  assert len(main) == 18
  assert len(found) == 18 + 15 * 3
  assert all(row.metrics.keys() == set(published.METRICS) for row in main)
  assert all(row.metrics["hr@20"] > row.metrics["hr@10"] > row.metrics["ndcg@10"] for row in main)
  assert len({row.key for row in main}) == 18
  videos = [row.key for row in found if row.key[1] == "video"]
  assert {encoder for *_, encoder, _ in videos} <= set(models.names(VIDEO_ENCODER))
  assert {mode for *_, mode in videos} == {"frozen", "top", "full"}
  for file in pathlib.Path(published.__file__).parent.glob("*.csv"):
    assert "arXiv 2309.15379" in file.read_text().splitlines()[0]


def test_the_report_is_written_in_all_its_forms(workdir, tmp_path):
  folders = [
    workdir(f"s{seed}", hr=0.1 + seed / 50, result={"seed": seed, "users": 100_000},
            data={"source": "microlens/100k-sequences"}) for seed in (0, 1)
  ]  # fmt: skip
  texts = make(list(map(str, folders)), out=tmp_path / "out")
  assert (tmp_path / "out" / "report.md").read_text() == texts["markdown"]
  assert (tmp_path / "out" / "report.csv").read_text() == texts["csv"]
  assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
  picture = (tmp_path / "out" / "report.svg").read_text()
  for word in ("SASRec", "test hr@10", "published", "microlens/100k-sequences"):
    assert word in picture
  make(list(map(str, folders)), out=tmp_path / "again")
  assert (tmp_path / "again" / "report.svg").read_text() == picture


def test_what_to_install_is_said_where_matplotlib_is_missing(workdir, tmp_path, monkeypatch):
  folder = str(workdir("a"))
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(ConfigError, match=r'pip install "matplotlib>=3\.9", or give --noplot'):
    make([folder], out=tmp_path / "out")
  assert not (tmp_path / "out").exists(), "it is told before anything is written"
  make([folder], out=tmp_path / "out", draw=False)
  assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.csv"}


def test_the_command(workdir, tmp_path, forked):
  def run(*arguments):
    return forked.run("mlrec.report", [*arguments], cwd=tmp_path, env=environment())

  folder = workdir("a")
  done = run(f"A name={folder}", "--format=csv")
  assert done.returncode == 0, done.stderr
  assert done.stdout == make([f"A name={folder}"])["csv"]
  assert done.stdout.splitlines()[1].startswith("A name,")
  refused = run("nothing")
  assert (refused.returncode, refused.stdout) == (2, "")
  assert refused.stderr.startswith("error: nothing is no folder")


# What a spreadsheet would compute, a page would run, or a terminal would obey.
HOSTILE = [
  '=HYPERLINK("http://x")', "+1+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "a|b", "a\nb", "<img src=x onerror=alert(1)>",
  "\x1b[31mred", "`code", "[x](javascript:alert(1))", "$\\frac{", "\u202egnp", "a\r=1",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_names_in_a_foreign_workdir_are_text_in_every_form(text, workdir, tmp_path, capsys):
  folder = workdir("a", model={"name": text}, result={"config_hash": text, "data": text}, data={"source": text})
  texts = make([str(folder)], out=tmp_path / "out")
  (row,) = rows(texts)
  for name in ("model", "config_hash", "data", "source"):
    assert not row[name].startswith(("=", "+", "-", "@", "\t", "\r")), name
  assert len(cells(texts)) == 1, "a cell ends no row"
  plain = texts["markdown"].replace("&lt;", "")
  assert "<" not in plain
  assert not re.search(r"(?<!\\)\]", plain), "no link"
  for form in (texts["markdown"], texts["csv"], (tmp_path / "out" / "report.svg").read_text(), capsys.readouterr().err):
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", form)


def test_a_name_that_was_asked_for_is_text_too(workdir, tmp_path):
  texts = make([f"+cmd|'/c calc'!A1={workdir('a')}"], out=tmp_path / "out")
  assert rows(texts)[0]["model"] == "'+cmd|'/c calc'!A1"
  assert "+cmd\\|'/c calc'!A1" in texts["markdown"]


@pytest.mark.parametrize(
  ("file", "text"),
  [
    ("result.json", '{"seed":1,"config_hash":"x","data":"y","test":{"hr@10":"abc"}}'),
    ("result.json", '{"seed":1,"config_hash":"x","data":"y","test":[1]}'),
    ("result.json", '{"seed":1,"config_hash":["x"],"data":"y","test":{"hr@10":0.1}}'),
    ("result.json", '{"seed":1,"config_hash":"x","data":["y"],"test":{"hr@10":0.1}}'),
    ("result.json", '{"seed":1,"config_hash":"x","data":"y","test":{"hr@10":NaN}}'),
    ("result.json", '{"seed":1,"config_hash":"x","data":"y","test":{"hr@10":1e400}}'),
    ("result.json", '{"seed":true,"config_hash":"x","data":"y","test":{"hr@10":0.1}}'),
    ("result.json", '{"seed":1,"config_hash":"x","data":"y","test":{"hr@10":0.1},"seconds":"x"}'),
    ("result.json", '{"seed":1,"seed":2,"config_hash":"x","data":"y","test":{}}'),
    ("result.json", "[1]"),
    ("result.json", ""),
    ("result.json", "[" * 100_000),
    ("config.json", "{}"),
    ("config.json", '{"seeds":5}'),
    ("config.json", '{"seeds":["../../a"],"data":{"source":"a","max_length":3},"model":{"name":"a"}}'),
    ("config.json", '{"model":1,"data":{}}'),
    ("config.json", '{"model":{"name":"a","item":[]},"data":{"source":"a","max_length":3}}'),
    ("config.json", '{"model":{"name":"a"},"data":{"source":7,"max_length":3}}'),
  ],
)
def test_files_of_other_types_are_refused_in_a_line_that_names_them(file, text, workdir):
  folder = workdir("a")
  (folder / file).write_text(text)
  with pytest.raises(ConfigError, match=rf"{file}: it is no (result|config) of mlrec\.main: [^\n]+$"):
    make([str(folder)])
