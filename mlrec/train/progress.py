"""What training writes and prints: a line of metrics a step, TensorBoard events, progress."""

from collections.abc import Mapping
import json
import sys
import time
from typing import IO

from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec import files
from mlrec import terminal
from mlrec.files import finite
from mlrec.train.run_files import RunFiles
from mlrec.train.writers import opened
from mlrec.train.writers import Run
from mlrec.train.writers import Writer

_PLAIN_SECONDS = 10.0


class MetricWriter:
  """`metrics.jsonl` of a workdir, in which each step and split stands once, and what else takes metrics.

  On resuming at `step`, lines of later steps are dropped: they will be written again.
  """

  def __init__(self, run_files: RunFiles, *, step: int, config: ConfigDict, enabled: bool = True):
    """Opens all that `config.log` asks for; where it is not `enabled` (on all processes but the first) nothing.

    Raises:
      ConfigError: one cannot be opened.
    """
    self._path = run_files.metrics
    self._file: IO[str] | None = None
    self._writers: list[Writer] = []
    if not enabled:
      return
    self._keep_up_to(step)
    self._file = self._path.open("a", encoding="utf-8")
    self._writers = opened(Run(run_files.events, step, config_lib.to_json(config)), config.log)

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    if not self._file:
      return
    self._file.write(json.dumps({"step": step, "split": split, **finite(metrics)}, allow_nan=False) + "\n")
    self._file.flush()
    for writer in self._writers:
      writer.write(step, split, metrics)

  def close(self) -> None:
    for one in (self._file, *self._writers):
      if one:
        one.close()

  def _keep_up_to(self, step: int) -> None:
    if not self._path.exists():
      return
    kept = []
    for line in self._path.read_bytes().splitlines():
      try:
        text = line.decode()
        whole = json.loads(text)["step"] <= step
      except (ValueError, KeyError, TypeError):
        whole = False  # damaged, or cut off when the run was killed
      if whole:
        kept.append(text + "\n")
    files.write_text(self._path, "".join(kept))


class Progress:
  """Rate, loss and time left: one line that renews itself on a terminal, a plain line now and then elsewhere."""

  def __init__(self, *, total: int, done: int, users_per_step: int, counted: str = "users", enabled: bool = True):
    """Starts the clock; `users_per_step` counts what is `counted`."""
    self._total, self._first, self._users, self._counted = total, done, users_per_step, counted
    self._enabled = enabled
    self._live = enabled and sys.stderr.isatty()
    self._start = self._printed = time.monotonic()
    self._paused = 0.0
    self._width = 0
    self._updated = False

  def update(self, step: int, epoch: int, loss: float) -> None:
    """Shows the state after `step`, of which `loss` is the latest known."""
    now = time.monotonic()
    if not self._updated:
      # Up to here, programs were compiled.
      self._updated, self._first, self._paused = True, step, 0.0
      self._start = self._printed = now
      return
    if not self._enabled or now - self._printed < (0.2 if self._live else _PLAIN_SECONDS):
      return
    self._printed = now
    rate = (step - self._first) / max(now - self._start - self._paused, 1e-9)
    left = _clock((self._total - step) / rate) if rate > 0 else "?"
    share = f"{100 * step / self._total:.0f} %"
    self._show(
      f"epoch {epoch} · step {step}/{self._total} ({share}) · loss {loss:.4f} · "
      f"{rate:.1f} steps/s, {rate * self._users:,.0f} {self._counted}/s · {left} left"
    )

  def pause(self, seconds: float) -> None:
    """Leaves time spent on something else (validation) out of the rate."""
    self._paused += seconds

  def message(self, text: str) -> None:
    """Prints a line that stays."""
    if not self._enabled:
      return
    if self._live and self._width:
      terminal.write("\r" + " " * self._width + "\r", sys.stderr)
      self._width = 0
    terminal.tell(text)

  def _show(self, text: str) -> None:
    if self._live:
      terminal.write("\r" + text.ljust(self._width), sys.stderr)
      self._width = len(text)
    else:
      terminal.tell(text)


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
