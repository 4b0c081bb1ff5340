"""In what the configs of a table's rows differ."""

import json
from typing import Any

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.runs.report.rows import FinishedRun
from mlrec.runs.report.rows import Table
from mlrec.runs.workdir import Workdir

# A value that is longer is cut off.
_LONGEST = 80
# Rows are over seeds.
_OF_SEEDS = ("seed", "seeds")


def of_configs(table: Table) -> dict[str, list[str | None]]:
  """The keys in which rows differ, sorted, with the value of each row as JSON; None where a row lacks the key.

  Raises:
    ConfigError: a config is nested so deeply that it can be none of a run's.
  """
  configs = [values_of(row.runs[0]) for row in table.rows]
  keys = sorted({key for config in configs for key in config} - set(_OF_SEEDS))
  found = {key: [config.get(key) for config in configs] for key in keys}
  return {key: [_shortened(value) for value in values] for key, values in found.items() if len(set(values)) > 1}


def values_of(run: FinishedRun) -> dict[str, str]:
  """The values of a run's config by their keys, as JSON.

  Raises:
    ConfigError: as `of_configs`.
  """
  try:
    return {key: _shown(value) for key, value in config_lib.flatten(run.config)}
  except RecursionError as error:
    path = Workdir(run.workdir).config
    raise ConfigError(f"{path}: it is no config of mlrec.main: its values are nested too deeply") from error


def _shown(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _shortened(value: str | None) -> str | None:
  return value if value is None or len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
