"""The trials of a sweep, shared by any number of processes on one workdir, each of which may die at any time.

Optuna's study is `study.db` (SQLite), so that Optuna's own tools read it. Whoever reads or changes it holds the lock of
`sweep.lock`; whoever works on a trial holds that of the trial's folder. Both are the system's (flock(2)): they end with
the process, however it ends, so a trial that is under way and locked by nobody is one whose process is dead.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import fcntl
import functools
import pathlib
import shutil
import sqlite3
from typing import Any
from typing import IO
import warnings

import numpy as np

from mlrec import files
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.search_space import Space

DATABASE = "study.db"
_STUDY = "sweep"
COMPLETE, FAILED, RUNNING = "complete", "failed", "running"


@dataclasses.dataclass(frozen=True)
class Trial:
  """A trial that this process works on.

  Attributes:
    number: from 0.
    params: a value for each key of the space.
    folder: its workdir.
    resumed: whether another process has begun it.
    same_as: the number of a finished trial with these values, whose result is also this one's.
    lock: open as long as the trial is this process's.
  """

  number: int
  params: dict[str, Any]
  folder: pathlib.Path
  resumed: bool
  same_as: int | None
  lock: IO[str]


@dataclasses.dataclass(frozen=True)
class Record:
  """What is known of a trial.

  Attributes:
    number: from 0.
    state: one of `complete`, `failed` and `running`, the last also where its process is dead.
    value: of the validation metric; None unless complete.
    seconds: what it took; 0 while it runs.
    params: its values.
    data: fingerprint of what it read; empty unless complete.
    same_as: as in `Trial`.
    reason: why it failed.
  """

  number: int
  state: str
  value: float | None
  seconds: float
  params: dict[str, Any]
  data: str = ""
  same_as: int | None = None
  reason: str = ""


class Trials:
  """The study and the folders of one sweep."""

  def __init__(self, workdir: pathlib.Path, space: Space, *, seed: int, first: Mapping[str, Any] | None = None):
    """Opens the study, or makes it.

    Args:
      workdir: there already.
      space: of the sweep; always the same for one workdir.
      seed: what trial `n` is, is drawn from it, `n` and the trials before it.
      first: values of the first trial; keys that are not among them, or have values outside of the space, are drawn.

    Raises:
      ConfigError: Optuna is not installed, or cannot read the study.
    """
    try:
      import optuna
      import sqlalchemy  # Optuna's own dependency
    except ImportError as error:
      raise ConfigError('a sweep needs Optuna: pip install "optuna>=4"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    self._optuna, self._workdir, self._seed = optuna, workdir, seed
    self._distributions = {key: part.distribution() for key, part in space.items()}
    self._first = {key: value for key, value in (first or {}).items() if key in space and space[key].holds(value)}
    self._holds = 0
    self._database_errors = (optuna.exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error)
    path = self._path = (workdir / DATABASE).absolute()
    with self.exclusive():
      try:
        # The path is handed to SQLite as it is: in a URL some of its characters would mean something else.
        connect = functools.partial(sqlite3.connect, str(path))
        self._storage = optuna.storages.RDBStorage(
          "sqlite:///study.db", engine_kwargs={"creator": connect, "poolclass": sqlalchemy.pool.NullPool}
        )
        self._study = optuna.create_study(
          study_name=_STUDY, storage=self._storage, direction="maximize", load_if_exists=True
        )
      except Exception as error:  # Optuna's, SQLAlchemy's and SQLite's have no base of their own
        raise ConfigError(
          f"Optuna cannot open {path}, which may be damaged ({_words(error)}): restore it, or name another --workdir"
        ) from error

  @contextlib.contextmanager
  def exclusive(self) -> Iterator[None]:
    """Keeps other processes from the study; may be nested."""
    if self._holds:
      yield
      return
    with (self._workdir / "sweep.lock").open("w") as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      self._holds += 1
      try:
        yield
      except self._database_errors as error:
        raise ConfigError(
          f"Optuna cannot use {self._path}, which may be damaged ({_words(error)}): restore it, or name another "
          "--workdir"
        ) from error
      finally:
        self._holds -= 1

  def claim(self, *, most: int | None, seconds: float | None) -> Trial | None:
    """A trial for this process: one whose process is dead, else a new one; None where there are enough.

    Args:
      most: how many trials there may be, of all processes together; None for any number.
      seconds: no trial is begun once those that have ended took so long together; None for any time.
    """
    with self.exclusive():
      for record in self.records():
        lock = self._try_lock(record.number) if record.state == RUNNING else None
        if lock:
          return self._trial(record, lock, resumed=True)
      known = self.records()
      if most is not None and len(known) >= most:
        return None
      if seconds is not None and sum(record.seconds for record in known) >= seconds:
        return None
      number = self._draw(len(known))
      lock = self._try_lock(number)
      assert lock is not None, "a new trial is nobody's"
      return self._trial(self._record(self._study.trials[number]), lock, resumed=False)

  def complete(self, trial: Trial, value: float, *, seconds: float, data: str) -> None:
    """Keeps what a trial has found, and lets go of it."""
    self._end(trial, value, {"seconds": seconds, "data": data, "same_as": trial.same_as})

  def fail(self, trial: Trial, reason: str, *, seconds: float) -> None:
    """Keeps why a trial came to nothing, and lets go of it."""
    self._end(trial, None, {"seconds": seconds, "reason": reason})

  def records(self) -> list[Record]:
    """All trials, in the order of their numbers."""
    with self.exclusive():
      return [self._record(found) for found in self._study.get_trials(deepcopy=False) if self._is_whole(found)]

  def folder(self, number: int) -> pathlib.Path:
    """The workdir of a trial."""
    return self._workdir / f"trial_{number:04}"

  def drop_checkpoints(self, *, but: int) -> None:
    """Removes the checkpoints of trials that have ended, but of one: what they found is known."""
    with self.exclusive():
      for record in self.records():
        if record.state != RUNNING and record.number != but:
          shutil.rmtree(self.folder(record.number) / "checkpoints", ignore_errors=True)

  def _draw(self, index: int) -> int:
    """Has Optuna choose a new trial; its number. What it chooses does not depend on what this process did before."""
    optuna = self._optuna
    seed = int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0])
    with warnings.catch_warnings():
      # Optuna 4 calls these two options experimental.
      warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
      if index == 0 and self._first:
        # Again where a process was killed before it had drawn all of the trial.
        self._study.enqueue_trial(self._first)
      self._study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return self._study.ask(self._distributions).number

  def _trial(self, record: Record, lock: IO[str], *, resumed: bool) -> Trial:
    same = [
      other.number
      for other in self.records()
      if other.state == COMPLETE and other.same_as is None and other.params == record.params
    ]
    return Trial(
      record.number, record.params, self.folder(record.number), resumed, same[0] if same else None, lock
    )  # fmt: skip

  def _end(self, trial: Trial, value: float | None, attributes: dict[str, Any]) -> None:
    optuna = self._optuna
    with self.exclusive():
      study_id = self._storage.get_study_id_from_name(_STUDY)
      trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
      for name, attribute in attributes.items():
        self._storage.set_trial_user_attr(trial_id, name, attribute)
      state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
      self._study.tell(trial.number, value, state=state)
    trial.lock.close()

  def _try_lock(self, number: int) -> IO[str] | None:
    """The lock of a trial's folder; None if another process holds it."""
    folder = self.folder(number)
    folder.mkdir(exist_ok=True)
    return files.try_lock(folder / "trial.lock")

  def _is_whole(self, found: Any) -> bool:
    """Whether a trial has all its values; one that was killed while they were drawn is replaced by another."""
    return found.params.keys() == self._distributions.keys()

  def _record(self, found: Any) -> Record:
    states = self._optuna.trial.TrialState
    state = {states.COMPLETE: COMPLETE, states.FAIL: FAILED}.get(found.state, RUNNING)
    told = found.user_attrs if state != RUNNING else {}
    return Record(
      number=found.number,
      state=state,
      value=found.value if state == COMPLETE else None,
      seconds=told.get("seconds", 0.0),
      params=dict(found.params),
      data=told.get("data", ""),
      same_as=told.get("same_as"),
      reason=told.get("reason", ""),
    )


def _words(error: BaseException) -> str:
  """What a database says, without what SQLAlchemy adds: the statement, and where to read about it."""
  own = getattr(error, "orig", None) or error
  return terminal.shortened(str(own), 200)
