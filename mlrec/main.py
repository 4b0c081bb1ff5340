"""Trains, evaluates and resumes: `python -m mlrec.main --config=FILE.py[:ARG] [--workdir=DIR] [--config.key=value …]`.

  python -m mlrec.main --config=configs/demo.py
  python -m mlrec.main --config=configs/50k/sasrec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv --workdir=runs/a
  python -m mlrec.main --list

Running the same command again in the same workdir resumes where the run stopped, or, when it is finished, says so. A
config that is not here is sought among those that come with the package. SIGTERM and Ctrl-C have the run save and stop.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

from collections.abc import Callable
import os
import pathlib
import sys
import traceback
from typing import NoReturn

from absl import flags
from ml_collections import config_flags
from ml_collections import ConfigDict

from mlrec import command_line
from mlrec import config as config_lib
from mlrec import listing
from mlrec import machine
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The experiment: a Python file with get_config(). Its keys are set by --config.KEY=VALUE."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept; by default a readable name under runs/.")
_EVALUATE_ONLY = flags.DEFINE_bool("evaluate_only", False, "Evaluate the best checkpoint of the workdir, and stop.")
_STEP = flags.DEFINE_integer("step", None, "With --evaluate_only: the step of the checkpoint, if not the best.")
_PROFILE = flags.DEFINE_string(
  "profile", None, "FIRST:LAST, the steps to trace, such as 10:15, for XProf and Perfetto."
)
_LIST = flags.DEFINE_bool("list", False, "Print the models, data sources, splits and configs there are, and stop.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, for a run of several processes.")
_PROCESSES = flags.DEFINE_integer("processes", None, "The number of processes, with --coordinator.")
_PROCESS = flags.DEFINE_integer("process", None, "This process's number, from 0, with --coordinator.")
_PEER_TIMEOUT = flags.DEFINE_float(
  "peer_timeout", 60.0, "Seconds without a sign of life after which another process of the run counts as gone.",
  lower_bound=1.0,
)  # fmt: skip
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Join the other processes of a TPU pod, a GKE job or a Slurm job."
)

# Takes the command line for `command_line.run`.
_parse_flags = command_line.flags_parser(_CONFIG)


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --config=configs/demo.py")
    if _LIST.value:
      terminal.say(listing.listing())
      return 0
    if _CONFIG.value is None:
      raise ConfigError("--config=FILE.py is required, such as --config=configs/demo.py (--list shows what there is)")
    if _STEP.value is not None and not _EVALUATE_ONLY.value:
      raise ConfigError(f"--step={_STEP.value} goes with --evaluate_only")
    _steps()
    config = config_lib.validate(_CONFIG.value)
    return _run(config, _workdir(config))
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _run(config: ConfigDict, workdir: pathlib.Path) -> int:
  machine.share_arenas()
  # JAX, Flax and Orbax come in here: mistakes in flags and config are told at once.
  import jax

  def say(text: str) -> None:
    if jax.process_index() == 0:
      terminal.say(text)

  def work() -> int:
    from mlrec.runs import experiment

    return command_line.run_reporting(
      lambda: experiment.run(
        config, workdir, evaluate_only=_EVALUATE_ONLY.value, step=_STEP.value, profile=_steps(), say=say
      ),
      workdir,
      say,
    )

  return _with_others(work) if _others_are_named() else work()


def _steps() -> tuple[int, int] | None:
  """What `--profile` says."""
  if _PROFILE.value is None:
    return None
  first, colon, last = _PROFILE.value.partition(":")
  if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
    raise ConfigError(f"--profile={_PROFILE.value}: expected FIRST:LAST, two numbers of steps, such as 10:15")
  return int(first), int(last)


def _workdir(config: ConfigDict) -> pathlib.Path:
  from mlrec.runs import workdir

  if _WORKDIR.value:
    return pathlib.Path(_WORKDIR.value).expanduser()
  file, _, argument = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
  return workdir.default(file, argument, config)


def _others_are_named() -> bool:
  given = [flag.value is not None for flag in (_COORDINATOR, _PROCESSES, _PROCESS)]
  if any(given) and not all(given):
    names = [f"--{flag.name}" for flag in (_COORDINATOR, _PROCESSES, _PROCESS) if flag.value is None]
    raise ConfigError(f"--coordinator, --processes and --process go together: give {' and '.join(names)}, too")
  return any(given) or _DISTRIBUTED.value


def _with_others(work: Callable[[], int]) -> int:
  """Does the work together with the other processes of the run; returns 0, or ends this process.

  One that fails ends at once: it would wait for the others to come to their end, and they for it in their next step.
  """
  import jax

  from mlrec import cluster

  def end(message: str) -> NoReturn:
    os._exit(command_line.report(message, command_line.FAILED))

  watch = cluster.join(
    _COORDINATOR.value, _PROCESSES.value, _PROCESS.value, patience=_PEER_TIMEOUT.value, end=end
  )  # fmt: skip
  try:
    status = work()
  except (ConfigError, DataError) as error:
    status = command_line.report(error, command_line.REFUSED)
  except Exception as error:
    if watch and isinstance(error, jax.errors.JaxRuntimeError):
      # Where it is of another process, which is gone, the watch says so, and ends this one.
      watch.join(2 * _PEER_TIMEOUT.value)
    traceback.print_exc()
    status = command_line.FAILED
  if status:
    sys.stdout.flush()
    os._exit(status)
  return status


if __name__ == "__main__":
  command_line.run(main, _parse_flags)
