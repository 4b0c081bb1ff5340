"""The one loop for everything: train, validate, keep the best, test, resume."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import errno
import math
import pathlib
import signal
import threading
import time
from typing import Any
from typing import NoReturn

from flax import nnx
import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.data import examples
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.data.examples import InteractionBatches
from mlrec.data.splits import Split
from mlrec.train import contents
from mlrec.train import memory
from mlrec.train import pretrained
from mlrec.train import usage
from mlrec.train import warm_start
from mlrec.train.checkpoint import CheckpointError
from mlrec.train.checkpoint import Checkpoints
from mlrec.train.evaluator import Evaluator
from mlrec.train.facts import Facts
from mlrec.train.optimizer import make_optimizer
from mlrec.train.outcome import Outcome
from mlrec.train.outcome import SPLITS
from mlrec.train.prefetch import ahead
from mlrec.train.sharding import make_mesh
from mlrec.train.sharding import put
from mlrec.train.sharding import put_content
from mlrec.train.state import make_train_steps
from mlrec.train.state import state_spec
from mlrec.train.state import StateSpec
from mlrec.train.state import TrainState
from mlrec.train.writers import MetricWriter
from mlrec.train.writers import Progress

# Width of packed rows that serves most: wide enough to fill well, narrow enough for cheap attention.
_ROW_WIDTH = 16
# Groups of steps that may be under way on the devices before their losses are looked at.
_GROUPS_IN_FLIGHT = 2


class TrainingDiverged(RuntimeError):
  """The loss is not finite; the message names the step, the last good checkpoint and what to try."""


class Interrupted(RuntimeError):
  """The run was asked to stop (SIGTERM, SIGINT), has saved its state, and can be continued."""


class Run:
  """A run's data, model, compiled functions and workdir; `train` and `evaluate` are what it is for."""

  def __init__(self, config: ConfigDict, split: Split, workdir: pathlib.Path, *, splits: Sequence[str] = SPLITS):
    """Plans everything by shapes; no parameter exists yet.

    Args:
      config: validated.
      split: the data.
      workdir: where checkpoints and metrics go.
      splits: what the best parameters are evaluated on at the end; others are not looked at.
    """
    self.config, self.split, self.workdir, self._splits = config, split, workdir, splits
    self._start, self._cpu_start = time.monotonic(), usage.cpu_seconds()
    self.mesh = make_mesh()
    self._facts = Facts(config, split)
    self.spec, self._optimizer, layout, self._batches = _plan(config, split, self._facts, self.mesh)
    model = nnx.merge(self.spec.graphdef, self.spec.abstract.params, self.spec.abstract.rest)
    self._content = contents.open_content(config, split, model)
    self.evaluator = Evaluator(
      self.spec.graphdef, split, layout, self.mesh, config.eval.batch_size, config.eval.chunk,
      self._content, config.eval.item_batch, config.eval.buckets,
    )  # fmt: skip
    self.train_steps = make_train_steps(
      self.spec, self._optimizer, self.mesh, seed=config.seed, ema_decay=config.train.ema_decay
    )

  @property
  def fingerprint(self) -> str:
    """Of all that is read: interactions, and content where there is any."""
    parts = [self.split.fingerprint, *self._facts.fingerprints]
    if self._content is not None:
      parts.append(self._content.fingerprint)
    return "-".join(parts)

  @property
  def steps_per_epoch(self) -> int:
    return self._batches.steps_per_epoch

  @property
  def total_steps(self) -> int:
    return self.config.train.epochs * self.steps_per_epoch

  def train(self, stop: "StopSignal", *, started: Callable[[], None] = lambda: None) -> Outcome:
    """Trains, or goes on training, until the epochs are done or patience is out; then evaluates the best parameters.

    Args:
      stop: asked between groups of steps.
      started: called once it is clear that the run can start or go on, before anything else is written.

    Raises:
      TrainingDiverged: a loss or a score is not finite.
      Interrupted: `stop` was set; the state has been saved.
    """
    checkpoints = Checkpoints(self.workdir / "checkpoints")
    with contextlib.closing(checkpoints):
      state, record = self._restore_or_create(checkpoints)
      started()
      state, record = self._train_epochs(state, record, checkpoints, stop)
      checkpoints.wait()
      return self._finish(checkpoints, record)

  def evaluate(self) -> Outcome:
    """Evaluates the best parameters saved in the workdir, without training.

    Raises:
      CheckpointError: the workdir holds no checkpoint.
    """
    directory = self.workdir / "checkpoints"
    if not directory.is_dir():
      raise CheckpointError(f"{directory}: there are no checkpoints to evaluate")
    with contextlib.closing(Checkpoints(directory, read_only=True)) as checkpoints:
      record = checkpoints.latest_record()
      self._check_data(record)
      return self._finish(checkpoints, record)

  def _restore_or_create(self, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
    restored = checkpoints.restore_latest(self.spec.abstract)
    if restored:
      state, record = restored
      self._check_data(record)
      return state, record | {"stopped": self._out_of_patience(record["stale"])}
    state = self.spec.create()
    memory.trim()
    state = pretrained.load(self.spec, state)
    if self.config.init_from:
      state = warm_start.load(self.config.init_from, self.spec, state)
    return state, {
      "data": self.fingerprint,
      "best_step": None,
      "best": None,
      "stale": 0,
      "stopped": False,
      "seconds": 0.0,
    }

  def _check_data(self, record: dict[str, Any]) -> None:
    if record["data"] != self.fingerprint:
      raise ConfigError(
        f"{self.workdir}: its run read other data (fingerprint {record['data']}, now {self.fingerprint}); "
        "name another --workdir"
      )

  def _train_epochs(self, state, record, checkpoints, stop) -> tuple[TrainState, dict[str, Any]]:
    train, primary = self.config.train, jax.process_index() == 0
    epoch_steps, step = self.steps_per_epoch, int(state.step)
    progress = Progress(total=self.total_steps, done=step, users_per_step=train.batch_size, enabled=primary)
    writer = MetricWriter(self.workdir, step=step, tensorboard=self.config.log.tensorboard, enabled=primary)
    losses = _Losses(progress, writer, epoch_steps, self.config.log.every_steps)
    with contextlib.closing(writer):
      while step < self.total_steps and not record["stopped"]:
        epoch = step // epoch_steps
        end = min((epoch + 1) * epoch_steps, self.total_steps)
        state = self._train_epoch(state, step, end, losses, record, checkpoints, stop)
        step = end
        losses.flush(checkpoints)
        memory.trim()
        if (epoch + 1) % self.config.eval.every_epochs == 0 or step == self.total_steps:
          start = time.monotonic()
          metrics = self._validated(state, step, checkpoints)
          record = self._judge(record, step, metrics)
          progress.pause(time.monotonic() - start)
          progress.message(_epoch_line(epoch + 1, losses.epoch_mean(), metrics, record["best_step"] == step))
          writer.write(step, "valid", metrics)
        self._save(checkpoints, state, record)
        if step < self.total_steps and not record["stopped"] and stop.agreed():
          self._interrupt(step, checkpoints)
    return state, record

  def _train_epoch(self, state, step, end, losses, record, checkpoints, stop) -> TrainState:
    every = self.config.checkpoint.every_steps
    for first, count, batches in self.prefetched(step, end):
      state, values = self.train_steps(state, batches, count)
      if first == step:
        memory.trim()  # the step may just have been compiled
      losses.add(first, count, values)
      losses.look(checkpoints)
      done = first + count
      if done == end:
        break
      stopping = stop.agreed()
      if stopping or (every and done // every > first // every):
        losses.flush(checkpoints)
        self._save(checkpoints, state, record)
        if stopping:
          self._interrupt(done, checkpoints)
    return state

  def _interrupt(self, step: int, checkpoints: Checkpoints) -> NoReturn:
    checkpoints.wait()
    raise Interrupted(f"stopped at step {step}; the state is saved: run the same command to go on")

  def _save(self, checkpoints: Checkpoints, state: TrainState, record: dict[str, Any]) -> None:
    record = record | self._used(record)
    checkpoints.save(state, record, best_step=record["best_step"])

  def _used(self, record: dict[str, Any]) -> dict[str, float]:
    """Wall and CPU time up to now, over all continuations."""
    return {
      "seconds": record["seconds"] + time.monotonic() - self._start,
      # Checkpoints of older versions have none.
      "cpu_seconds": record.get("cpu_seconds", 0.0) + usage.cpu_seconds() - self._cpu_start,
    }

  def prefetched(self, step: int, end: int) -> Iterator[tuple[int, int, Any]]:
    """Groups of batches on the devices, made a little ahead by another thread.

    A group ends where a multiple of its size from the epoch's start does, so that a run that was interrupted repeats
    the same groups.
    """
    size = self.config.train.steps_per_dispatch
    epoch_start = step - step % self.steps_per_epoch

    def make(first: int) -> tuple[int, int, Any]:
      count = min(size - (first - epoch_start) % size, end - first)
      stacked = self._batches.stack(first, count, size)
      batches = put(self.mesh, stacked, axis=1)
      if self._content is not None:
        batches = batches._replace(content=put_content(self.mesh, self._content, stacked.items))
      return first, count, batches

    return ahead(make, [step, *range(epoch_start + (step - epoch_start) // size * size + size, end, size)])

  def _validated(self, state: TrainState, step: int, checkpoints: Checkpoints) -> dict[str, float]:
    try:
      return self.evaluator(state.eval_params, state.rest, "valid")
    except ValueError as error:
      raise TrainingDiverged(f"after step {step} {error}; {_advice(checkpoints)}") from error

  def _judge(self, record: dict[str, Any], step: int, metrics: dict[str, float]) -> dict[str, Any]:
    monitor = self.config.train.monitor
    better = record["best"] is None or metrics[monitor] > record["best"]
    stale = 0 if better else record["stale"] + 1
    return record | {
      "best": metrics[monitor] if better else record["best"],
      "best_step": step if better else record["best_step"],
      "stale": stale,
      "stopped": self._out_of_patience(stale),
    }

  def _out_of_patience(self, stale: int) -> bool:
    patience = self.config.train.patience
    return bool(patience) and stale >= patience

  def _finish(self, checkpoints: Checkpoints, record: dict[str, Any]) -> Outcome:
    best = record["best_step"]
    if best is None:
      best = checkpoints.steps()[-1]
    try:
      params, rest = checkpoints.restore_model(best, self.spec.abstract)
    except Exception as error:
      raise CheckpointError(f"{self.workdir}: the best checkpoint, of step {best}, cannot be read: {error}") from error
    metrics = {name: self.evaluator(params, rest, name) for name in self._splits}
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.spec.abstract.params))
    return Outcome(
      metrics, best, math.ceil(best / self.steps_per_epoch), parameters=parameters, **self._used(record)
    )  # fmt: skip


def _plan(config: ConfigDict, split: Split, facts: Facts, mesh) -> tuple[StateSpec, Any, Layout, Any]:
  """The state's shapes, the optimiser, how histories are laid out, and the stream of batches."""

  def make_model(rngs: nnx.Rngs) -> nnx.Module:
    return facts.create(rngs=rngs)

  steps = examples.steps_per_epoch(split, facts.recommender.examples, config.train.batch_size)
  optimizer = make_optimizer(config.optimizer, config.train.epochs * steps)
  spec = state_spec(make_model, optimizer, mesh, seed=config.seed, averaged=config.train.ema_decay > 0)
  model = nnx.merge(spec.graphdef, spec.abstract.params, spec.abstract.rest)
  width = config.train.row_width or max(_ROW_WIDTH, split.max_length)
  layout = Layout.of(split.max_length, packed=not model.reads_padding, width=width)
  shared: dict[str, Any] = {
    "batch_size": config.train.batch_size,
    "seed": config.seed,
    "negatives": model.negatives,
    "popularity_power": config.loss.popularity_power,
    "multiple_of": mesh.size,
  }
  if config.loss.negative_groups > 1 and (model.examples == examples.INTERACTIONS or model.negatives):
    why = "draws its negatives" if model.negatives else "is trained on interactions, not on users"
    raise ConfigError(f"config.loss.negative_groups = {config.loss.negative_groups}: {config.model.name} {why}; give 1")
  if model.examples == examples.INTERACTIONS:
    return spec, optimizer, layout, InteractionBatches(split, inputs=model.reads_inputs, **shared)
  return spec, optimizer, layout, TrainBatches(split, layout, negative_groups=config.loss.negative_groups, **shared)


class _Losses:
  """Losses on their way from the devices: looked at a little later, logged at fixed steps, never NaN in silence."""

  def __init__(self, progress: Progress, writer: MetricWriter, epoch_steps: int, every: int):
    self._progress, self._writer, self._epoch_steps, self._every = progress, writer, epoch_steps, every
    self._waiting: list[tuple[int, int, jax.Array]] = []
    self._epoch: list[np.ndarray] = []

  def add(self, first: int, count: int, values: jax.Array) -> None:
    self._waiting.append((first, count, values))

  def look(self, checkpoints: Checkpoints) -> None:
    """Takes in the losses that are old enough to be there without waiting."""
    while len(self._waiting) > _GROUPS_IN_FLIGHT:
      self._take(checkpoints)

  def flush(self, checkpoints: Checkpoints) -> None:
    while self._waiting:
      self._take(checkpoints)

  def epoch_mean(self) -> float:
    """Mean loss since the last call."""
    values, self._epoch = self._epoch, []
    return float(np.mean(np.concatenate(values))) if values else math.nan

  def _take(self, checkpoints: Checkpoints) -> None:
    first, count, values = self._waiting.pop(0)
    losses = np.asarray(values)[:count]
    if not np.isfinite(losses).all():
      step = first + int(np.argmin(np.isfinite(losses))) + 1
      raise TrainingDiverged(f"the loss of step {step} is {losses[step - first - 1]}; {_advice(checkpoints)}")
    self._epoch.append(losses)
    for n in range(first + 1, first + count + 1):
      if n % self._every == 0:
        self._writer.write(n, "train", {"loss": float(losses[n - first - 1])})
    self._progress.update(first + count, first // self._epoch_steps + 1, float(losses[-1]))


def _advice(checkpoints: Checkpoints) -> str:
  """Where a run that has diverged was last good, and what to try."""
  checkpoints.wait()
  good = checkpoints.steps()
  last = f"the last good checkpoint is of step {good[-1]}" if good else "no checkpoint had been written"
  return (
    f"{last}. Try a lower config.optimizer.lr, a few hundred config.optimizer.warmup_steps or a lower "
    "config.optimizer.clip_norm, in another --workdir"
  )


def _epoch_line(epoch: int, loss: float, metrics: dict[str, float], best: bool) -> str:
  figures = " · ".join(f"{name} {metrics[name]:.4f}" for name in ("hr@10", "ndcg@10", "hr@20", "ndcg@20"))
  return f"epoch {epoch} · mean loss {loss:.4f} · valid {figures}{' · best' if best else ''}"


class StopSignal:
  """Set by SIGTERM or SIGINT while active; asked between groups of steps, the same answer on every process."""

  def __init__(self):
    self._set = threading.Event()
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> "StopSignal":
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *unused) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: Any) -> None:
    del frame
    if self._set.is_set() and number == signal.SIGINT:
      raise KeyboardInterrupt  # asked twice: do not wait for the group under way
    self._set.set()

  def agreed(self) -> bool:
    """Whether any process was asked to stop."""
    if jax.process_count() == 1:
      return self._set.is_set()
    return bool(multihost_utils.process_allgather(np.array(self._set.is_set())).any())


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an error, or one that it came from, says that the disk is full."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
      return True
    if any(words in str(error).lower() for words in ("no space left", "disk quota exceeded")):
      return True
    error = error.__cause__ or error.__context__
  return False
