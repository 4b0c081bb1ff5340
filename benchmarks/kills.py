"""A run that is killed at random moments, twenty times, ends with the bits of one that was not; kept in results/.

  python benchmarks/kills.py [--kills 20] [--seed 0]

The unbroken run is timed first. Each following process gets SIGKILL after a tenth to a half of the time that a whole
run takes, be it while it imports, compiles, trains, validates or saves; then the same command goes on until it ends. A
run that ends before all kills are spent is compared, and another begins. Runs are of a drawn log, and save every few
steps.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from compare import RESULTS
import numpy as np

from mlrec import files

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LOG = ("--users=4000", "--items=1500", "--interactions=40_000")
_OPTIONS = (
  "--config.train.epochs=40", "--config.model.dim=32", "--config.train.batch_size=64", "--config.log.every_steps=1",
  "--config.checkpoint.every_steps=16", "--config.train.patience=0", "--config.log.tensorboard=False",
)  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  arguments = parser.parse_args()
  moments = random.Random(arguments.seed)
  with tempfile.TemporaryDirectory() as folder:
    pairs, whole = pathlib.Path(folder, "Drawn_pairs.tsv"), pathlib.Path(folder, "whole")
    subprocess.run([sys.executable, "-m", "mlrec.data.synthetic", *_LOG, f"--to={pairs}"], check=True, cwd=_ROOT)
    start = time.monotonic()
    _run(pairs, whole).wait()
    seconds = time.monotonic() - start
    runs: list[list[int]] = []
    equal = []
    while (left := arguments.kills - sum(map(len, runs))) or len(equal) < len(runs):
      broken = pathlib.Path(folder, f"broken_{len(equal)}")
      if len(equal) == len(runs):
        runs.append([])
      process = _run(pairs, broken)
      try:
        process.wait(moments.uniform(0.1, 0.45) * seconds if left else None)
      except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        runs[-1].append(max(_steps(broken), default=0))
        print(f"killed, last checkpoint {runs[-1][-1]}", flush=True)
        continue
      if process.returncode:
        sys.exit(f"the run ended with status {process.returncode}")
      equal.append(_arrays(whole) == _arrays(broken) and _figures(whole) == _figures(broken))
      print(f"ended, {'as' if equal[-1] else 'not as'} the unbroken one", flush=True)
    found = {
      "kills": sum(map(len, runs)), "last_checkpoints": runs, "steps": max(_steps(whole)), "equal": all(equal),
    }  # fmt: skip
  print(json.dumps(found))
  RESULTS.mkdir(exist_ok=True)
  files.write_json(RESULTS / "kills.json", found)
  sys.exit(not found["equal"])


def _run(pairs: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen:
  command = [
    sys.executable, "-m", "mlrec.main", "--config=configs/50k/sasrec_small.py", f"--config.data.source={pairs}",
    f"--workdir={workdir}", *_OPTIONS,
  ]  # fmt: skip
  return subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _steps(workdir: pathlib.Path) -> list[int]:
  folder = workdir / "checkpoints"
  return [int(name) for name in os.listdir(folder) if name.isdecimal()] if folder.is_dir() else []


def _arrays(workdir: pathlib.Path) -> dict[str, bytes]:
  """The bytes of all arrays of the last checkpoint, parameters and the optimiser's."""
  import orbax.checkpoint as ocp

  found = {}
  for item in ("model", "training"):
    path = (workdir / "checkpoints" / str(max(_steps(workdir))) / item).absolute()
    with ocp.PyTreeCheckpointer() as reader:
      found |= {f"{item}.{name}": np.asarray(array).tobytes() for name, array in reader.restore(path).items()}
  return found


def _figures(workdir: pathlib.Path) -> list:
  """Losses and metrics by step, and the final metrics: not times."""
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  result = json.loads((workdir / "result.json").read_text())
  return [lines, result["valid"], result["test"]]


if __name__ == "__main__":
  main()
