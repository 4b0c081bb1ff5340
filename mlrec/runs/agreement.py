"""The processes of a run must mean the same run: their configs and data are compared before anything is trained."""

import itertools
import json
from typing import Any

from ml_collections import ConfigDict

from mlrec import cluster
from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import DataError

# Keys that are told of one process that has another config.
_TOLD = 5
_count = itertools.count()


def agree_on_config(config: ConfigDict, **flags: Any) -> None:
  """Raises a ConfigError where another process has another config, or other flags.

  Keys of `config.data` may differ, since disks do: what is read is compared by `agree_on_data`.
  """
  values = config_lib.flatten(config_lib.to_json(config))
  mine = {f"config.{key}": value for key, value in values if not key.startswith("data.")}
  mine |= {f"--{name}": value for name, value in flags.items()}
  first, others = _different(json.dumps(mine, sort_keys=True))
  for number, theirs in others.items():
    keys = _keys(json.loads(first), json.loads(theirs), number)
    raise ConfigError(
      f"process {number} has another command than process 0: {keys}: give all processes the same, but for --process"
    )


def agree_on_data(name: str, fingerprint: str) -> None:
  """Raises a DataError where another process has read other data than `name`, of that fingerprint."""
  _, others = _different(fingerprint)
  if others:
    numbers = ", ".join(map(str, others))
    raise DataError(f"{name}: process {numbers} has read other data than process 0; all must have the same")


def agree_on_workdir(workdir: str, seen: str) -> None:
  """Raises a ConfigError where another process sees something else than `seen` in the workdir."""
  first, others = _different(seen)
  for number, theirs in others.items():
    raise ConfigError(
      f"{workdir}: process {number} sees that {theirs}, and process 0 that {first}: the workdir must be the same for "
      "all, on a disk that they share"
    )


def _different(text: str) -> tuple[str, dict[int, str]]:
  return cluster.different(str(next(_count)), text)


def _keys(first: dict[str, Any], other: dict[str, Any], number: int) -> str:
  absent = "(absent)"
  keys = sorted(key for key in first.keys() | other.keys() if first.get(key, absent) != other.get(key, absent))
  told = [
    f"{key} is {other.get(key, absent)!r} in process {number}, {first.get(key, absent)!r} in process 0"
    for key in keys[:_TOLD]
  ]
  return "; ".join(told) + (f"; and {len(keys) - _TOLD} more" if len(keys) > _TOLD else "")
