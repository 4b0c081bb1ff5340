"""Timings of our own: a training step or an evaluation, as the trainer runs them. Prints one JSON object.

python benchmarks/measure.py step --pairs FILE_pairs.tsv --dim 64 --batch 128
python benchmarks/measure.py eval --pairs FILE_pairs.tsv --dim 64
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import tempfile
import time

import jax

from mlrec.config import default_config
from mlrec.config import validate
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.runs.workdir import Workdir
from mlrec.train.loop import TrainingRun


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("what", choices=["step", "eval"])
  parser.add_argument("--pairs", required=True)
  parser.add_argument("--dim", type=int, default=64)
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--steps_per_dispatch", type=int, default=8)
  parser.add_argument("--seconds", type=float, default=8.0, help="how long to measure")
  arguments = parser.parse_args()
  config = default_config()
  config.model.dim = arguments.dim
  config.model.user = {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": arguments.dropout}
  config.train.batch_size = arguments.batch
  config.train.steps_per_dispatch = arguments.steps_per_dispatch
  split = leave_one_out(read_pairs(arguments.pairs))
  with tempfile.TemporaryDirectory() as workdir:
    run = TrainingRun(validate(config), split, Workdir(pathlib.Path(workdir)).files)
    run.plan()
    run.prepare()
    figures = (step_figures if arguments.what == "step" else eval_figures)(run, arguments.seconds)
  figures |= {
    "what": arguments.what, "dim": arguments.dim, "batch": arguments.batch, "items": split.num_items,
    "jax": jax.__version__, "devices": jax.device_count(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }  # fmt: skip
  print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))


def step_figures(run: TrainingRun, seconds: float) -> dict:
  """Medians over groups of steps, batches being built and sent meanwhile as in training; the first group compiles.

  `step_ms` is the computation alone, `whole_ms` from a step to the next, with what its batch is waited for.
  """
  state = run.spec.create()
  times, whole, losses, end, last = [], [], None, None, time.perf_counter()
  for count, batches in run.groups(0, run.steps_per_epoch):
    begin = time.perf_counter()
    state, losses = run.train_steps(state, batches, count)
    losses.block_until_ready()
    now = time.perf_counter()
    times.append((now - begin) / count)
    whole.append((now - last) / count)
    last = now
    end = end or now + seconds
    if now > end:
      break
  step = statistics.median(times[1:])
  return {
    "step_ms": step * 1e3, "whole_ms": statistics.median(whole[1:]) * 1e3,
    "users_per_s": run.config.train.batch_size / step, "groups": len(times) - 1,
  }  # fmt: skip


def eval_figures(run: TrainingRun, seconds: float) -> dict:
  """Median over whole evaluations of the validation split; the first compiles."""
  state = run.spec.create()
  times, start = [], time.perf_counter()
  while time.perf_counter() - start < seconds or len(times) < 3:
    begin = time.perf_counter()
    metrics = run.evaluator(state.params, state.rest, "valid")
    times.append(time.perf_counter() - begin)
  whole = statistics.median(times[1:])
  return {"seconds": whole, "users_per_s": run.split.num_users / whole, "hr10": metrics["hr@10"]}


if __name__ == "__main__":
  main()
