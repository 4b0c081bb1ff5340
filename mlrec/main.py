"""Trains, evaluates and resumes: `python -m mlrec.main --config=FILE.py[:ARG] [--workdir=DIR] [--config.key=value …]`.

Running the same command again in the same workdir goes on where the run stopped, or, when it is finished, says so.
"""

import pathlib
import re
import sys

from absl import app
from absl import flags
from absl import logging
from ml_collections import config_flags
from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.registry import closest

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a Python file with get_config().")
_WORKDIR = flags.DEFINE_string("workdir", None, "Checkpoints and results; by default a readable name under runs/.")
_EVALUATE_ONLY = flags.DEFINE_bool("evaluate_only", False, "Evaluate the best checkpoint of the workdir, and stop.")
_LIST = flags.DEFINE_bool("list", False, "Print the models, data sources and configs there are, and stop.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for a run of several processes.")
_PROCESSES = flags.DEFINE_integer("processes", None, "The number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "This process's number, from 0, with --coordinator.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of a TPU pod or a Slurm job.")

_FAILED, _REFUSED = 1, 2


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --config=configs/demo.py")
    if _LIST.value:
      print(listing())
      return 0
    if _CONFIG.value is None:
      raise ConfigError("--config=FILE.py is required, such as --config=configs/demo.py (--list shows what there is)")
    config = config_lib.validate(_CONFIG.value)
    return _run(config, _workdir(config))
  except (ConfigError, DataError) as error:
    return _report(error, _REFUSED)


def _run(config: ConfigDict, workdir: pathlib.Path) -> int:
  from mlrec.train import memory

  memory.share_arenas()
  # JAX, Flax and Orbax come in here: mistakes in flags and config are told at once.
  import jax

  _join_processes()
  from mlrec.train import experiment
  from mlrec.train import loop
  from mlrec.train.checkpoint import CheckpointError

  # Orbax logs each save, and each failure several times over; failures also raise, and are told below.
  logging.set_verbosity(logging.WARNING)
  logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)

  def say(text: str) -> None:
    if jax.process_index() == 0:
      print(text, flush=True)

  try:
    experiment.run(config, workdir, evaluate_only=_EVALUATE_ONLY.value, say=say)
  except loop.Interrupted as stopped:
    say(str(stopped))
  except (loop.TrainingDiverged, CheckpointError) as error:
    return _report(error, _FAILED)
  except (ConfigError, DataError):
    raise
  except Exception as error:
    if not loop.is_disk_full(error):
      raise
    return _report(
      f"no space left on the device that holds {workdir}; the last checkpoint is whole: free some space and run the "
      "same command to go on from it",
      _FAILED,
    )
  return 0


def _workdir(config: ConfigDict) -> pathlib.Path:
  from mlrec.train import workdir

  if _WORKDIR.value:
    return pathlib.Path(_WORKDIR.value).expanduser()
  file, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
  return workdir.default(file, argument, config)


def _join_processes() -> None:
  import jax

  given = [flag.value is not None for flag in (_COORDINATOR, _PROCESSES, _PROCESS)]
  if any(given) and not all(given):
    raise ConfigError("--coordinator, --processes and --process go together")
  if any(given):
    jax.distributed.initialize(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
  elif _DISTRIBUTED.value:
    jax.distributed.initialize()


def listing() -> str:
  """What there is to choose from: models by kind, data sources, shipped configs."""
  from mlrec.data.sources import sources
  from mlrec.models.registry import models

  lines = [f"{kind}s: {', '.join(models.names(kind))}" for kind in models.kinds()]
  lines.append(f"data sources: *_pairs.tsv, *_pairs.csv, {', '.join(f'{name}/…' for name in sources.names())}")
  folder = pathlib.Path("configs")
  configs = sorted(str(path) for path in folder.rglob("*.py")) if folder.is_dir() else []
  lines.append(f"configs: {', '.join(configs) or 'none under configs/ here'}")
  return "\n".join(lines)


def _report(error: Exception | str, status: int) -> int:
  print(f"error: {error}", file=sys.stderr)
  return status


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses the command line; a config that cannot be loaded or has no such key is told in a line."""
  try:
    rest = flags.FLAGS(argv)
    config = _CONFIG.value
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
      f"the config cannot be loaded, get_config() must return a ConfigDict: {type(error).__name__}: {_last_line(error)}"
    )
  sys.exit(_report(message, _REFUSED))


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


if __name__ == "__main__":
  app.run(main, flags_parser=_parse_flags)
