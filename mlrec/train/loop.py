"""The one loop for everything: train, validate, keep the best, test, resume."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import math
import pathlib
import time
from typing import Any
from typing import NamedTuple

from absl import logging
from flax import nnx
import jax
from ml_collections import ConfigDict
import optax

from mlrec import compiled
from mlrec import config as config_lib
from mlrec import machine
from mlrec import sharding_rules
from mlrec import terminal
from mlrec.config import ADAMW
from mlrec.config import ConfigError
from mlrec.content.base import Content
from mlrec.content.base import Source
from mlrec.data.batches import Layout
from mlrec.data.id_map import IdMap
from mlrec.data.impressions import Impressions
from mlrec.data.interaction_batches import steps_per_epoch
from mlrec.data.pipeline import ahead
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import Split
from mlrec.data.splits import VALID
from mlrec.data.static_shapes import round_up
from mlrec.metrics import ScoresNotFinite
from mlrec.models.recommenders.recommender import Recommender
from mlrec.train import pretrained
from mlrec.train import warm_start
from mlrec.train.batch_stream import Groups
from mlrec.train.batch_stream import placed
from mlrec.train.batch_stream import train_batches
from mlrec.train.checkpoint import CheckpointError
from mlrec.train.checkpoint import Checkpoints
from mlrec.train.checkpoint import OtherModelError
from mlrec.train.evaluator import Evaluator
from mlrec.train.impression_evaluator import ImpressionEvaluator
from mlrec.train.impression_evaluator import impressions_of
from mlrec.train.item_content import open_content
from mlrec.train.item_content import reading_options
from mlrec.train.lazy_tables import LazyTables
from mlrec.train.model_builder import ModelBuilder
from mlrec.train.optimizer import make_optimizer
from mlrec.train.profile import Profile
from mlrec.train.record import Record
from mlrec.train.run_files import RunFiles
from mlrec.train.session import Clock
from mlrec.train.session import Session
from mlrec.train.sharding import make_mesh
from mlrec.train.sharding import Shares
from mlrec.train.state import average_decay
from mlrec.train.state import make_settle
from mlrec.train.state import make_train_steps
from mlrec.train.state import state_spec
from mlrec.train.state import StateSpec
from mlrec.train.state import TrainState
from mlrec.train.stop import StopSignal
from mlrec.train.summary import Summary

# A state counts its steps in an int32.
_MOST_STEPS = 2**31 - 1


class Best(NamedTuple):
  """The parameters that a run is worth.

  Attributes:
    params: trained.
    rest: the model's other variables.
    step: when they were saved.
    data: fingerprint of all that the run read.
  """

  params: Any
  rest: Any
  step: int
  data: str


class TrainingRun:
  """A run of a recommender that learns by gradients: `plan`, `prepare`, then `train` or `evaluate`."""

  def __init__(
    self,
    config: ConfigDict,
    split: Split,
    files: RunFiles,
    *,
    splits: Sequence[str] = EVALUATED,
    warm_start: RunFiles | pathlib.Path | None = None,
    sources: Mapping[str, Source] = {},
    profile: tuple[int, int] | None = None,
  ):
    """Keeps what the run is of; nothing is computed or read.

    Args:
      config: validated.
      split: the data.
      files: where checkpoints and metrics go.
      splits: what the best parameters are evaluated on at the end; others are not looked at.
      warm_start: another run, or a file, whose parameters training starts from.
      sources: content that is open already, by its name, in place of what the config names.
      profile: the steps that are traced, as of `Profile`.
    """
    self._profile = Profile(files.events, profile)
    self.config, self.split, self._files, self._splits = config, split, files, splits
    self._warm_start, self._sources = warm_start, sources
    self._clock, self._ids = Clock(), IdMap.of(split)
    self._validated: tuple[int | None, Any] = None, None

  def plan(self, devices: Sequence[jax.Device] | None = None, *, training: bool = True) -> None:
    """Plans everything by shapes; no parameter exists yet, and no content is read.

    Args:
      devices: that the run would have; all there are by default. Devices that are described only, as those of
        `jax.experimental.topologies` are, serve to compile for.
      training: whether the run is to train or to evaluate; where its parameters alone are wanted, no batch is planned.

    Raises:
      ConfigError, OptionError, ValueError: an option is wrong; the message names it.
      DataError: what the model asks of the data cannot be had.
    """
    if devices is None:
      compiled.keep(self.config.compiled_mib)
    # What is only to be used serves on other devices than those that it was trained on.
    self.mesh = make_mesh(devices, self.config.sharding.model if training else 1)
    self._builder = ModelBuilder(self.config, self.split)
    # What is only to be used learns and is judged no more, and what it was is not kept.
    self.impressions: Impressions | None = None
    if training:
      self.impressions = impressions_of(self.config, self.split, self._builder.recommender.batches_of)
    number = len(self.impressions.train) if self.impressions is not None else None
    self.spec, self._optimizer, self._layout = _plan(self.config, self.split, self._builder, self.mesh, number)
    self.content: Content | None = None
    if training:
      self.batches = train_batches(
        self.config, self.split, self._layout, self.abstract_model(), self.mesh, self.impressions
      )
      _tell_of_folded(self.config, self.split, self.abstract_model())

  def prepare(self, stop: StopSignal | None = None) -> None:
    """Opens the content that the model reads, and computes vectors of frozen encoders that are not kept yet.

    Raises:
      ConfigError, DataError: content cannot be had.
      Interrupted: `stop` was set; what is computed is kept.
    """
    config = self.config
    model = self.abstract_model()
    interrupt = stop.check if stop else lambda: None
    self.content = open_content(config.data, self.split, model, sources=self._sources, interrupt=interrupt)

  @functools.cached_property
  def evaluator(self) -> Evaluator:
    """Of the planned run, with the content that is open."""
    config = self.config
    arguments = (
      self.spec.graphdef, self.split, self._layout, self.mesh, config.eval.batch_size, config.eval.chunk,
      self.content, config.eval.item_batch, config.eval.buckets, config.data.workers,
    )  # fmt: skip
    if self.impressions is not None:
      return ImpressionEvaluator(*arguments, impressions=self.impressions)
    return Evaluator(*arguments)

  @functools.cached_property
  def train_steps(self) -> Callable[[TrainState, Any, int], tuple[TrainState, jax.Array]]:
    """Of the planned run, as `make_train_steps` compiles it."""
    return make_train_steps(
      self.spec, self._optimizer, self.mesh, seed=self.config.seed, ema_decay=self.config.train.ema_decay
    )

  @functools.cached_property
  def settle(self) -> Callable[..., Any]:
    """Of the planned run, as of `make_settle`."""
    return make_settle(self.spec)

  def abstract_model(self) -> Recommender:
    """The recommender, of shapes alone."""
    return nnx.merge(self.spec.graphdef, self.spec.abstract.params, self.spec.abstract.rest)

  @property
  def fingerprint(self) -> str:
    """Of all that is read, once the run is prepared: interactions, and content where there is any."""
    parts = [self.split.fingerprint, *self._builder.fingerprints]
    if self.split.impressions is not None:
      parts.append(self.split.impressions.fingerprint)
    if self.content is not None:
      parts.append(self.content.fingerprint)
    return "-".join(parts)

  @property
  def trace(self) -> pathlib.Path | None:
    """The folder of the trace of training steps; None where there is none."""
    return self._profile.folder

  @property
  def steps_per_epoch(self) -> int:
    return self.config.train.steps_per_epoch or self.batches.steps_per_epoch

  def train(self, stop: StopSignal, *, started: Callable[[], None] = lambda: None) -> Summary:
    """Trains, or resumes, until the epochs are done or patience is out; then evaluates the best parameters.

    Where the split has nothing to validate on, the last parameters are the best.

    Args:
      stop: asked between groups of steps.
      started: called once it is clear that the run can start or be resumed, before anything of it is written.

    Raises:
      TrainingDiverged: a loss or a score is not finite.
      Interrupted: `stop` was set; the state has been saved.
      ConfigError: as of `check_devices`.
      CheckpointError: checkpoints cannot be read.
    """
    self.check_devices()
    with contextlib.closing(Checkpoints(self._files.checkpoints)) as checkpoints:
      state, record = self._restore_or_create(checkpoints)
      started()
      if jax.process_index() == 0:
        self._files.keep(self.split)
      state = self.spec.lines.laid(state)
      session = Session(
        self.config, self._files, state, record, checkpoints, stop, self._clock, steps_per_epoch=self.steps_per_epoch,
        kept=self.spec.lines.taken,
      )  # fmt: skip
      with session, self._profile:
        while not session.done:
          self._train_epoch(session)
      checkpoints.wait()
      return self._finish(checkpoints, session.record)

  def check_devices(self) -> None:
    """Raises a ConfigError where training cannot be shared among the devices of the planned run."""
    parts, devices = self.config.train.parts, self.mesh.size
    if parts > 1 and parts % devices:
      raise ConfigError(
        f"config.train.parts = {parts} must be a multiple of the {devices} devices: train on as many as divide it, or, "
        f"in another --workdir, in {round_up(parts, devices)} parts"
      )

  def evaluate(self, step: int | None = None) -> Summary:
    """Evaluates parameters saved in the workdir, without training: the best, or those of a `step`.

    Raises:
      CheckpointError: there is none, or it cannot be read.
      ConfigError: there is none of this step.
    """
    if not self._files.checkpoints.is_dir():
      raise CheckpointError(f"{self._files.checkpoints}: there are no checkpoints to evaluate")
    with contextlib.closing(Checkpoints(self._files.checkpoints, read_only=True)) as checkpoints:
      if step is not None and step not in checkpoints.steps():
        raise ConfigError(
          f"--step={step}: there is no checkpoint of this step in {self._files.checkpoints}; there are "
          f"{checkpoints.steps()}"
        )
      # Which parameters are the best the latest says.
      record = checkpoints.latest_record(or_earlier=step is not None)
      self._check_data(record)
      if step is not None:
        record = dataclasses.replace(record, best_step=step)
      return self._finish(checkpoints, record)

  def best(self) -> Best:
    """The best parameters saved in the workdir; the run is planned.

    Raises:
      CheckpointError: there is no checkpoint, or it cannot be read.
      ConfigError: it is of other users or items.
    """
    if not self._files.checkpoints.is_dir():
      raise CheckpointError(f"{self._files.checkpoints}: there are no checkpoints: the run has not been trained")
    with contextlib.closing(Checkpoints(self._files.checkpoints, read_only=True)) as checkpoints:
      record = checkpoints.latest_record()
      if record.ids != self._ids.digest:
        raise ConfigError(f"{self._files.checkpoints}: they are of other users or items than {self._files.ids.name}")
      if different := config_lib.differences(record.config, config_lib.to_json(self.config)):
        lines = "\n  ".join(different)
        raise ConfigError(f"{self._files.checkpoints}: they are of another config than is given:\n  {lines}")
      step = checkpoints.best_step(record)
      return Best(*self._restore_model(checkpoints, step), step, record.data)

  def groups(self, step: int, end: int) -> Iterator[tuple[int, Any]]:
    """Numbers of steps, and their stacked batches on the devices, made ahead.

    A group ends where a multiple of its size from the epoch's start does, so that a run that was interrupted repeats
    the same groups, and where a validation or a save is due.
    """
    size, config = self.config.train.steps_per_dispatch, self.config
    epoch_start = step - step % self.steps_per_epoch
    ends = {end, *range(epoch_start + (step - epoch_start) // size * size + size, end, size)}
    for every in (config.eval.every_steps, config.checkpoint.every_steps):
      if every:
        ends |= set(range(step // every * every + every, end, every))
    make = Groups(self.batches, [step, *sorted(ends)], size, self.content, Shares.of(self.mesh), config.train.parts)
    place = functools.partial(placed, self.mesh, config.train.parts)
    return ahead(make, len(ends), place, **reading_options(self.content, self.config.data.workers))

  def _restore_or_create(self, checkpoints: Checkpoints) -> tuple[TrainState, Record]:
    try:
      restored = checkpoints.restore_latest(self.spec.abstract)
    except CheckpointError as error:
      if isinstance(error.__cause__, OtherModelError):
        # Other data have other items, and tables of other sizes.
        self._check_data(checkpoints.latest_record())
      raise
    if restored:
      state, record = restored
      self._check_data(record)
      if int(state.step) > (asked := self.config.train.epochs * self.steps_per_epoch):
        raise ConfigError(
          f"config.train.epochs = {self.config.train.epochs} are {asked} steps, and the run in "
          f"{self._files.checkpoints.parent} has taken {int(state.step)}: ask for as many epochs as it had, or "
          "more, or name another --workdir"
        )
      patience = self.config.train.patience
      # Patience may have been changed.
      return state, dataclasses.replace(record, stopped=bool(patience) and record.stale >= patience)
    state = self.spec.create()
    machine.trim_memory()
    state = pretrained.load(self.spec, state)
    if self._warm_start is not None:
      state = warm_start.load(self._warm_start, self.spec, state, self._ids)
    return state, Record(self.fingerprint, self._ids.digest, config_lib.to_json(self.config))

  def _check_data(self, record: Record) -> None:
    if record.data != self.fingerprint:
      raise ConfigError(
        f"{self._files.checkpoints.parent}: its run read other data (fingerprint {record.data}, now "
        f"{self.fingerprint}); name another --workdir"
      )

  def _train_epoch(self, session: Session) -> None:
    """Trains up to the end of the epoch under way, validates where there is anything to validate on, and saves."""
    epoch, end = session.epoch, min((session.epoch + 1) * self.steps_per_epoch, session.total_steps)
    first = session.step
    for count, batches in self.groups(session.step, end):
      compiling = session.step == first
      self._profile.before(session.step, count)
      state, losses = self.train_steps(session.state, batches, count)
      self._profile.after(session.step + count, losses)
      if compiling:
        machine.trim_memory()
      session.took(state, count, losses)
      if session.step < end:
        due = session.passed(self.config.eval.every_steps) and VALID in self.split.cuts.targets
        if due:
          session.state = self.settle(session.state)
          self._validate(session)
        session.end_group(save=due or session.passed(self.config.checkpoint.every_steps))
        if session.done:
          return
    session.flush()
    session.state = self.settle(session.state)
    machine.trim_memory()
    if VALID not in self.split.cuts.targets:
      session.not_validated()
    elif (epoch + 1) % self.config.eval.every_epochs == 0 or end == session.total_steps:
      self._validate(session)
    session.end_epoch()

  def _validate(self, session: Session) -> None:
    session.flush()
    start = time.monotonic()
    try:
      found = self.evaluator.found(self.spec.lines.taken(session.state.eval_params), session.state.rest, VALID)
    except ScoresNotFinite as error:
      raise session.diverged(f"after step {session.step} {error}") from error
    session.validated(self.evaluator.figures(found, VALID), time.monotonic() - start)
    if session.record.best_step == session.step:
      self._validated = session.step, found

  def _finish(self, checkpoints: Checkpoints, record: Record) -> Summary:
    best = checkpoints.best_step(record)
    params, rest = self._restore_model(checkpoints, best)
    found = {
      # What training has found of these parameters is not computed again.
      name: self._validated[1]
      if (name, best) == (VALID, self._validated[0])
      else self.evaluator.found(params, rest, name)
      for name in self._splits
    }
    metrics = {name: self.evaluator.figures(one, name) for name, one in found.items()}
    used = self._clock.added_to(record)
    return Summary(
      metrics, best, math.ceil(best / self.steps_per_epoch), used.seconds, used.cpu_seconds, self.spec.parameters,
      found,
    )  # fmt: skip

  def _restore_model(self, checkpoints: Checkpoints, step: int) -> tuple[Any, Any]:
    try:
      return checkpoints.restore_model(step, self.spec.abstract)
    except OtherModelError as error:
      raise checkpoints.of_another_model(step, error) from error
    except Exception as error:  # Orbax raises anything
      reason = terminal.shortened(str(error), 300)
      raise CheckpointError(
        f"{self._files.checkpoints}: the best checkpoint, of step {step}, cannot be read ({reason}); "
        f"{self._left(checkpoints)}"
      ) from error

  def _left(self, checkpoints: Checkpoints) -> str:
    readable = checkpoints.readable_models(self.spec.abstract)
    if not readable:
      return "no other checkpoint can be read"
    return f"readable are those of steps {readable}: --evaluate_only --step=N evaluates one of them"


def _tell_of_folded(config: ConfigDict, split: Split, model: Recommender) -> None:
  """Warns where a model with rows of users is evaluated on users that training does not see."""
  if not model.by_user:
    return
  for name in split.cuts.targets:
    users = split.evaluated(name)
    if unseen := int((~split.trained[users]).sum()):
      logging.warning(
        "Training sees nothing of %d of %d users for %s: config.model.name = %r, which has a row for each user that it "
        "trains on, ranks for them by the mean of their histories' items, as mlrec.recommend does.",
        unseen, len(users), name, config.model.name,
      )  # fmt: skip


def _plan(
  config: ConfigDict, split: Split, builder: ModelBuilder, mesh: jax.sharding.Mesh, impressions: int | None
) -> tuple[StateSpec, optax.GradientTransformationExtraArgs, Layout]:
  """The state's shapes, the optimiser, and how histories are laid out; of so many `impressions`, if it is of those."""

  def make_model(rngs: nnx.Rngs) -> nnx.Module:
    return builder.create(rngs=rngs)

  steps = config.train.steps_per_epoch
  if not steps:
    steps = steps_per_epoch(split, builder.recommender.batches_of, config.train.batch_size)
    if impressions is not None:
      steps = -(-impressions // config.train.batch_size)
  if config.train.epochs * steps > _MOST_STEPS:
    raise ConfigError(
      f"config.train.epochs = {config.train.epochs} of {steps} steps must be {_MOST_STEPS:,} steps in all at the most: "
      f"name {_MOST_STEPS // steps} or fewer"
    )
  optimizer = make_optimizer(config.optimizer, config.train.epochs * steps)
  averaged = config.train.ema_decay > 0
  lazy = None
  if config.optimizer.item_tables != ADAMW:
    decay = functools.partial(average_decay, config.train.ema_decay)
    lazy = LazyTables(config.optimizer, config.train.epochs * steps, steps_per_epoch=steps, average_decay=decay)
  rules = sharding_rules.parse(config.sharding.rules)
  spec = state_spec(make_model, optimizer, mesh, seed=config.seed, rules=rules, averaged=averaged, lazy=lazy)
  if lazy and spec.abstract.clock is None:
    raise ConfigError(
      f"config.optimizer.item_tables = {config.optimizer.item_tables!r}: {config.model.name} has no table of which a "
      f"step reads the rows of its batch alone; give {ADAMW!r}"
    )
  model: Any = nnx.merge(spec.graphdef, spec.abstract.params, spec.abstract.rest)
  if lazy and model.scores_all_items:
    raise ConfigError(
      f"config.optimizer.item_tables = {config.optimizer.item_tables!r}: {config.model.name} scores all items in each "
      f"step, so that the gradient has all rows; give {ADAMW!r}"
    )
  return spec, optimizer, Layout.of(split.max_length, packed=not model.reads_padding)
