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


def agree_on_config(config: ConfigDict) -> None:
  """Raises a ConfigError where another process has another config.

  Keys of `config.data` may differ, since disks do: what is read is compared by `agree_on_data`.
  """
  mine = {key: value for key, value in config_lib.flatten(config_lib.to_json(config)) if not key.startswith("data.")}
  said = {number: json.loads(text) for number, text in _different(json.dumps(mine, sort_keys=True)).items()}
  for number, theirs in list(said.items())[1:]:
    raise ConfigError(
      f"process {number} has another config than process 0: {_keys(said[0], theirs)}: give all processes the same "
      "command, but for --process"
    )


def agree_on_data(name: str, fingerprint: str) -> None:
  """Raises a DataError where another process has read other data than `name`, of that fingerprint."""
  said = _different(fingerprint)
  if said:
    others = ", ".join(map(str, list(said)[1:]))
    raise DataError(f"{name}: process {others} has read other data than process 0; all must have the same")


def _different(text: str) -> dict[int, str]:
  return cluster.different(str(next(_count)), text)


def _keys(first: dict[str, Any], other: dict[str, Any]) -> str:
  absent = "(absent)"
  keys = sorted(key for key in first.keys() | other.keys() if first.get(key, absent) != other.get(key, absent))
  told = [f"config.{key} = {other.get(key, absent)!r}, there {first.get(key, absent)!r}" for key in keys[:_TOLD]]
  return "; ".join(told) + (f" and {len(keys) - _TOLD} more" if len(keys) > _TOLD else "")
