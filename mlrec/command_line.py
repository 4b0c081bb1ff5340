"""What the commands that take a config share: mistakes in flags and failures of runs are told in a line."""

from collections.abc import Callable
import contextlib
import io
import pathlib
import re
import signal
import sys
from types import FrameType
from typing import Any
from typing import NoReturn

from absl import app
from absl import flags
from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec import files
from mlrec import machine
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.registry import closest

FAILED, REFUSED = 1, 2
# absl's own exits with 1; short is what its --help is.
_HELP = ("--help", "-help", "-h", "-?", "--helpshort", "--helpfull")
# TensorStore alone reads and writes 32 files at a time; readers, workers and libraries have others open.
_OPEN_FILES, _FEWEST_OPEN_FILES = 1024, 96


def run(main: Callable[[list[str]], int], parse: Callable[[list[str]], list[str]] | None = None) -> NoReturn:
  """Runs a command whose flags absl keeps, and ends the process with its exit status.

  Args:
    main: takes what is left of the command line, and returns the status.
    parse: the parser of the command line; None for one of flags alone, in which a mistake is told in a line.
  """
  asked = next((argument for argument in sys.argv[1:] if argument in _HELP), None)
  if asked:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
      app.usage(shorthelp=not asked.endswith("full"), writeto_stdout=True)
    terminal.write(text.getvalue(), sys.stdout)
    sys.exit(0)

  def told(argv: list[str]) -> int:
    try:
      return main(argv)
    except OSError as error:
      if not error.strerror:
        raise
      return report(_refused_by_system(error), FAILED)

  app.run(told, flags_parser=parse or _parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    sys.exit(report(_wrong_value(str(error)) or str(error), REFUSED))


def report(error: Exception | str, status: int) -> int:
  """Prints an error and returns the exit status."""
  terminal.tell(f"error: {terminal.printable(str(error))}")
  return status


def _refused_by_system(error: OSError) -> str:
  """What the system refused, such as a name that is too long or one more open file: no mistake in the code."""
  return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}"


def clean_up_on_sigterm() -> None:
  """Has SIGTERM end the command as an exception does, so that what is half written is removed."""

  def end(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    terminal.tell("ended by SIGTERM: nothing is left half written")
    sys.exit(128 + signal.SIGTERM)

  signal.signal(signal.SIGTERM, end)


def run_reporting(work: Callable[[], Any], workdir: pathlib.Path, say: Callable[[str], None]) -> int:
  """Does the work, which trains in `workdir`; returns the exit status.

  Args:
    work: what to do.
    workdir: named where the disk is full and the error names nothing outside of it.
    say: prints a line.

  Raises:
    ConfigError, DataError: as they come.
  """
  from mlrec.metrics import ScoresNotFinite
  from mlrec.runs.workdir import Workdir
  from mlrec.train.checkpoint import CheckpointError
  from mlrec.train.session import TrainingDiverged
  from mlrec.train.stop import Interrupted

  limit = machine.allow_open_files(_OPEN_FILES)
  if limit < _FEWEST_OPEN_FILES:
    raise ConfigError(
      f"this process may have {limit} files open at once (ulimit -n), and checkpoints need {_FEWEST_OPEN_FILES}"
    )
  terminal.log_plainly()
  try:
    work()
  except Interrupted as stopped:
    say(str(stopped))
  except (TrainingDiverged, CheckpointError, ScoresNotFinite) as error:
    return report(error, FAILED)
  except (ConfigError, DataError):
    raise
  except Exception as error:
    if not files.is_disk_full(error):
      if isinstance(error, OSError) and error.strerror:
        return report(_refused_by_system(error), FAILED)
      raise
    saved = "is resumed from its last checkpoint" if Workdir(workdir).is_begun() else "has saved nothing yet"
    named = getattr(error, "filename", None)
    where = (
      named if isinstance(named, str) and workdir.resolve() not in pathlib.Path(named).resolve().parents else workdir
    )
    return report(
      f"no space left on the device that holds {where}: free some, and run the same command again; the run {saved}",
      FAILED,
    )
  return 0


def flags_parser(config_flag: flags.FlagHolder) -> Callable[[list[str]], list[str]]:
  """A parser of the command line, for `app.run`: a config that cannot be loaded or has no such key is told in a line.

  Args:
    config_flag: what `config_flags.DEFINE_config_file` returned.
  """

  def parse(argv: list[str]) -> list[str]:
    argv = with_shipped_configs(argv)
    missing = _missing_config(argv)
    if missing:
      sys.exit(report(missing, REFUSED))
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
      message = f"{what.strip()} {_last_line(error)}" if traceback else _wrong_value(str(error)) or str(error)
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


def with_shipped_configs(argv: list[str]) -> list[str]:
  """The command line, with a config that is not here replaced by the shipped one of that name."""

  def found(value: str) -> str:
    name, colon, argument = value.partition(":")
    return f"{config_lib.found(name)}{colon}{argument}" if name else value

  out, is_value = [], False
  for argument in argv:
    flag, equals, value = argument.partition("=")
    named = argument.startswith("-") and flag.lstrip("-") == "config"
    out.append(found(argument) if is_value else f"{flag}={found(value)}" if named and equals else argument)
    is_value = named and not equals
  return out


def _missing_config(argv: list[str]) -> str | None:
  """What is wrong with `--config=FILE.py:ARGUMENT`, if there is no such file."""
  for argument, following in zip(argv, [*argv[1:], ""]):
    flag, equals, value = argument.lstrip("-").partition("=")
    given = (value if equals else following).partition(":")[0]
    path = pathlib.Path(given)
    if argument.startswith("-") and flag == "config" and given and not path.is_file():
      return f"--config={given}: {config_lib.missing(given)}"
  return None


def _wrong_value(message: str) -> str | None:
  """What a flag's value should be, where absl's message says it in Python's words."""
  found = re.match(r"flag --([\w.]+)=(.*?): (.*)", message, re.DOTALL)
  words = {
    "for int()": "an integer", "to float": "a number", "boolean": "true or false",
    "as tuple": "values in brackets, such as (1, 2)",
  }  # fmt: skip
  wanted = [kind for part, kind in words.items() if found and part in found[3]]
  return f"--{found[1]}={found[2]}: expected {wanted[0]}" if found and wanted else None


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


def parse_options(text: str) -> dict[str, Any]:
  """`depth=2,dim=96,heads=(1,2)` as a dict; values are numbers where they look like numbers, and tuples in brackets.

  Raises:
    ConfigError: a part is no `name=value`.
  """
  options: dict[str, Any] = {}
  # At the commas that are not within brackets.
  for part in filter(None, re.split(r",(?![^(\[]*[)\]])", text)):
    name, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals or not name:
      raise ConfigError(f"--options: {part!r} is no name=value")
    if value[:1] + value[-1:] in ("()", "[]"):
      options[name] = tuple(_number(one.strip()) for one in value[1:-1].split(",") if one.strip())
    else:
      options[name] = _number(value)
  return options


def _number(text: str) -> int | float | str:
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text
