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
from mlrec.train.loop import Run


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
    run = Run(validate(config), split, pathlib.Path(workdir))
    figures = (step_figures if arguments.what == "step" else eval_figures)(run, arguments.seconds)
  figures |= {
    "what": arguments.what, "dim": arguments.dim, "batch": arguments.batch, "items": split.num_items,
    "jax": jax.__version__, "devices": jax.device_count(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }  # fmt: skip
  print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))


def step_figures(run: Run, seconds: float) -> dict:
  """Median over groups of steps, batches being built and sent meanwhile as in training; the first group compiles."""
  state = run.spec.create()
  times, losses, end = [], None, None
  for _, count, batches in run.prefetched(0, run.steps_per_epoch):
    begin = time.perf_counter()
    state, losses = run.train_steps(state, batches, count)
    losses.block_until_ready()
    times.append((time.perf_counter() - begin) / count)
    end = end or time.perf_counter() + seconds
    if time.perf_counter() > end:
      break
  step = statistics.median(times[1:])
  return {"step_ms": step * 1e3, "users_per_s": run.config.train.batch_size / step, "groups": len(times) - 1}


def eval_figures(run: Run, seconds: float) -> dict:
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
