"""The benchmarks that nobody runs every day still run, at sizes that say nothing."""

import json
import os
import subprocess
import sys

import pytest

from support.tiny_runs import environment
from support.tiny_runs import ROOT

pytestmark = pytest.mark.slow


def _printed(*arguments: str, cwd) -> list[str]:
  paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
  done = subprocess.run(
    [sys.executable, str(ROOT / "benchmarks" / arguments[0]), *arguments[1:]],
    env=environment() | {"PYTHONPATH": paths}, cwd=cwd, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout.splitlines()


def test_the_parts_of_the_gpu_benchmark_run_without_one(tmp_path):
  lines = _printed("gpu.py", "--tiny", "--keep=none", "--parts", "id_64", "checks", cwd=tmp_path)
  found = {name: json.loads(figures) for name, _, figures in (line.partition(" ") for line in lines)}
  assert found["id_64"]["users"] == 64
  assert min(found["id_64"][name] for name in ("tflop_a_step", "step_ms", "host_step_ms", "ranked_users_per_s")) > 0
  assert found["checks"]["same_bits_again"] is True
  assert found["checks"]["ranks_as_on_the_cpu"] == 1


def test_a_step_through_a_video_encoder_is_measured(pairs_file, tmp_path):
  options = json.dumps({"dim": 16, "depth": 1, "heads": 2, "hidden": 32})
  small = ("--batch=4", "--frames=1", "--size=32", "--steps=2")
  lines = _printed("video.py", "step", "vit_s", f"--pairs={pairs_file}", *small, f"--options={options}", cwd=tmp_path)
  assert json.loads(lines[-1])["clips_a_step"] > 0


def test_a_probe_tells_labels_of_clips_it_was_not_fitted_on(tmp_path):
  (line,) = _printed("probe.py", f"--config={ROOT / 'configs' / 'pretrain_demo.py'}", "random", cwd=tmp_path)
  found = json.loads(line)
  assert found["encoder"] == "random"
  # Of six colours even a random start tells most.
  assert 1 / 6 < found["shape"] < found["colour"] < 1
