"""A training run under way: its state and record, what it has logged, and what it saves."""

from collections.abc import Callable
import dataclasses
import math
import time
from types import TracebackType
from typing import NoReturn
from typing import Self

import jax
from ml_collections import ConfigDict
import numpy as np

from mlrec import machine
from mlrec.train.checkpoint import Checkpoints
from mlrec.train.progress import MetricWriter
from mlrec.train.progress import Progress
from mlrec.train.record import Record
from mlrec.train.run_files import RunFiles
from mlrec.train.state import TrainState
from mlrec.train.stop import Interrupted
from mlrec.train.stop import StopSignal
from mlrec.train.summary import headline

# Groups of steps that may be under way on the devices before their losses are looked at.
_GROUPS_IN_FLIGHT = 2


class TrainingDiverged(RuntimeError):
  """The loss is not finite; the message names the step, the last good checkpoint and what to try."""


class Clock:
  """Wall and CPU time of this process since the clock was made."""

  def __init__(self) -> None:
    self._start, self._cpu_start = time.monotonic(), machine.cpu_seconds()

  @property
  def seconds(self) -> float:
    return time.monotonic() - self._start

  @property
  def cpu_seconds(self) -> float:
    return machine.cpu_seconds() - self._cpu_start

  def added_to(self, record: Record) -> Record:
    """A record, with this process's time added to that of earlier ones."""
    return dataclasses.replace(
      record, seconds=record.seconds + self.seconds, cpu_seconds=record.cpu_seconds + self.cpu_seconds
    )


class Session:
  """What training moves on from step to step, and keeps; to be used as a context.

  Attributes:
    state: the latest.
    record: what checkpoints say beside it.
    step: steps taken.
    checkpoints: of the run.
  """

  def __init__(
    self,
    config: ConfigDict,
    files: RunFiles,
    state: TrainState,
    record: Record,
    checkpoints: Checkpoints,
    stop: StopSignal,
    clock: Clock,
    *,
    steps_per_epoch: int,
    monitor: str = "",
    counted: str = "users",
    kept: Callable[[TrainState], TrainState] = lambda state: state,
  ):
    """Keeps what the run has.

    Args:
      config: of the run.
      files: where metrics go.
      state: to go on from.
      record: what was saved with it.
      checkpoints: of the run.
      stop: asked whether to stop.
      clock: of this process.
      steps_per_epoch: of the run.
      monitor: the metric that the best parameters are chosen by; empty for `config.train.monitor`.
      counted: what a batch has `config.train.batch_size` of.
      kept: what checkpoints have of a state.
    """
    self._kept = kept
    self._monitor, self._counted = monitor or config.train.monitor, counted
    self._config, self._files, self._stop, self._clock = config, files, stop, clock
    self._steps_per_epoch, self.total_steps = steps_per_epoch, config.train.epochs * steps_per_epoch
    self.state, self.record, self.checkpoints = state, record, checkpoints
    self.step = int(state.step)

  def __enter__(self) -> Self:
    primary = jax.process_index() == 0
    self._progress = Progress(
      total=self.total_steps, done=self.step, users_per_step=self._config.train.batch_size, counted=self._counted,
      enabled=primary,
    )  # fmt: skip
    if self.step and not self.done:
      self._progress.message(f"resumed at step {self.step} of {self.total_steps}")
    self._writer = MetricWriter(self._files, step=self.step, config=self._config, enabled=primary)
    self._waiting: list[tuple[int, int, jax.Array]] = []
    self._last_count = 0
    self._losses, self._steps = self.record.losses, self.record.steps
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    self._writer.close()

  @property
  def done(self) -> bool:
    """Whether all epochs are done, or patience has run out."""
    return self.step >= self.total_steps or self.record.stopped

  @property
  def epoch(self) -> int:
    """The epoch under way, from 0."""
    return self.step // self._steps_per_epoch

  def took(self, state: TrainState, count: int, losses: jax.Array) -> None:
    """Notes a group of `count` steps, and looks at the losses of groups before it.

    Raises:
      TrainingDiverged: a loss is not finite.
    """
    self._waiting.append((self.step, count, losses))
    self._last_count = count
    self.state, self.step = state, self.step + count
    while len(self._waiting) > _GROUPS_IN_FLIGHT:
      self._look()

  def passed(self, every: int) -> bool:
    """Whether the last group passed a multiple of `every` steps; never for 0."""
    return bool(every) and self.step // every > (self.step - self._last_count) // every

  def end_group(self, *, save: bool) -> None:
    """Within an epoch, saves where that is due or where asked to stop.

    Raises:
      Interrupted: asked to stop; the state is saved.
    """
    stopping = self._stop.agreed()
    if stopping or save:
      self.flush()
      self.save()
      if stopping and not self.done:
        self._interrupt()

  def end_epoch(self) -> None:
    """Saves, and stops if asked to and if there is more to do.

    Raises:
      Interrupted: as said.
    """
    self.save()
    if not self.done and self._stop.agreed():
      self._interrupt()

  def validated(self, metrics: dict[str, float], seconds: float) -> None:
    """Judges a validation of the state, which took so long."""
    train = self._config.train
    self.record = self.record.judged(self.step, metrics[self._monitor], patience=train.patience)
    self._progress.pause(seconds)
    best = self.record.best_step == self.step
    epoch, rest = divmod(self.step, self._steps_per_epoch)
    when = f"step {self.step}" if rest else f"epoch {epoch}"
    self._progress.message(_line(when, self._mean_loss(), metrics, best))
    self._writer.write(self.step, "valid", metrics)

  def not_validated(self) -> None:
    """Tells of an epoch that has just ended, where the split has nothing to validate on."""
    epoch = math.ceil(self.step / self._steps_per_epoch)
    self._progress.message(f"epoch {epoch} · mean loss {self._mean_loss():.4f}")

  def save(self) -> None:
    record = dataclasses.replace(self.record, losses=self._losses, steps=self._steps)
    self.checkpoints.save(self._kept(self.state), self._clock.added_to(record))

  def flush(self) -> None:
    """Looks at all losses that are under way."""
    while self._waiting:
      self._look()

  def diverged(self, what: str) -> TrainingDiverged:
    """The error that says when the run was last good, and what to try."""
    self.checkpoints.wait()
    good = self.checkpoints.steps()
    last = f"the last good checkpoint is of step {good[-1]}" if good else "no checkpoint had been written"
    return TrainingDiverged(
      f"{what}; {last}. Try a lower config.optimizer.lr, a few hundred config.optimizer.warmup_steps or a lower "
      "config.optimizer.clip_norm, in another --workdir"
    )

  def _interrupt(self) -> NoReturn:
    self.checkpoints.wait()
    raise Interrupted(f"stopped at step {self.step}; the state is saved: run the same command to resume")

  def _look(self) -> None:
    """Takes in the losses of the oldest group, waiting for them."""
    first, count, values = self._waiting.pop(0)
    losses = np.asarray(values)[:count]
    if not np.isfinite(losses).all():
      step = first + int(np.argmin(np.isfinite(losses))) + 1
      raise self.diverged(f"the loss of step {step} is {losses[step - first - 1]}")
    self._losses, self._steps = self._losses + float(losses.sum(dtype=np.float64)), self._steps + count
    for n in range(first + 1, first + count + 1):
      if n % self._config.log.every_steps == 0:
        self._writer.write(n, "train", {"loss": float(losses[n - first - 1])})
    self._progress.update(first + count, first // self._steps_per_epoch + 1, float(losses[-1]))

  def _mean_loss(self) -> float:
    """Mean loss of the steps since the last call, those before an interruption included."""
    mean = self._losses / self._steps if self._steps else math.nan
    self._losses, self._steps = 0.0, 0
    return mean


def _line(when: str, loss: float, metrics: dict[str, float], best: bool) -> str:
  # Of what is neither ranked nor judged all that was measured is told.
  shown = headline(metrics) or metrics
  figures = " · ".join(f"{name} {metrics[name]:.4f}" for name in shown)
  return f"{when} · mean loss {loss:.4f} · valid {figures}{' · best' if best else ''}"
