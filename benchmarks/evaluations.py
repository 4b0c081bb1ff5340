"""Full-ranking evaluation of each recommender on MicroLens-50k: users a second and memory, kept in results/.

  python benchmarks/evaluations.py --pairs FILE_pairs.tsv configs/50k/*.py

Parameters are those of a random start, which cost as much as others. Each config has a process of its own, whose peak
memory is then its own.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from compare import RESULTS

RESULT = "evaluations.json"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("configs", type=pathlib.Path, nargs="+")
  parser.add_argument("--pairs", required=True)
  parser.add_argument("--alone", action="store_true", help="measure the one config, and print its figures")
  arguments = parser.parse_args()
  if arguments.alone:
    print(json.dumps(figures(arguments.configs[0], arguments.pairs)))
    return
  rows = []
  for config in arguments.configs:
    command = [sys.executable, __file__, str(config), "--pairs", arguments.pairs, "--alone"]
    rows.append(
      json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    )
    print(json.dumps(rows[-1]), flush=True)
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / RESULT).write_text(json.dumps({"cores": len(os.sched_getaffinity(0)), "rows": rows}, indent=2) + "\n")


def figures(path: pathlib.Path, pairs: str) -> dict:
  """Seconds of one evaluation of all users after one that compiles, and what memory it adds to the process's peak."""
  from mlrec import machine
  from mlrec.config import validate
  from mlrec.data import leave_one_out
  from mlrec.data import read_pairs
  from mlrec.models.registry import models
  from mlrec.models.registry import RECOMMENDER
  from mlrec.runs import fitted
  from mlrec.runs.workdir import Workdir
  from mlrec.train.loop import TrainingRun
  from mlrec.train.model_builder import ModelBuilder

  spec = importlib.util.spec_from_file_location("measured", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.data.source = pairs
  config = validate(config)
  split = leave_one_out(read_pairs(pairs))
  if models.get(config.model.name, kind=RECOMMENDER).fitted:
    model = ModelBuilder(config, split).create_fitted()
    model.fit(split.train)
    evaluate = lambda: fitted.evaluate(model, split, "valid")  # noqa: E731
  else:
    run = TrainingRun(config, split, Workdir(pathlib.Path(tempfile.mkdtemp())).files)
    run.plan()
    run.prepare()
    state = run.spec.create()
    evaluate = lambda: run.evaluator(state.params, state.rest, "valid")  # noqa: E731
  before = machine.peak_memory()["peak_memory_mib"]
  evaluate()
  peak = machine.peak_memory()["peak_memory_mib"]
  wall, cpu = time.perf_counter(), machine.cpu_seconds()
  evaluate()
  wall, cpu = time.perf_counter() - wall, machine.cpu_seconds() - cpu
  return {
    "config": path.stem, "model": config.model.name, "dim": config.model.get("dim", 0), "users": split.num_users,
    "items": split.num_items, "seconds": round(wall, 2), "cpu_seconds": round(cpu, 2),
    "users_per_s": round(split.num_users / wall), "peak_mib": peak, "added_mib": round(peak - before, 1),
  }  # fmt: skip


if __name__ == "__main__":
  main()
