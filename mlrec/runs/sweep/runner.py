"""A sweep: trials of one experiment with other settings, and the best of them as a config."""

from collections.abc import Callable
from collections.abc import Mapping
import json
import pathlib
import pprint
import textwrap
import time
from typing import Any

from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec import files
from mlrec import search_space
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.data import protocols
from mlrec.data.splits import VALID
from mlrec.files import write_text
from mlrec.registry import closest
from mlrec.runs.sweep import trials as trials_lib
from mlrec.runs.sweep.trials import DATABASE
from mlrec.runs.sweep.trials import Record
from mlrec.runs.sweep.trials import Trial
from mlrec.runs.sweep.trials import Trials

# Keys that decide what is measured, or on what: to choose among them is no tuning.
_NOT_TUNED = ("seed", "seeds", "baselines", "init_from", "tuning.trials", "tuning.seconds",
              "train.monitor", "data.source", "data.data_dir",
              "data.split", "data.min_length", "data.cold_share", "data.cold_seed")  # fmt: skip
# Keys that a run may change when it is resumed, but a sweep may not: its trials would no longer compare.
_FIXED = ("seeds", "train.epochs", "train.patience", "eval.every_epochs")
_SETTINGS, _BEST, _BEST_CONFIG, _LIST = "sweep.json", "best.json", "best.py", "trials.jsonl"
Say = Callable[[str], None]


class Sweep:
  """A sweep and its workdir."""

  def __init__(self, config: ConfigDict, space: search_space.Space, workdir: pathlib.Path, *, file: str):
    """Keeps what the sweep is of; nothing is opened.

    Args:
      config: validated; what the space does not name is the same in each trial.
      space: checked.
      workdir: of this sweep alone.
      file: where config and space come from, for the words in `best.py`.
    """
    self._config = config.copy_and_resolve_references()
    # They tell test metrics.
    self._config.baselines = ()
    self._space, self._workdir, self._file = space, workdir, file

  def open(self) -> None:
    """Opens the workdir, or makes it.

    Raises:
      ConfigError: the workdir cannot be had, or holds another sweep; there is nothing to choose by; or Optuna is
        missing.
    """
    if VALID not in protocols.parse(self._config.data.split).evaluates:
      raise ConfigError(
        f"config.data.split = {self._config.data.split!r}: a sweep chooses by validation, and there is none"
      )
    database = self._workdir / DATABASE
    if (self._workdir / _SETTINGS).exists() and not (database.is_file() and database.stat().st_size):
      raise ConfigError(
        f"{database} is missing or empty, and with it the trials of the sweep that {self._workdir} holds: put it back, "
        "or name another --workdir"
      )
    for name in (_SETTINGS, _BEST, _BEST_CONFIG, _LIST, DATABASE):
      if (file := self._workdir / name).exists() and not file.is_file():
        raise ConfigError(f"{file} is no file: a sweep keeps its own there; remove it, or name another --workdir")
    try:
      self._workdir.mkdir(parents=True, exist_ok=True)
      own = dict(config_lib.flatten(self._config))
      self._trials = Trials(self._workdir, self._space, seed=self._config.seed, first=own)
    except OSError as error:
      raise ConfigError(f"--workdir={self._workdir} cannot be made: {error.strerror or error}") from error
    with self._trials.exclusive():
      self._check_settings()

  def run(self, *, trials: int | None, seconds: float | None, say: Say) -> None:
    """Takes trial after trial until there are enough.

    Args:
      trials: how many, of all processes together; None for any number.
      seconds: no trial begins once those that have ended took so long together; None for any time.
      say: prints a line.

    Raises:
      ConfigError: as `open`, or no trial came to an end.
      Interrupted: the process was asked to stop; the trial can be resumed.
      DataError, CheckpointError: as they come.
    """
    self.open()
    say(f"sweep in {self._workdir} over {', '.join(sorted(self._space))}; valid {self._config.train.monitor} decides")
    while trial := self._trials.claim(most=trials, seconds=seconds):
      self._work_on(trial, trials, say)
    self._tell_the_end(say)

  def _work_on(self, trial: Trial, most: int | None, say: Say) -> None:
    say(f"trial {trial.number}{', which was cut off, is resumed' if trial.resumed else ''}: {_shown(trial.params)}")
    start = time.monotonic()
    if trial.same_as is not None:
      same = next(record for record in self._trials.records() if record.number == trial.same_as)
      assert same.value is not None
      self._trials.complete(trial, same.value, seconds=0.0, data=same.data)
    else:
      try:
        value, took, data = self._train(trial)
      except _TrialFailed as error:
        self._trials.fail(trial, str(error), seconds=round(time.monotonic() - start, 1))
      else:
        self._trials.complete(trial, value, seconds=took, data=data)
    with self._trials.exclusive():
      records = self._trials.records()
      self._write(records)
    say(_line(next(record for record in records if record.number == trial.number), records, self._monitor, most))

  def _train(self, trial: Trial) -> tuple[float, float, str]:
    """The value of a trial, the seconds it took, and the fingerprint of its data.

    Raises:
      _TrialFailed: these values cannot be run; others may.
    """
    import jax

    from mlrec.runs import experiment
    from mlrec.runs import failures
    from mlrec.train.checkpoint import CheckpointError

    try:
      config = config_lib.with_values(self._config, trial.params)
      result = experiment.run(config, trial.folder, splits=(VALID,), say=lambda text: None)
    except (DataError, CheckpointError):
      raise
    except Exception as error:
      reason = failures.reason(error)
      if reason is None:
        raise
      raise _TrialFailed(reason) from error
    finally:
      # No other trial has programs of these shapes, unless it has the same ones in the compilation cache.
      jax.clear_caches()
    value = result.metric(VALID, self._config.train.monitor)
    if value is None:
      raise _TrialFailed(f"valid {self._config.train.monitor} is no number")
    self._check_data(trial, result.data)
    return value, result.seconds, result.data

  def _check_data(self, trial: Trial, data: str) -> None:
    """Raises a ConfigError where another trial read other data; how much of a history is kept is part of the data."""
    if {"data.max_length", "data.train_windows"} & self._space.keys():
      return
    for record in self._trials.records():
      if record.state == trials_lib.COMPLETE and record.data != data:
        raise ConfigError(
          f"trial {trial.number} read other data (fingerprint {data}) than trial {record.number} ({record.data}): "
          f"read the same, or name another --workdir and delete {trial.folder}"
        )

  @property
  def _monitor(self) -> str:
    return f"valid {self._config.train.monitor}"

  def _check_settings(self) -> None:
    """Writes what the sweep is, or compares it with what the workdir holds."""
    path = self._workdir / _SETTINGS
    now = {"config": config_lib.to_json(self._config), "space": search_space.to_json(self._space)}
    if not path.exists():
      files.write_json(path, now)
      return
    try:
      saved = files.read_json(path)
      lines = config_lib.differences(saved["config"], now["config"], also=_FIXED)
      old, new = saved["space"], now["space"]
      old.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise ConfigError(
        f"{path} is damaged ({' '.join(str(error).split())}): name another --workdir, or delete the file if config and "
        "search space are those that the sweep began with"
      ) from error
    lines += [
      f"the search space of config.{key}: {old.get(key, '(absent)')} there, {new.get(key, '(absent)')} now"
      for key in sorted(old.keys() | new.keys())
      if old.get(key) != new.get(key)
    ]
    if lines:
      listed = "\n  ".join(lines)
      raise ConfigError(f"{self._workdir} holds another sweep:\n  {listed}\nName another --workdir, or delete it.")

  def _write(self, records: list[Record]) -> None:
    """Brings all files up to what is known."""
    lines = "".join(json.dumps(vars(record)) + "\n" for record in records)
    write_text(self._workdir / _LIST, lines)
    best = best_of(records)
    if best is None:
      return
    ended = [record for record in records if record.state != trials_lib.RUNNING]
    seconds = round(sum(record.seconds for record in ended), 1)
    # What was spent before on the config that the sweep began with counts, too.
    spent = {"trials": self._config.tuning.trials + len(ended), "seconds": self._config.tuning.seconds + seconds}
    config = config_lib.with_values(self._config, {**best.params, "tuning": spent})
    found = {
      "metric": self._monitor,
      "value": best.value,
      "trial": best.number,
      "workdir": self._trials.folder(best.number).name,
      "params": best.params,
      "trials": len(ended),
      "seconds": seconds,
      "config": config_lib.to_json(config),
    }
    what = f"{self._monitor} {best.value:.4f}, the best of {len(ended)} trials of {self._file} (trial {best.number})."
    write_text(self._workdir / _BEST_CONFIG, config_source(config, what))
    files.write_json(self._workdir / _BEST, found)
    self._trials.drop_checkpoints(but=best.number)

  def _tell_the_end(self, say: Say) -> None:
    records = self._trials.records()
    running = [record.number for record in records if record.state == trials_lib.RUNNING]
    if running:
      say(f"under way in other processes: trial {', '.join(map(str, running))}")
    best = best_of(records)
    if best is None:
      if not running:
        raise ConfigError(f"none of {len(records)} trials came to a result; the last one: {records[-1].reason}")
      return
    with self._trials.exclusive():
      self._write(self._trials.records())
    say(f"best: {self._monitor} {best.value:.4f} (trial {best.number}: {_shown(best.params)})")
    say(f"python -m mlrec.main --config={self._workdir / _BEST_CONFIG} trains it again, and tests it")


class _TrialFailed(RuntimeError):
  """A trial's values cannot be run."""


def load_space(file: str) -> search_space.Space:
  """The search space of a config file, `FILE.py` or `FILE.py:ARGUMENT`.

  Raises:
    ConfigError: it has none, or what it has is no search space.
  """
  space = config_lib.from_file(
    file,
    "get_search_space",
    "a sweep needs one that returns keys and what they may be, such as "
    '{"optimizer.lr": log_uniform(1e-4, 1e-2)}; mlrec/search_space.py shows it',
  )
  if not isinstance(space, Mapping) or not space:
    raise ConfigError(
      f"get_search_space() of {file.partition(':')[0]} must return a dict with a key or more, not {space!r}"
    )
  return space


def check_space(space: search_space.Space, config: ConfigDict) -> None:
  """Raises a ConfigError where a key is none of the config, or a bound is none that the config allows."""
  known = [key for key in known_keys(config) if key not in _NOT_TUNED]
  for key, part in space.items():
    if key in _NOT_TUNED:
      raise ConfigError(f"the search space names config.{key}, which says what is measured: it cannot be tuned")
    if key not in known:
      raise ConfigError(f"the search space names no key of the config: {key!r}; {closest(str(key), known)}")
    if not isinstance(part, search_space.Range | search_space.Choice):
      raise ConfigError(
        f"the search space of config.{key} must be uniform(…), log_uniform(…), integers(…) or choice(…), not {part!r}"
      )
    part.check(key)
    for value in part.ends():
      try:
        config_lib.with_values(config, {key: value})
      except ConfigError as error:
        raise ConfigError(f"the search space of config.{key}: {error}") from error


def known_keys(config: ConfigDict) -> set[str]:
  """All keys of a config, with the options that its model and its parts have and the config does not name."""
  from mlrec.models.registry import models

  keys = {key for key, _ in config_lib.flatten(config)}
  parts = {f"model.{name}": part for name, part in config.model.items() if isinstance(part, ConfigDict)}
  for section, part in {"model": config.model, **parts}.items():
    name = part.get("name")
    if isinstance(name, str) and name in models.names():
      keys |= {f"{section}.{option}" for option in models.options(name)}
  return keys - parts.keys()


def best_of(records: list[Record]) -> Record | None:
  """The complete trial of the highest value, of equal ones the first; None where none is complete."""
  complete = [record for record in records if record.value is not None]
  return max(complete, key=lambda record: (record.value, -record.number)) if complete else None


def config_source(config: ConfigDict, what: str) -> str:
  """A Python file whose `get_config()` returns this config.

  Args:
    config: validated.
    what: its docstring.
  """
  lines = [
    f'"""{_in_docstring(what)}"""', "", "from ml_collections import ConfigDict", "",
    "from mlrec.config import default_config", "", "", "def get_config() -> ConfigDict:",
    "  config = default_config()",
  ]  # fmt: skip
  defaults = dict(config_lib.flatten(config_lib.default_config()))
  for key, value in config_lib.flatten(config):
    if not key.startswith("model.") and value != defaults[key]:
      lines.append(f"  config.{key} = {value!r}")
  model = pprint.pformat(config.model.to_dict(), width=90, sort_dicts=False)
  lines.append(f"  config.model = ConfigDict({textwrap.indent(model, ' ' * 28).lstrip()})")
  return "\n".join([*lines, "  return config", ""])


def _in_docstring(text: str) -> str:
  return text.replace("\\", "\\\\").replace('"', '\\"')


def _shown(params: Mapping[str, Any]) -> str:
  return " · ".join(
    f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in sorted(params.items())
  )


def _line(record: Record, records: list[Record], monitor: str, most: int | None) -> str:
  """What became of a trial, and how the sweep stands."""
  if record.value is None:
    told = f"failed: {record.reason}"
  elif record.same_as is not None:
    told = f"{monitor} {record.value:.4f}, as trial {record.same_as}, which has the same values"
  else:
    told = f"{monitor} {record.value:.4f} in {record.seconds:.0f} s"
  best = best_of(records)
  ended = sum(other.state != trials_lib.RUNNING for other in records)
  of = f"{ended} of {most}" if most is not None else str(ended)
  stand = f"best {best.value:.4f} (trial {best.number})" if best else "no result yet"
  return f"trial {record.number}: {told} · {stand} · {of} trials done"
