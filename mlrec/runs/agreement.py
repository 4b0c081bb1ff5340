"""The processes of a run must mean the same run: their configs and data are compared before anything is trained."""

from collections.abc import Callable
import itertools
import json
from typing import Any

from ml_collections import ConfigDict

from mlrec import cluster
from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import DataError

_DATA = "data."
# Keys that are told of one process that has another config.
_TOLD = 5
_count = itertools.count()


def agree_on_config(config: ConfigDict, **flags: Any) -> None:
  """Raises a ConfigError where another process has another config, or other flags.

  Keys of `config.data` may differ, since disks do: what is read is compared by `agree_on_data`.
  """
  values = config_lib.flatten(config_lib.to_json(config))
  mine = {f"config.{key}": value for key, value in values if not key.startswith(_DATA)}
  mine |= {f"--{name}": value for name, value in flags.items()}
  (first, _), others = _different(lambda: json.dumps(mine, sort_keys=True))
  for number, (theirs, _) in others.items():
    keys = _keys(json.loads(first), json.loads(theirs), number)
    raise ConfigError(
      f"process {number} has another command than process 0: {keys}: give all processes the same, but for --process"
    )


def agree_on_data(config: ConfigDict, fingerprint: str, what: str) -> None:
  """Raises a DataError where another process has read other data, which have another fingerprint.

  Args:
    config: of this process; keys of `config.data` are told where they differ.
    fingerprint: of what it has read.
    what: that is, such as "another log".
  """
  values = config_lib.flatten(config_lib.to_json(config))
  mine = {f"config.{key}": value for key, value in values if key.startswith(_DATA)}
  (_, first), others = _different(lambda: fingerprint, beside=json.dumps(mine))
  for number, (_, theirs) in others.items():
    keys = _keys(json.loads(first), json.loads(theirs), number)
    raise DataError(
      f"{config.data.source}: process {number} has read {what} than process 0"
      + (f": {keys}" if keys else ", under the same keys of config.data: their files differ")
      + "; all must have the same"
    )


def agree_on_workdir(workdir: str, see: Callable[[], str], *, patience: float) -> None:
  """Raises a ConfigError where another process sees something else in the workdir, and so for `patience` seconds."""
  (first, _), others = _different(see, patience=patience)
  for number, (theirs, _) in others.items():
    raise ConfigError(
      f"{workdir}: process {number} sees {theirs}, and process 0 {first}: the workdir must be the same for "
      "all, on a disk that they share"
    )


def _different(see: Callable[[], str], **options: Any) -> Any:
  return cluster.different(str(next(_count)), see, **options)


def _keys(first: dict[str, Any], other: dict[str, Any], number: int) -> str:
  absent = "(absent)"
  keys = sorted(key for key in first.keys() | other.keys() if first.get(key, absent) != other.get(key, absent))
  told = [
    f"{key} is {other.get(key, absent)!r} in process {number}, {first.get(key, absent)!r} in process 0"
    for key in keys[:_TOLD]
  ]
  return "; ".join(told) + (f"; and {len(keys) - _TOLD} more" if len(keys) > _TOLD else "")
