"""Experiments small enough to run by the dozen, and what can be read from the workdirs they leave."""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from mlrec.train.stop import Interrupted
from mlrec.train.stop import StopSignal

ROOT = pathlib.Path(__file__).resolve().parents[2]

USERS, ITEMS = 310, 100
# What makes any sequential experiment take a second or two: ten steps an epoch, the last of them of fewer users.
STEPS_PER_EPOCH = 10
TINY = {
  "model.dim": 8,
  "optimizer.lr": 3e-3,
  "train.epochs": 3,
  "train.batch_size": 32,
  "train.steps_per_dispatch": 4,
  "train.patience": 0,
  "eval.batch_size": 512,
  "eval.chunk": 512,
  "log.every_steps": 1,
  "log.tensorboard": False,
}
SASREC = {"name": "sasrec", "heads": 2, "blocks": 1, "dropout": 0.2}


class StopAt(StopSignal):
  """Sends this process SIGTERM when a run looks for the n-th time whether it should stop; looks count over all runs."""

  def __init__(self, *looks: int):
    super().__init__()
    self._count, self._looks = 0, looks

  def agreed(self) -> bool:
    self._count += 1
    if self._count in self._looks:
      if threading.current_thread() is threading.main_thread():
        os.kill(os.getpid(), signal.SIGTERM)
      else:
        self.set()  # no signal reaches a run outside the main thread
    return super().agreed()


def run_to_the_end(run_tiny, workdir: pathlib.Path, *, stop: StopAt, stops: int, **overrides: Any) -> None:
  """Runs until it has been stopped so often, and then once more to the end."""
  for _ in range(stops):
    with pytest.raises(Interrupted, match="the state is saved") as stopped:
      run_tiny(workdir, stop=stop, **overrides)
    assert not (workdir / "result.json").exists()
    assert f"stopped at step {saved_steps(workdir)[-1]};" in str(stopped.value)
  run_tiny(workdir, stop=stop, **overrides)


def histories(users: int = USERS, items: int = ITEMS, *, seed: int = 0) -> list[list[int]]:
  """Histories of 5 to 14 items, none twice, in which one item mostly leads to the next; small ids are popular."""
  rng = np.random.default_rng(seed)
  popularity = 1 / np.arange(1, items + 1)
  out = []
  for _ in range(users):
    length = int(rng.integers(5, 15))
    row: list[int] = []
    while len(row) < length:
      follows = row and rng.random() < 0.8
      item = row[-1] % items + 1 if follows else int(rng.choice(items, p=popularity / popularity.sum())) + 1
      if item not in row:
        row.append(item)
      elif follows:
        row.append(int(rng.choice([free for free in range(1, items + 1) if free not in row])))
    out.append(row)
  return out


def write_pairs(path: pathlib.Path, rows: list[list[int]]) -> pathlib.Path:
  lines = (f"{user}\t{' '.join(map(str, row))}\r\n" for user, row in enumerate(rows, start=1))
  path.write_text("".join(lines), newline="")
  return path


def environment(*, devices: int = 1, **variables: str) -> dict[str, str]:
  """Variables for a command on `devices` CPU devices."""
  flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
  if devices > 1:
    # Programs compiled under other flags are other ones: commands on one device share those of this process.
    flags.append(f"--xla_force_host_platform_device_count={devices}")
  paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
  return {**os.environ, "XLA_FLAGS": " ".join(flags), "PYTHONPATH": os.pathsep.join(paths), **variables}


def tiny_settings(source: pathlib.Path | str, **overrides: Any) -> dict[str, Any]:
  """What `tiny_arguments` sets, by key."""
  user = {f"model.user.{key}": value for key, value in SASREC.items()}
  return {**TINY, "data.source": str(source), **user, **overrides}


def tiny_arguments(source: pathlib.Path | str, workdir: pathlib.Path | str, **overrides: Any) -> list[str]:
  """The command line that makes `configs/id_sasrec.py` the same experiment as the fixture `tiny_config` makes."""
  flags = [f"--config.{key}={value}" for key, value in tiny_settings(source, **overrides).items()]
  return [f"--config={ROOT / 'configs' / 'id_sasrec.py'}", f"--workdir={workdir}", *flags]


def main_command(*arguments: Any) -> list[str]:
  return [sys.executable, "-m", "mlrec.main", *map(str, arguments)]


@contextlib.contextmanager
def started(arguments: list[str], **options: Any) -> Iterator[subprocess.Popen]:
  """A process that is killed, if it still runs, when the test is over."""
  process = subprocess.Popen(
    arguments, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **{"env": environment(), **options}
  )
  try:
    yield process
  finally:
    if process.poll() is None:
      process.send_signal(signal.SIGKILL)
    process.communicate()


def wait_for(condition, *, process: subprocess.Popen | None = None, seconds: float = 120.0) -> None:
  """Returns once `condition()` holds; fails if the process ends first."""
  end = time.monotonic() + seconds
  while not condition():
    if process is not None and process.poll() is not None and not condition():
      raise AssertionError(f"the process ended with {process.returncode} first: {process.communicate()[1][-2000:]}")
    assert time.monotonic() < end, "waited in vain"
    time.sleep(0.005)


def read_json(path: pathlib.Path) -> Any:
  """A JSON file without NaN."""

  def refuse(constant: str):
    raise AssertionError(f"{constant} in {path}")

  return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def metric_lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of `metrics.jsonl`; each is JSON without NaN, and whole."""
  text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
  assert text.endswith("\n")
  assert "NaN" not in text
  assert "Infinity" not in text
  return [json.loads(line) for line in text.splitlines()]


def losses(workdir: pathlib.Path) -> dict[int, float]:
  """The logged training losses by step."""
  return {line["step"]: line["loss"] for line in metric_lines(workdir) if line["split"] == "train"}


def saved_steps(workdir: pathlib.Path) -> list[int]:
  folder = workdir / "checkpoints"
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def saved_arrays(workdir: pathlib.Path, step: int | None = None) -> dict[str, np.ndarray]:
  """All arrays of the latest checkpoint (or that of `step`), by name, read without mlrec."""
  import jax
  import orbax.checkpoint as ocp

  step = saved_steps(workdir)[-1] if step is None else step
  arrays = {}
  with ocp.PyTreeCheckpointer() as checkpointer:
    for item in ("model", "training"):
      folder = (workdir / "checkpoints" / str(step) / item).absolute()
      names = checkpointer.metadata(folder).item_metadata.tree
      restored = checkpointer.restore(
        folder,
        args=ocp.args.PyTreeRestore(
          restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names)
        ),
      )
      arrays |= {f"{item}/{name}": np.asarray(value) for name, value in restored.items()}
  return arrays


def assert_same_arrays(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
  """Bit for bit."""
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    assert found[name].dtype == array.dtype, name
    assert found[name].tobytes() == array.tobytes(), name


def assert_same_run(actual: pathlib.Path, expected: pathlib.Path) -> None:
  """Two finished workdirs hold the same run: last checkpoint bit for bit, lines of metrics, result."""
  assert saved_steps(actual)[-1] == saved_steps(expected)[-1]
  assert_same_arrays(saved_arrays(actual), saved_arrays(expected))
  assert metric_lines(actual) == metric_lines(expected)
  results = [read_json(workdir / "result.json") for workdir in (actual, expected)]
  for result in results:
    for used in ("seconds", "cpu_seconds", "peak_memory_mib", "peak_device_memory_mib"):
      result.pop(used, None)
  assert results[0] == results[1]
