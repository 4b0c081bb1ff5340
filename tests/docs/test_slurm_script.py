"""The script of the page on Slurm, as it stands there, under an `srun` that starts two tasks on this machine."""

import os
import pathlib
import re
import signal
import socket
import sys

import pytest

from support.tiny_runs import environment
from support.tiny_runs import losses
from support.tiny_runs import ROOT
from support.tiny_runs import saved_steps
from support.tiny_runs import started
from support.tiny_runs import tiny_settings
from support.tiny_runs import wait_for

# The first port that JAX takes for a job, and how many it tells apart.
_PORTS, _NUMBER = 61440, 4096
_SRUN = """#!/bin/bash
for task in 0 1; do
  SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NUM_NODES=1 "$@" &
  echo $! >>tasks
done
wait -n; status=$?; wait; exit $status
"""
_SCONTROL = """#!/bin/bash
echo "$@" >>requeued
"""


def _job() -> int:
  """The number of a job whose port is free."""
  for number in range(_NUMBER):
    with socket.socket() as tried:
      try:
        tried.bind(("localhost", _PORTS + number))
      except OSError:
        continue
      return number
  raise AssertionError("no port is free")


@pytest.fixture
def submitted(pairs_file, tmp_path):
  """Starts the page's script as a job of the tiny run."""
  text = (ROOT / "docs" / "scale" / "slurm.md").read_text()
  (tmp_path / "job.sh").write_text(re.search(r"```sh\n(#!/bin/bash.*?)```", text, re.DOTALL)[1])
  (tmp_path / "FILE.py").write_text(
    "from mlrec.config import default_config\n"
    "def get_config():\n"
    "  config = default_config()\n"
    f"  with config.unlocked(): config.update_from_flattened_dict({tiny_settings(pairs_file)!r})\n"
    "  return config\n"
  )
  for name, script in (("srun", _SRUN), ("scontrol", _SCONTROL)):
    (tmp_path / name).write_text(script)
    (tmp_path / name).chmod(0o755)
  path = os.pathsep.join([str(tmp_path), str(pathlib.Path(sys.executable).parent), os.environ["PATH"]])

  def start():
    variables = {"SHARED": str(tmp_path), "SLURM_JOB_ID": str(_job()), "PATH": path}
    return started(["bash", "job.sh"], cwd=tmp_path, env=environment(devices=4, **variables))

  return start


@pytest.mark.slow
def test_a_job_that_is_stopped_is_queued_again_and_goes_on(submitted, finished, tmp_path):
  run, requeued = tmp_path / "runs" / "a", tmp_path / "requeued"
  metrics = run / "metrics.jsonl"
  with submitted() as job:
    wait_for(lambda: metrics.exists() and metrics.stat().st_size, process=job)
    tasks = (tmp_path / "tasks").read_text().split()
    assert len(tasks) == 2
    for task in tasks:
      os.kill(int(task), signal.SIGTERM)
    _, errors = job.communicate(timeout=240)
  assert job.returncode == 0, errors[-2000:]
  assert requeued.read_text().startswith("requeue ")
  assert saved_steps(run)
  assert not (run / "result.json").exists()
  requeued.unlink()
  with submitted() as job:
    _, errors = job.communicate(timeout=240)
  assert job.returncode == 0, errors[-2000:]
  assert (run / "result.json").exists()
  assert not requeued.exists()
  found, wanted = losses(run), losses(finished)
  assert found.keys() == wanted.keys()
  assert found == pytest.approx(wanted, rel=2e-6)
