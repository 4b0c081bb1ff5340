"""A run's folder: its files, whose it is, and what of it is finished."""

from collections.abc import Iterator
import contextlib
import errno
import pathlib
import re
import sys
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec import files
from mlrec import machine
from mlrec.config import ConfigError
from mlrec.data import impression_files
from mlrec.data import ingested
from mlrec.data import lines
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.runs.agreement import agree_on_workdir
from mlrec.runs.per_user import PerUser
from mlrec.runs.result import Result
from mlrec.runs.result import SeedsResult
from mlrec.train.run_files import RunFiles

# Orbax lists what it has written by patterns that the folder's name becomes a part of (0.11 to 0.12).
_NOT_IN_NAMES = "[\\"
# Until what one machine has written is seen by another.
_SEEN_SECONDS = 30.0


class Workdir:
  """The folder of a run, of one seed or of several.

  Attributes:
    path: where it is.
    config: the file of its config, written when a run claims the folder.
    result: the file of its result, written when the run is finished.
    evaluation: the same, of `--evaluate_only`.
    comparison: the file of the table beside the baselines.
    per_user: the file of what the result's metrics are made of, user by user (`mlrec.runs.per_user`).
    files: those that training writes.
  """

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.config, self.result = path / "config.json", path / "result.json"
    self.evaluation, self.comparison = path / "evaluation.json", path / "comparison.json"
    self.per_user = path / "per_user.safetensors"
    self.files = RunFiles(
      path / "checkpoints", path / "metrics.jsonl", path, path / "ids.safetensors", path / "data.safetensors"
    )
    self._lock_file = path / "run.lock"

  def __str__(self) -> str:
    return str(self.path)

  def of_seed(self, seed: int) -> "Workdir":
    """That of one of several seeds."""
    return Workdir(self.path / f"seed_{seed}")

  def check(self, config: ConfigDict) -> None:
    """Nothing, if the folder is new or holds a run of this config, or one that has not come to its first checkpoint.

    Raises:
      ConfigError: it holds a run of another config; each difference is named.
    """
    try:
      str(self.path).encode()
    except UnicodeEncodeError as error:
      raise ConfigError(
        f"--workdir={self}: a name that is no UTF-8 text cannot be opened by all libraries; if it looks right where it "
        f"was typed, PYTHONUTF8=1 has Python read it so (its encoding is {sys.getfilesystemencoding()})"
      ) from error
    unusable = next((character for character in _NOT_IN_NAMES if character in str(self.path.absolute())), None)
    if unusable:
      raise ConfigError(
        f"--workdir={self}: Orbax loses checkpoints whose path has a {unusable!r} in it; name another folder"
      )
    for folder in (self.path, *self.path.parents):
      if _exists(folder) and not folder.is_dir():
        raise ConfigError(f"--workdir={self} cannot be made: {folder} is a file")
    own = (self.config, self.result, self.evaluation, self.comparison, self.per_user, self._lock_file)
    for file in (*own, self.files.metrics, self.files.ids, self.files.data):
      if _exists(file) and not file.is_file():
        raise ConfigError(f"{file} is no file: a run keeps its own there; remove it, or name another --workdir")
    saved = self.saved_config()
    if saved is None or not self.is_begun():
      return
    if bool(saved.get("seeds")) != bool(config.seeds):
      kinds = ("several seeds", "one seed") if saved.get("seeds") else ("one seed", "several seeds")
      raise ConfigError(
        f"{self} holds a run of {kinds[0]} and config.seeds asks for {kinds[1]}: name another --workdir"
      )
    different = config_lib.differences(saved, config_lib.to_json(config))
    if different:
      lines = "\n  ".join(different)
      raise ConfigError(f"{self} holds a run of another config:\n  {lines}\nName another --workdir, or delete it.")

  def is_begun(self) -> bool:
    """Whether it holds what took work: a checkpoint, a result, or a begun run of a seed."""
    if _exists(self.result) or self.checkpoint_steps():
      return True
    return any(Workdir(folder).is_begun() for folder in self.path.glob("seed_*") if folder.is_dir())

  def checkpoint_steps(self) -> list[int]:
    """Steps of its checkpoints, whole or not, ascending."""
    folder = self.files.checkpoints
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []

  @contextlib.contextmanager
  def locked(self) -> Iterator[None]:
    """Makes the folder, and keeps other processes' runs out of it while the block runs.

    Raises:
      ConfigError: the folder cannot be made, or another process has a run in it.
    """
    with contextlib.ExitStack() as stack:
      if _is_first_process():
        with self._written():
          self.path.mkdir(parents=True, exist_ok=True)
          stack.enter_context(self._lock())
      machine.wait_for_all("lock the workdir")
      see = lambda: "the run's folder" if self._lock_file.exists() else "none of the run's"  # noqa: E731
      agree_on_workdir(str(self), see, patience=_SEEN_SECONDS)
      yield

  def claim(self, config: ConfigDict) -> None:
    """Writes the config that the folder belongs to from now on; the folder is locked.

    Raises:
      ConfigError: the folder cannot be written.
    """
    if _is_first_process():
      with self._written():
        # A run that is resumed is no longer finished.
        self.result.unlink(missing_ok=True)
        self.per_user.unlink(missing_ok=True)
        written = config_lib.to_json(config)
        # What is kept says where content lies, not what a config names that was written for other data.
        written["data"] |= ingested.places(written["data"])
        files.write_json(self.config, written)
    machine.wait_for_all("claim the workdir")

  def finished(self, config: ConfigDict) -> Result | None:
    """The result of the finished run in this folder; None where it is not finished, or is now to be trained for longer.

    Raises:
      ConfigError: a file is damaged.
    """
    saved = self.saved_config()
    if saved is None or not _exists(self.result):
      return None
    limits = {key: value for key, value in config_lib.flatten(saved) if key in ("train.epochs", "train.patience")}
    if limits != {"train.epochs": config.train.epochs, "train.patience": config.train.patience}:
      return None
    return self.read_result()

  def agree(self, config: ConfigDict) -> None:
    """Raises a ConfigError where another process sees another state of the run, or other checkpoints, in the folder."""

    def see() -> str:
      from mlrec.train.checkpoint import record_digest  # brings Orbax

      steps = [f"{step} ({record_digest(self.files.checkpoints / str(step))})" for step in self.checkpoint_steps()]
      run = "a finished run" if self.finished(config) else "no finished run"
      return f"{run} with {'checkpoints of steps ' + ', '.join(steps) if steps else 'no checkpoint'}"

    agree_on_workdir(str(self), see, patience=_SEEN_SECONDS)

  def was_locked(self) -> bool:
    """Whether a run has had the folder, though it may have written nothing."""
    return self._lock_file.exists()

  def read_result(self) -> Result:
    """The result of a finished run of one seed.

    Raises:
      ConfigError: there is none, or it is damaged.
    """
    try:
      return Result.from_json(files.read_json(self.result))
    except (OSError, ValueError) as error:
      raise ConfigError(f"{self.result}: it is no result of mlrec.main: {files.reason(error)}") from error

  def write(self, path: pathlib.Path, value: Result | SeedsResult | dict[str, Any]) -> None:
    """Writes one of its JSON files, on the first process.

    Raises:
      ConfigError: the folder cannot be written.
    """
    if _is_first_process():
      with self._written():
        # Evaluation alone may be the first to write here.
        self.path.mkdir(parents=True, exist_ok=True)
        files.write_json(path, value if isinstance(value, dict) else value.to_json())

  def write_per_user(self, records: PerUser) -> None:
    """Writes what the result's metrics are made of, on the first process.

    Raises:
      ConfigError: the folder cannot be written.
    """
    if _is_first_process():
      with self._written():
        records.write(self.per_user)

  def saved_config(self) -> dict[str, Any] | None:
    """The config, as JSON, of the run that the folder holds; None where there is none.

    A config file that is lost or cut off is replaced by what checkpoints say.

    Raises:
      ConfigError: there is a run, and nothing says of which config.
    """
    try:
      saved = files.read_json(self.config)
      if isinstance(saved, dict):
        return saved
      reason = "it holds no object"
    except FileNotFoundError:
      if not self.checkpoint_steps():
        return None
      reason = "it is missing"
    except (OSError, ValueError) as error:
      reason = files.reason(error)
    if not self.checkpoint_steps():
      if _exists(self.result):
        raise ConfigError(f"{self.config} cannot be read ({reason}); delete the folder or name another --workdir")
      return None
    # Orbax comes in here alone: reports read workdirs without it.
    from mlrec.train.checkpoint import CheckpointError
    from mlrec.train.checkpoint import Checkpoints

    try:
      with contextlib.closing(Checkpoints(self.files.checkpoints, read_only=True)) as checkpoints:
        config = dict(checkpoints.latest_record().config)
      logging.warning("%s cannot be read (%s): the config that its checkpoints keep is taken.", self.config, reason)
      return config
    except CheckpointError as error:
      raise ConfigError(f"{self.config} cannot be read ({reason}), nor can its checkpoints: {error}") from error

  @contextlib.contextmanager
  def _lock(self) -> Iterator[None]:
    lock = files.try_lock(self._lock_file)
    if lock is None:
      holder = files.lock_holder(self._lock_file)
      raise ConfigError(f"{self} is in use by {holder}: wait for it, or name another --workdir")
    with lock:
      files.sign_lock(lock)
      yield

  @contextlib.contextmanager
  def _written(self) -> Iterator[None]:
    """Has a folder that cannot be written told in a line; a full disk passes."""
    try:
      yield
    except OSError as error:
      if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise
      raise ConfigError(f"--workdir={self} cannot be written: {error.strerror or error}") from error


def default(config_file: str, argument: str, config: ConfigDict) -> pathlib.Path:
  """A readable folder for a config file and what its argument, data, split and model are.

  The same command names the same folder, so that running it again resumes.
  """
  model = config.model.to_dict()
  source = config.data.source
  is_folder = ingested.is_ingested(source) or impression_files.is_folder(source)
  is_path = source.endswith(lines.SUFFIXES) or is_folder
  data = pathlib.Path(source).absolute().stem if is_path else source.replace("/", "-")
  stem = pathlib.Path(config_file).stem
  name = model.get("user", {}).get("name", "") or model["name"]
  dim = f"d{model['dim']}" if "dim" in model else ""
  split = "" if config.data.split == LEAVE_ONE_OUT else re.sub(r"[^\w.-]+", "-", config.data.split)
  parts = [stem, argument, data, split, "" if name == stem else name, dim, f"seed{config.seed}"]
  return pathlib.Path("runs") / "_".join(part for part in parts if part)


def _is_first_process() -> bool:
  import jax  # reports read workdirs without it

  return jax.process_index() == 0


def _exists(path: pathlib.Path) -> bool:
  try:
    return path.exists()
  except OSError as error:  # such as a name that is too long
    raise ConfigError(f"--workdir={path} cannot be used: {error.strerror or error}") from error
