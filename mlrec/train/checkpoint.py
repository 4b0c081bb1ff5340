"""Checkpoints: asynchronous, atomic, with the best of the run kept beside the latest."""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import errno
import importlib
import logging as std_logging
import pathlib
import shutil
import sys
import time
import types
from typing import Any
from typing import NamedTuple
import zlib

from absl import logging
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mlrec import files
from mlrec import machine
from mlrec.models.layers import variables
from mlrec.train.checksum import checksum
from mlrec.train.checksum import earlier_checksum
from mlrec.train.record import Record
from mlrec.train.sharding import is_filled_up
from mlrec.train.sharding import replicated
from mlrec.train.state import TrainState

_LATEST_KEPT = 2
# What evaluation needs, what only a continuation needs, and JSON.
_MODEL, _TRAINING, _RECORD = "model", "training", "record"
# Keys of the JSON: checksums of the arrays, as they are now and as earlier versions had them, and of everything else.
_ARRAYS, _EARLIER, _ITSELF = "checksums", "digests", "digest"
# The steps that rows of item tables are of, by `_by_name`.
_CLOCK = "clock.current"
# What asyncio says of errors that nobody has asked for.
_NEVER_RETRIEVED = ("Task exception was never retrieved", "Future exception was never retrieved")
# What there was in place of `_hook`, once.
_hooks: list[Any] = []


class CheckpointError(ValueError):
  """No checkpoint can be restored; the message says what was tried."""


class OtherModelError(ValueError):
  """A checkpoint is whole, and of another model than is asked for; the message names the first difference."""


class Restored(NamedTuple):
  """A state and the record saved with it."""

  state: TrainState
  record: Record


class Checkpoints:
  """The checkpoints of one run: the latest two, and the best."""

  def __init__(self, directory: pathlib.Path, *, read_only: bool = False):
    """Opens the directory, which is made where it is missing and not `read_only`."""
    self._directory = pathlib.Path(directory).absolute()
    self._policy = _LatestAndBest()
    self._read_only = read_only
    self._open()

  def _open(self) -> None:
    _have_waits_measured()
    _tell_one_error_of_many()
    # That it is opened for reading alone is what was asked for.
    with _unwarned() if self._read_only else contextlib.nullcontext():
      self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=self._policy,
          create=not self._read_only,
          read_only=self._read_only,
          cleanup_tmp_directories=not self._read_only,
        ),
        item_names=(_MODEL, _TRAINING, _RECORD),
      )

  def steps(self) -> list[int]:
    """Steps of whole checkpoints, ascending."""
    return sorted(self._manager.all_steps())

  def best_step(self, record: Record) -> int:
    """The step of the best checkpoint by a record; the latest where nothing was validated yet."""
    return self.steps()[-1] if record.best_step is None else record.best_step

  def save(self, state: TrainState, record: Record) -> None:
    """Starts to save; returns once the arrays are copied. The checkpoint of `record.best_step` is kept as the best."""
    step = int(state.step)
    self._check_room(state)
    self._policy.best_step = record.best_step
    arrays = {name: ocp.args.StandardSave(_by_name(tree)) for name, tree in _trees(state).items()}
    said = record.to_json() | {_ARRAYS: {name: checksum(_by_name(tree)) for name, tree in _trees(state).items()}}
    said |= {_ITSELF: _digest_of_json(said)}
    arguments = ocp.args.Composite(**arrays, **{_RECORD: ocp.args.JsonSave(said)})
    self._manager.save(step, args=arguments, force=True)

  def _check_room(self, state: TrainState) -> None:
    """Refuses what would not fit: a writer that runs out of space midway fails in many places at once."""
    shards = (shard for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards)
    needed = sum(shard.data.nbytes for shard in shards if shard.replica_id == 0)
    free = shutil.disk_usage(self._directory).free
    if free < needed:
      raise OSError(
        errno.ENOSPC, f"a checkpoint of {needed >> 20:,} MiB, and {free >> 20:,} MiB are free", str(self._directory)
      )

  def wait(self) -> None:
    """Returns when everything is on disk; raises what went wrong while writing."""
    self._manager.wait_until_finished()

  def restore_latest(self, abstract: TrainState) -> Restored | None:
    """The latest checkpoint that can be read; None where there are none.

    A checkpoint that cannot be read is reported and set aside, and the one before it is tried.

    Raises:
      CheckpointError: there are checkpoints, and none can be read, or they are of another model.
    """
    steps = self.steps()
    for place, step in enumerate(reversed(steps)):
      try:
        restored = self.restore(step, abstract)
        # Only where an older one serves are the unreadable ones moved: else they are all there is.
        for unreadable in steps[len(steps) - place :]:
          self._set_aside(unreadable)
        return restored
      except OtherModelError as error:
        raise self.of_another_model(step, error) from error
      except Exception as error:
        self._report_unreadable(step, error)
    if steps:
      raise CheckpointError(f"none of the checkpoints in {self._directory} (steps {steps}) can be read")
    return None

  def restore(self, step: int, abstract: TrainState) -> Restored:
    """The whole state saved at `step`."""
    saved = self._read(step, _trees(abstract), variables.row_owners(abstract.params))
    model, training = saved[_MODEL], saved[_TRAINING]
    averaged = abstract.average is not None
    state = TrainState(
      step=training["step"],
      params=training["params"] if averaged else model["params"],
      rest=model["rest"],
      opt_state=training["opt_state"],
      average=model["params"] if averaged else None,
      clock=training.get("clock"),
    )
    return Restored(state, Record.from_json(saved[_RECORD]))

  def restore_model(self, step: int, abstract: TrainState) -> tuple[Any, Any]:
    """The parameters to evaluate, and the model's other variables, saved at `step`."""
    trees = {_MODEL: _trees(abstract)[_MODEL]}
    model = self._read(step, trees, variables.row_owners(abstract.params))[_MODEL]
    return model["params"], model["rest"]

  def model_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays that `restore_model` reads, by name, as they were saved at `step`."""
    return self._shapes(step, _MODEL)

  def of_another_model(self, step: int, error: OtherModelError) -> CheckpointError:
    """What to say of the checkpoint of `step`."""
    return CheckpointError(
      f"{self._directory}: the checkpoint of step {step} is of another model than the run's config makes here "
      f"({error}); it may be of another version of mlrec: train again, in another --workdir"
    )

  def _shapes(self, step: int, item: str) -> dict[str, tuple[int, ...]]:
    # Of the folder of an item alone: a checkpointer warns that it is no whole checkpoint.
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
      saved = handler.metadata(self._directory / str(step) / item).tree
    return {name: tuple(leaf.shape) for name, leaf in saved.items()}

  def latest_record(self, *, or_earlier: bool = True) -> Record:
    """The record of the latest checkpoint, `or_earlier` of the latest whose record can be read.

    Raises:
      CheckpointError: there is none.
    """
    for step in reversed(self.steps()):
      try:
        return Record.from_json(self._read(step, {})[_RECORD])
      except Exception as error:
        if not or_earlier:
          raise CheckpointError(
            f"{self._directory}: the checkpoint of step {step}, the latest, cannot be read ({_first_line(error)}), so "
            f"that it is not known which is the best. There are those of steps {self.steps()}: --evaluate_only "
            "--step=N evaluates one of them"
          ) from error
        self._report_unreadable(step, error)
    raise CheckpointError(f"{self._directory}: there is no whole checkpoint")

  def readable_models(self, abstract: TrainState) -> list[int]:
    """Steps of the checkpoints whose parameters can be read."""
    readable = []
    for step in self.steps():
      try:
        self.restore_model(step, abstract)
        readable.append(step)
      except Exception as error:  # Orbax raises anything
        self._report_unreadable(step, error)
    return readable

  def _read(self, step: int, trees: dict[str, Any], tables: Collection[str] = ()) -> dict[str, Any]:
    """The record of `step`, and the arrays of `trees`, which must be what was saved to the last bit.

    Of `tables`, which are parameters' names, rows that are nobody's may be more or fewer.
    """
    special = next((path for path in (self._directory / str(step)).rglob("*") if files.is_special(path)), None)
    if special:
      raise ValueError(f"{special} is no regular file")
    record = self._manager.restore(step, args=ocp.args.Composite(**{_RECORD: ocp.args.JsonRestore()}))[_RECORD]
    if _ITSELF not in record:
      raise ValueError("it is of an older version, whose records have no digest")
    if record[_ITSELF] != _digest_of_json({key: value for key, value in record.items() if key != _ITSELF}):
      raise ValueError("its record is not what was saved")
    if not trees:
      return {_RECORD: record}
    # Shapes come before arrays: a restoration that Orbax breaks off leaves reads under way, which print tracebacks.
    as_saved = {name: _with_rows(tree, self._shapes(step, name), tables) for name, tree in trees.items()}
    arguments = {name: ocp.args.StandardRestore(_by_name(tree)) for name, tree in as_saved.items()}
    saved = self._manager.restore(step, args=ocp.args.Composite(**arguments))
    restored = {name: _refill(tree, saved[name]) for name, tree in trees.items()}
    of, key = (checksum, _ARRAYS) if _ARRAYS in record else (earlier_checksum, _EARLIER)
    for name, tree in restored.items():
      if of(_by_name(tree)) != record[key][name]:
        raise ValueError(f"the arrays of {name!r} are not those that were saved")
    return {name: _fitted(tree, trees[name]) for name, tree in restored.items()} | {_RECORD: record}

  def close(self) -> None:
    self._manager.close()

  def _report_unreadable(self, step: int, error: Exception) -> None:
    logging.error("Checkpoint of step %d in %s cannot be read (%s).", step, self._directory, _first_line(error))

  def _set_aside(self, step: int) -> None:
    """Moves an unreadable checkpoint out of the way, so that its step can be saved again."""
    if self._read_only:
      return
    if jax.process_index() == 0:
      aside = self._directory.with_name("checkpoints_unreadable")
      aside.mkdir(exist_ok=True)
      target = aside / str(step)
      if target.exists():
        shutil.rmtree(target)
      (self._directory / str(step)).rename(target)
      logging.error("It was moved to %s; falling back to the checkpoint before it.", target)
    machine.wait_for_all(f"set aside {step}")
    self._manager.close()
    self._open()


def _have_waits_measured() -> None:
  """Has Orbax measure its waits by a clock that nobody sets.

  It takes the time of day: where that is set forth while a checkpoint is written, the checkpoint is given up and the
  run ends; where it is set back, Orbax waits for as long. The modules have no public names.
  """
  steady = types.SimpleNamespace(**vars(time) | {"time": time.monotonic})
  for name in ("future", "signaling_client"):
    with contextlib.suppress(ImportError):
      importlib.import_module(f"orbax.checkpoint._src.futures.{name}").time = steady  # type: ignore[attr-defined]


def _tell_one_error_of_many() -> None:
  """Keeps tracebacks of reads and writes that were broken off with another one out of the log.

  Orbax has many under way at once, and raises the first error. Those of the others, mostly of the same cause, asyncio
  logs when nobody asks for them; and a read of TensorStore's that ends after its event loop has been closed prints its
  own, by the hook of errors that nobody can catch.
  """
  std_logging.getLogger("asyncio").addFilter(_is_no_other_error)
  if not _hooks:
    _hooks.append(sys.unraisablehook)
    sys.unraisablehook = _hook


def _is_no_other_error(record: std_logging.LogRecord) -> bool:
  return not record.getMessage().startswith(_NEVER_RETRIEVED)


def _hook(unraisable: Any) -> None:
  error = unraisable.exc_value
  if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
    _hooks[-1](unraisable)


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
  """Keeps Orbax's warnings out of the log while the block runs."""

  def passes(record: std_logging.LogRecord) -> bool:
    return record.levelno > std_logging.WARNING or "orbax" not in record.pathname

  logger = logging.get_absl_logger()
  logger.addFilter(passes)
  try:
    yield
  finally:
    logger.removeFilter(passes)


class _LatestAndBest(preservation_policy.PreservationPolicy):
  """Keeps the latest checkpoints and the one named the best."""

  def __init__(self) -> None:
    self.best_step: int | None = None

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
    del context
    latest = sorted(checkpoint.step for checkpoint in checkpoints)[-_LATEST_KEPT:]
    return [checkpoint.step in latest or checkpoint.step == self.best_step for checkpoint in checkpoints]


def record_digest(checkpoint: pathlib.Path) -> str:
  """Eight hexadecimal digits of what a checkpoint says of itself, or why it says nothing."""
  try:
    return files.sha256(checkpoint / _RECORD / "metadata")[:8]
  except OSError as error:
    return files.reason(error)


def model_shapes(state: TrainState) -> dict[str, tuple[int, ...]]:
  """What `Checkpoints.model_shapes` says of a checkpoint of `state`."""
  return _shapes_of(_trees(state)[_MODEL])


def _trees(state: TrainState) -> dict[str, Any]:
  """A state as it is saved: what evaluation needs apart from what only training needs."""
  model = {"params": state.eval_params, "rest": state.rest}
  training = {"step": state.step, "opt_state": state.opt_state}
  if state.average is not None:
    training["params"] = state.params
  if state.clock is not None:
    training["clock"] = state.clock
  return {_MODEL: model, _TRAINING: training}


def _shapes_of(tree: Any) -> dict[str, tuple[int, ...]]:
  return {name: tuple(leaf.shape) for name, leaf in _by_name(tree).items()}


def _with_rows(tree: Any, saved: dict[str, tuple[int, ...]], tables: Collection[str]) -> Any:
  """`tree`, of shapes, with as many rows in its tables as were `saved`: what is nobody's depends on the devices.

  Raises:
    OtherModelError: an array has another shape, or only one of the two has it; the first is named.
  """
  wanted = _shapes_of(tree)
  for name in sorted(saved.keys() | wanted.keys()):
    there, here = saved.get(name), wanted.get(name)
    if there != here and not (there and here and _has_rows(name, tables) and _differ_in_filler(there, here)):
      shown = ["missing" if shape is None else shape for shape in (there, here)]
      raise OtherModelError(f"{name} is {shown[0]} there, and {shown[1]} here")

  def one(path: Any, leaf: Any) -> Any:
    shape = saved[variables.name_of(path)]
    # What the devices do not divide lies whole on each for a moment.
    return (
      leaf if shape == leaf.shape else jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=replicated(leaf.sharding.mesh))
    )

  return jax.tree_util.tree_map_with_path(one, tree)


def _has_rows(name: str, tables: Collection[str]) -> bool:
  """Whether an array of a state has a row for each item or user: a table, or what an optimiser keeps for its rows."""
  return name == _CLOCK or variables.parameter_of(name, tables) is not None


def _differ_in_filler(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
  """Whether shapes differ in nothing but rows that fill one up to what devices divide."""
  fewer, more = sorted((one, other))
  return one[1:] == other[1:] and is_filled_up(fewer[0], more[0])


def _fitted(tree: Any, like: Any) -> Any:
  """Arrays with the rows and shardings of `like`: rows of zeros are added, or nobody's are left out."""

  def one(array: Any, wanted: Any) -> Any:
    if array.shape == wanted.shape:
      return array
    more = max(wanted.shape[0] - array.shape[0], 0)
    fit = lambda x: jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1))[: wanted.shape[0]]  # noqa: E731
    return jax.jit(fit, out_shardings=wanted.sharding)(array)

  return jax.tree.map(one, tree, like)


def _digest_of_json(value: Any) -> int:
  return zlib.crc32(files.canonical_json(value).encode())


def _by_name(tree: Any) -> dict[str, Any]:
  """A tree's leaves under readable names, so that a checkpoint can be read without the code that wrote it."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {variables.name_of(path): leaf for path, leaf in leaves}


def _refill(tree: Any, leaves: dict[str, Any]) -> Any:
  """`tree` with its leaves replaced by those of the same name."""
  return jax.tree_util.tree_map_with_path(lambda path, _: leaves[variables.name_of(path)], tree)


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
