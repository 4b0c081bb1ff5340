"""Traces of training steps."""

import gzip
import json

import pytest

from mlrec.runs import experiment
from support.tiny_runs import environment
from support.tiny_runs import tiny_arguments


def test_the_steps_asked_for_are_traced_for_xprof_and_perfetto(tiny_config, tmp_path):
  said = []
  experiment.run(tiny_config(**{"train.epochs": 1}), tmp_path / "run", profile=(4, 8), say=said.append)
  (told,) = [line for line in said if line.startswith("trace ")]
  folder = tmp_path / "run" / "plugins" / "profile"
  assert told.startswith(f"trace {folder}/")
  assert list(folder.rglob("*.xplane.pb"))
  (trace,) = folder.rglob("perfetto_trace.json.gz")
  events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
  assert any("steps" in str(event.get("name", "")) for event in events)


def test_steps_that_are_not_taken_leave_no_trace_and_a_word(tiny_config, tmp_path):
  said = []
  experiment.run(tiny_config(**{"train.epochs": 1}), tmp_path / "run", profile=(1000, 1001), say=said.append)
  assert "no step of --profile was taken: there is no trace" in said
  assert not (tmp_path / "run" / "plugins").exists()


@pytest.mark.slow
def test_a_run_that_fails_within_the_trace_ends_it(tiny_config, tmp_path):
  config = tiny_config(**{"train.epochs": 1, "optimizer.lr": 1e30, "optimizer.clip_norm": 0.0})
  from mlrec.train.session import TrainingDiverged

  for name in ("first", "second"):  # were the trace still under way, the second could not begin one
    with pytest.raises(TrainingDiverged):
      experiment.run(config, tmp_path / name, profile=(1, 500), say=lambda text: None)
    assert list((tmp_path / name).rglob("*.xplane.pb"))


@pytest.mark.parametrize("value", ["5", "5:5", "a:b", "-1:4", "9:3", ""])
def test_a_range_that_is_none_is_told(value, forked, pairs_file, tmp_path):
  done = forked.run(
    "mlrec.main", [*tiny_arguments(pairs_file, tmp_path / "run"), f"--profile={value}"], cwd=tmp_path, env=environment()
  )
  assert done.returncode == 2
  assert "expected FIRST:LAST, two numbers of steps, such as 10:15" in done.stderr
