"""Looks for a config's best settings: `python -m mlrec.sweep --config=FILE.py --workdir=DIR --trials=N [--seconds=S]`.

FILE.py has, beside `get_config()`, a `get_search_space()` (`mlrec/search_space.py` shows one). The first trial has the
config's own values, as far as the space has them; those of the others are chosen by Optuna's TPE sampler (Bergstra et
al., NeurIPS 2011). A trial is worth the validation metric `config.train.monitor` of its best epoch. The test split is
never looked at.

The same command in the same workdir resumes: a trial that was killed is resumed from its checkpoint. Several processes
may run it at once, on one machine or on a shared disk whose locks work; they share the trials. With one process a sweep
is deterministic.

What it leaves: `best.py`, a config for `mlrec.main`; `best.json`; `trials.jsonl`; and a workdir a trial, of which only
the best keeps its checkpoints.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib

from absl import flags
from ml_collections import config_flags
from ml_collections import ConfigDict

from mlrec import command_line
from mlrec import config as config_lib
from mlrec import machine
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A Python file with get_config() and get_search_space(); its keys are set by --config.KEY=VALUE."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the sweep is kept; the same one resumes it.")
_TRIALS = flags.DEFINE_integer("trials", None, "How many trials, of all processes and runs of the command together.")
_SECONDS = flags.DEFINE_float("seconds", None, "Begin no trial once those that have ended took so long together.")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --trials=20")
    if _CONFIG.value is None or _WORKDIR.value is None:
      raise ConfigError(f"--{'config=FILE.py' if _CONFIG.value is None else 'workdir=DIR'} is required")
    if _TRIALS.value is None and _SECONDS.value is None:
      raise ConfigError("--trials=N, --seconds=S or both are required: what a sweep may cost")
    for limit in (_TRIALS, _SECONDS):
      if limit.value is not None and not limit.value > 0:
        raise ConfigError(f"--{limit.name} must be above 0, not {limit.value}")
    config = config_lib.validate(_CONFIG.value)
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    return _run(config, file, pathlib.Path(_WORKDIR.value).expanduser())
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _run(config: ConfigDict, file: str, workdir: pathlib.Path) -> int:
  machine.share_arenas()
  # Optuna comes in here: mistakes in flags are told at once.
  from mlrec.runs.sweep import runner

  space = runner.load_space(file)
  runner.check_space(space, config)
  sweep = runner.Sweep(config, space, workdir, file=file)

  return command_line.run_reporting(
    lambda: sweep.run(trials=_TRIALS.value, seconds=_SECONDS.value, say=terminal.say), workdir, terminal.say
  )  # fmt: skip


if __name__ == "__main__":
  command_line.run(main, command_line.flags_parser(_CONFIG))
