"""What a log of any size costs on one machine: its split, a host batch, training and evaluation; kept in results/.

  python -m mlrec.data.synthetic --users=34_492_051 --items=1_142_528 --interactions=1_006_528_709 --to=FULL_pairs.tsv
  python benchmarks/large_log.py --pairs FULL_pairs.tsv --folder DIR --interactions 998_859_020

Each part has a process of its own, whose peak memory is then its own: `anonymous` is what it allocated, `peak` counts
pages of mapped files, too, which the system takes back when it needs them. Parameters are counted apart: a table and
AdamW's two moments, and what a step holds of them.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time

from compare import RESULTS
import numpy as np

_PARTS = ("split", "open", "batches", "train", "save", "evaluate")
_STEPS, _USERS, _BATCHES = 200, 4096, 2000
# Of the part `save`: the width, and the steps before, while and after a checkpoint is written.
_WIDE, _SPAN = 128, 240


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--pairs", required=True)
  parser.add_argument("--folder", required=True, help="where the split is kept")
  parser.add_argument("--interactions", type=int, required=True, help="how many the log has")
  parser.add_argument("--table", default="adamw", help="config.optimizer.item_tables")
  parser.add_argument("--name", help="of the file in results/ that keeps the figures, such as large_log; else none")
  parser.add_argument("--part", choices=_PARTS, help="measure one part, and print its figures")
  arguments = parser.parse_args()
  if arguments.part:
    with _Memory() as memory:
      found = globals()[f"_{arguments.part}"](arguments)
    print(json.dumps(found | memory.figures()))
    return
  found = {"cores": len(os.sched_getaffinity(0)), "interactions": arguments.interactions}
  for part in _PARTS:
    command = [sys.executable, __file__, *sys.argv[1:], "--part", part]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    found[part] = json.loads(lines[-1])
    print(part, json.dumps(found[part]), flush=True)
  if not arguments.name:
    return
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / f"{arguments.name}.json").write_text(json.dumps(found, indent=2) + "\n")


class _Memory:
  """Looks at what the process holds, ten times a second."""

  def __enter__(self):
    self._anonymous, self._done = 0, threading.Event()
    self._thread = threading.Thread(target=self._look, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._done.set()
    self._thread.join()

  def _look(self):
    while not self._done.wait(0.1):
      with open("/proc/self/status", encoding="ascii") as file:
        held = next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))
      self._anonymous = max(self._anonymous, held)

  def figures(self):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"anonymous_mib": round(self._anonymous / 1024), "peak_mib": round(peak / 1024)}


def _config(arguments):
  from mlrec.config import default_config
  from mlrec.config import validate

  config = default_config()
  config.model.dim = 64
  config.train.batch_size = 128
  config.data.source, config.data.splits_dir = arguments.pairs, arguments.folder
  if arguments.table != "adamw":
    config.optimizer.item_tables = arguments.table
  config.eval.users = _USERS
  return validate(config)


def _loaded(arguments):
  from mlrec.data import protocols
  from mlrec.sources import load_split

  data = _config(arguments).data
  return load_split(
    data.source, "", protocols.parse(data.split), max_length=data.max_length, min_length=data.min_length, in_memory=0,
    folder=data.splits_dir,
  )  # fmt: skip


def _split(arguments):
  """The log read, and its split made."""
  wall, cpu = time.perf_counter(), time.process_time()
  split = _loaded(arguments)
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  sizes = {"users": split.num_users, "items": split.num_items, "kept": int(split.rows.offsets[-1])}
  millions = arguments.interactions / 1e6
  return sizes | {"seconds": wall, "cpu_seconds": cpu, "cpu_seconds_a_million": cpu / millions}


def _open(arguments):
  """The split found and compared with its digest."""
  wall, cpu = time.perf_counter(), time.process_time()
  _loaded(arguments)
  return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def _batches(arguments):
  """Host batches, one after another."""
  from mlrec.data.batches import Layout
  from mlrec.data.batches import TrainBatches

  split = _loaded(arguments)
  batches = TrainBatches(split, Layout.of(10, packed=True), batch_size=128, seed=0)
  taken = []
  for step in range(_BATCHES):
    start = time.perf_counter()
    batches.batch(step)
    taken.append(1e3 * (time.perf_counter() - start))
  return {"median_ms": float(np.median(taken)), "mean_ms": float(np.mean(taken)), "largest_ms": max(taken)}


def _run(arguments, dim=64):
  from mlrec.runs.workdir import Workdir
  from mlrec.train.loop import TrainingRun

  config = _config(arguments)
  config.model.dim = dim
  split = _loaded(arguments).sampling(_USERS)
  run = TrainingRun(config, split, Workdir(pathlib.Path(tempfile.mkdtemp(dir=arguments.folder))).files)
  run.plan()
  run.prepare()
  return run, run.spec.create()


def _train(arguments):
  """From the start of the process to the first step, and steps after it."""
  import jax

  start = time.perf_counter()
  run, state = _run(arguments)
  size = run.config.train.steps_per_dispatch
  first, taken = None, []
  parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  at = time.perf_counter()
  for count, batches in run.groups(0, _STEPS):
    state, losses = run.train_steps(state, batches, count)
    jax.block_until_ready(losses)
    now = time.perf_counter()
    first = first or now - start
    taken.append(1e3 * (now - at) / size)
    at = now
  state_mib = round(parameters / (1 << 20))
  return {"first_step_s": first, "median_step_ms": float(np.median(taken[2:])), "state_mib": state_mib}


def _save(arguments):
  """What an asynchronous checkpoint costs steps: how long it holds them up, and how much longer they take beside it."""
  import jax

  from mlrec.train.checkpoint import Checkpoints
  from mlrec.train.record import Record

  run, state = _run(arguments, _WIDE)
  nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  groups = run.groups(0, 3 * _SPAN)

  def steps(number):
    nonlocal state
    start, done = time.perf_counter(), 0
    while done < number:
      count, batches = next(groups)
      state, losses = run.train_steps(state, batches, count)
      jax.block_until_ready(losses)
      done += count
    return time.perf_counter() - start, done

  with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
    checkpoints = Checkpoints(pathlib.Path(folder))
    # The first compiles, and has files and threads made.
    steps(2 * run.config.train.steps_per_dispatch)
    checkpoints.save(state, Record("", "", {}))
    checkpoints.wait()
    before, number = steps(_SPAN)
    start = time.perf_counter()
    checkpoints.save(state, Record("", "", {}))
    held_up = time.perf_counter() - start
    during, _ = steps(number)
    waited = time.perf_counter()
    checkpoints.wait()
    waited = time.perf_counter() - waited
    checkpoints.close()
  return {
    "state_mib": nbytes >> 20, "step_ms": 1e3 * before / number, "held_up_s": held_up,
    "steps_beside_it_s": during - before, "still_written_s": waited,
    "steps_for_5_percent": round((held_up + during - before) / (0.05 * before / number)),
  }  # fmt: skip


def _evaluate(arguments):
  """A sample of users ranked among all items, after a compilation."""
  run, state = _run(arguments)
  run.evaluator.ranks(state.params, state.rest, "valid")
  wall, cpu = time.perf_counter(), time.process_time()
  run.evaluator.ranks(state.params, state.rest, "valid")
  wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
  return {"users_a_second": _USERS / wall, "users_a_cpu_second": _USERS / cpu, "seconds": wall}


if __name__ == "__main__":
  main()
