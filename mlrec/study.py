"""Runs an analysis of the paper, or one of your own: `python -m mlrec.study --config=FILE.py --workdir=DIR`.

FILE.py has, beside `get_config()`, a `get_study()` (`mlrec/runs/study` says what that is; `configs/studies/` has those
of arXiv 2309.15379). Each of its runs has a workdir in DIR. The same command resumes: a finished run is not run again,
and one that was killed is resumed from its checkpoint. A run that fails is listed with its reason; the others are run.
Keys of the config can be set for all runs: `--config.data.source=…`, `--config.seeds="(0, 1, 2)"` for mean and spread.

What it leaves: `study.md`, `study.csv`, `study.svg` and `study.png` (or of the study's own name). `--report_only` makes
them of what is there.
`python -m mlrec.report DIR/*/` tells also what the runs took.
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
from mlrec.runs.study import definition
from mlrec.runs.study import Study

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A Python file with get_config() and get_study(); its keys are set by --config.KEY=VALUE."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the study is kept, a folder a run; the same one resumes it.")
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Write the report of what is there, and run nothing.")
_PLOT = flags.DEFINE_bool("plot", True, "Also the plot, which needs matplotlib.")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --report_only")
    if _CONFIG.value is None or _WORKDIR.value is None:
      raise ConfigError(f"--{'config=FILE.py' if _CONFIG.value is None else 'workdir=DIR'} is required")
    flag = flags.FLAGS["config"]
    study = definition.load(config_flags.get_config_filename(flag))
    definition.check_keys(study, config_flags.get_override_values(flag))
    return _run(study, config_lib.validate(_CONFIG.value), pathlib.Path(_WORKDIR.value).expanduser())
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _run(study: Study, config: ConfigDict, workdir: pathlib.Path) -> int:
  from mlrec.runs.study import runner

  machine.share_arenas()

  return command_line.run_reporting(
    lambda: runner.run(study, config, workdir, report_only=_REPORT_ONLY.value, draw=_PLOT.value, say=terminal.say),
    workdir,
    terminal.say,
  )


if __name__ == "__main__":
  command_line.run(main, command_line.flags_parser(_CONFIG))
