"""What the commands that take a config share: mistakes in flags and failures of runs are told in a line."""

from collections.abc import Callable
import importlib.util
import inspect
import pathlib
import re
import sys
from typing import Any

from absl import flags
from absl import logging
from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.registry import closest

FAILED, REFUSED = 1, 2


def report(error: Exception | str, status: int) -> int:
  """Prints an error and returns the exit status."""
  print(f"error: {error}", file=sys.stderr)
  return status


def run_reporting(work: Callable[[], Any], workdir: pathlib.Path, say: Callable[[str], None]) -> int:
  """Does the work, which trains in `workdir`; returns the exit status.

  Args:
    work: what to do.
    workdir: named where the disk is full.
    say: prints a line.

  Raises:
    ConfigError, DataError: as they come.
  """
  from mlrec.metrics import ScoresNotFinite
  from mlrec.train import loop
  from mlrec.train.checkpoint import CheckpointError

  # Orbax logs each save, and each failure several times over; failures also raise, and are told below.
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
  try:
    work()
  except loop.Interrupted as stopped:
    say(str(stopped))
  except (loop.TrainingDiverged, CheckpointError, ScoresNotFinite) as error:
    return report(error, FAILED)
  except (ConfigError, DataError):
    raise
  except Exception as error:
    if not loop.is_disk_full(error):
      raise
    return report(
      f"no space left on the device that holds {workdir}; the last checkpoint is whole: free some space and run the "
      "same command to go on from it",
      FAILED,
    )
  return 0


def from_config_file(file: str, function: str, wanted: str) -> Any:
  """What a function of a config file returns.

  Args:
    file: `FILE.py`, or `FILE.py:ARGUMENT` for a function that takes one.
    function: its name.
    wanted: what it is for, for the message where the file has none.

  Raises:
    ConfigError: there is no such function, or it fails.
  """
  path, _, argument = file.partition(":")
  spec = importlib.util.spec_from_file_location("config_file", path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  make = getattr(module, function, None)
  if make is None:
    raise ConfigError(f"{path} has no {function}(): {wanted}")
  try:
    return make(*([argument] if argument and inspect.signature(make).parameters else []))
  except Exception as error:  # a config file is code: it may raise anything
    raise ConfigError(f"{function}() of {path}: {type(error).__name__}: {error}") from error


def flags_parser(config_flag: flags.FlagHolder) -> Callable[[list[str]], list[str]]:
  """A parser of the command line, for `app.run`: a config that cannot be loaded or has no such key is told in a line.

  Args:
    config_flag: what `config_flags.DEFINE_config_file` returned.
  """

  def parse(argv: list[str]) -> list[str]:
    try:
      rest = flags.FLAGS(argv)
      config = config_flag.value
      if config is not None and not isinstance(config, ConfigDict):
        # What config_flags returns for a file it could not load raises the reason when it is touched.
        getattr(config, "to_dict", None)
        raise TypeError(f"get_config() must return an ml_collections.ConfigDict, not {type(config).__name__}")
      return rest
    except flags.Error as error:
      # A config file that raises arrives here with the whole traceback in its message.
      what, traceback, _ = str(error).partition("Traceback")
      message = f"{what.strip()} {_last_line(error)}" if traceback else str(error)
    except Exception as error:  # a config file is code: it may raise anything
      message = _unknown_key(argv, error) or (
        "the config cannot be loaded, get_config() must return a ConfigDict: "
        f"{type(error).__name__}: {_last_line(error)}"
      )
    sys.exit(report(message, REFUSED))

  return parse


def _last_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[-1] if lines else ""


def _unknown_key(argv: list[str], error: Exception) -> str | None:
  """What is wrong with the first `--config.key` that no config has, or that of the model which caused the `error`."""
  known = dict(config_lib.flatten(config_lib.default_config()))
  for argument in argv:
    key = argument.partition("=")[0].lstrip("-").removeprefix("config.")
    if not argument.lstrip("-").startswith("config.") or key in known:
      continue
    if not key.startswith("model."):
      return f"unknown key config.{key}: {closest(key, known)}"
    if isinstance(error, AttributeError) and repr(key.rpartition(".")[2]) in str(error).replace("\\", ""):
      near = re.search(r'Did you mean "([^"]+)"', str(error))
      return f"config.{key}: the config file sets no such option, and only what it sets can be changed here" + (
        f"; did you mean {near[1]!r}?" if near else ""
      )
  return None
