"""A warm start from a run over another log: rows follow the ids of items and users, data stay this run's own."""

import pathlib

from flax import nnx
import numpy as np
import pytest

from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.id_map import IdMap
from mlrec.models.layers.variables import DataArray
from mlrec.runs.workdir import Workdir
from mlrec.train import loop
from mlrec.train import warm_start
from support import tiny_runs
from support.tiny_runs import read_json
from support.tiny_runs import saved_arrays

_FUSED = {"name": "fused", "towers": {"id": {"name": "id"}, "age": {"name": "statistics", "bumps": 4}}}
_LIGHTGCN = {"name": "lightgcn", "dim": 8, "layers": 2}


def write_log(path: pathlib.Path, rows: dict[int, list[int]]) -> pathlib.Path:
  """A `*_pairs.tsv` of histories by user id."""
  path.parent.mkdir(exist_ok=True)
  path.write_text("".join(f"{user}\t{' '.join(map(str, row))}\n" for user, row in rows.items()))
  return path


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> dict[str, pathlib.Path]:
  """Logs whose ids are sparse: one; it with users and items between the others and without some of its own; others."""
  folder = tmp_path_factory.mktemp("logs")
  first = {10 * user: [10 * item for item in row] for user, row in enumerate(tiny_runs.histories(), start=1)}
  kept = {user: [item for item in row if item > 50] for user, row in first.items() if user > 100}
  grown = {user: row + [5, 15, 995][: user % 4] for user, row in kept.items()}
  grown |= {user + 5: row[:4] + [25, 5] for user, row in kept.items() if user % 7 == 0}
  grown = {user: row for user, row in sorted(grown.items()) if len(row) >= 5}
  other = {user: [item + 3 for item in row] for user, row in first.items()}
  return {
    name: write_log(folder / name / "Tiny_pairs.tsv", rows)
    for name, rows in {"first": first, "grown": grown, "other": other}.items()
  }


def begun(tiny_config, source: pathlib.Path, log: pathlib.Path, workdir: pathlib.Path, **options):
  """The run over `log`, its random start, and its start from the run in `source`."""
  split = leave_one_out(read_pairs(log))
  config = tiny_config(**{"data.source": str(log)}, **options)
  run = loop.TrainingRun(config, split, Workdir(workdir).files)
  run.plan()
  run.prepare()
  cold, ids = run.spec.create(), IdMap.of(split)
  return run, cold, warm_start.load(Workdir(source).files, run.spec, run.spec.create(), ids), ids


def by_name(tree) -> dict[str, np.ndarray]:
  return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(tree)}


def check_rows(found: np.ndarray, start: np.ndarray, saved: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> int:
  """Rows of ids that both have are the saved ones, the others are at their start; how many are the saved ones."""
  place = {original: row for row, original in enumerate(theirs.tolist())}
  known = 0
  for row, original in enumerate(ours.tolist()):
    known += original in place
    wanted = saved[place[original]] if original in place else start[row]
    np.testing.assert_array_equal(found[row], wanted, err_msg=f"row {row} of id {original}")
  return known


def test_rows_follow_the_ids_of_a_log_that_has_grown_and_lost_some(run_tiny, tiny_config, logs, tmp_path, caplog):
  run_tiny(tmp_path / "first", **{"data.source": str(logs["first"])})
  saved = saved_arrays(tmp_path / "first", read_json(tmp_path / "first" / "result.json")["best_step"])
  theirs = IdMap.read(tmp_path / "first" / "ids.safetensors")
  _, cold, warm, ours = begun(tiny_config, tmp_path / "first", logs["grown"], tmp_path / "run")
  assert len(ours.items) != len(theirs.items)
  start, found = by_name(cold.params), by_name(warm.params)
  tables = [name for name in found if found[name].shape[0] == len(ours.items)]
  assert tables == ["items.table.embedding"]
  known = check_rows(
    found[tables[0]], start[tables[0]], saved[f"model/params.{tables[0]}.value"], ours.items, theirs.items
  )
  assert 50 < known < len(ours.items)
  for name in found.keys() - set(tables):
    np.testing.assert_array_equal(found[name], saved[f"model/params.{name}.value"], err_msg=name)
  new, gone = len(ours.items) - known, len(theirs.items) - known
  assert f"{known - 1} of {len(ours.items) - 1} items are known there" in caplog.text
  assert f"{new} start at random, {gone} of its own are dropped" in caplog.text


def test_items_that_have_moved_in_the_table_are_scored_as_they_were(run_tiny, tiny_config, logs, tmp_path):
  run_tiny(tmp_path / "first", **{"data.source": str(logs["first"])})
  first = read_pairs(logs["first"])
  # The last item is another now, before all others: their rows move by one.
  last = int(first.lines.values.max())
  rows = {
    int(user): [1 if item == last else item for item in first.lines[place].tolist()]
    for place, user in enumerate(first.line_users)
  }
  moved = write_log(tmp_path / "moved" / "Tiny_pairs.tsv", rows)
  run, _, warm, _ = begun(tiny_config, tmp_path / "first", moved, tmp_path / "run")
  metrics = run.evaluator(warm.params, warm.rest, "valid")
  wanted = read_json(tmp_path / "first" / "result.json")["valid"]
  about_that_item = sum(1 in row[-3:] for row in rows.values()) / len(rows)
  assert metrics["hr@10"] == pytest.approx(wanted["hr@10"], abs=about_that_item + 0.01)
  assert wanted["hr@10"] > 0.3
  assert about_that_item < 0.1


def test_a_log_of_other_ids_begins_at_random(run_tiny, tiny_config, logs, tmp_path, caplog):
  run_tiny(tmp_path / "first", **{"data.source": str(logs["first"])})
  _, cold, warm, ours = begun(tiny_config, tmp_path / "first", logs["other"], tmp_path / "run")
  start, found = by_name(cold.params)["items.table.embedding"], by_name(warm.params)["items.table.embedding"]
  np.testing.assert_array_equal(found[1:], start[1:])
  assert f"0 of {len(ours.items) - 1} items are known there" in caplog.text


def test_rows_of_users_follow_their_ids_too(run_tiny, tiny_config, logs, tmp_path):
  options = {"model": _LIGHTGCN}
  run_tiny(tmp_path / "first", **{"data.source": str(logs["first"]), "train.epochs": 1}, **options)
  saved = saved_arrays(tmp_path / "first", read_json(tmp_path / "first" / "result.json")["best_step"])
  theirs = IdMap.read(tmp_path / "first" / "ids.safetensors")
  _, cold, warm, ours = begun(tiny_config, tmp_path / "first", logs["grown"], tmp_path / "run", **options)
  start, found = by_name(cold.params), by_name(warm.params)
  for name, table in found.items():
    mine, other = (ours.users, theirs.users) if "user" in name else (ours.items, theirs.items)
    known = check_rows(table, start[name], saved[f"model/params.{name}.value"], mine, other)
    assert 0 < known < len(table), name


@pytest.mark.parametrize(
  "options",
  [
    pytest.param({"item": _FUSED}, marks=pytest.mark.slow),
    pytest.param({"item": _FUSED["towers"]["age"]}, marks=pytest.mark.slow),
    {"model": _LIGHTGCN},
  ],
  ids=["fused", "age", "graph"],
)
def test_arrays_that_come_from_the_data_are_this_run_s(options, run_tiny, tiny_config, logs, tmp_path):
  run_tiny(tmp_path / "first", **{"data.source": str(logs["first"]), "train.epochs": 1}, **options)
  _, cold, warm, _ = begun(tiny_config, tmp_path / "first", logs["grown"], tmp_path / "run", **options)
  own, found = (by_name(nnx.filter_state(state.rest, DataArray)) for state in (cold, warm))
  assert own
  for name, array in own.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_ids_that_are_not_those_of_the_run_are_refused(run_tiny, copied, finished, tmp_path):
  ids = IdMap.read(copied / "ids.safetensors")
  ids._replace(items=np.concatenate([[0], ids.items[:0:-1]])).write(copied / "ids.safetensors")
  with pytest.raises(ValueError, match=r"config\.init_from = .*ids\.safetensors: these are not the ids"):
    run_tiny(tmp_path / "warm", init_from=str(copied))
  (copied / "ids.safetensors").unlink()
  with pytest.raises(ValueError, match=r"config\.init_from = .*the run's ids cannot be read"):
    run_tiny(tmp_path / "warm", init_from=str(copied))
