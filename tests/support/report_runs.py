"""What a report reads of a run, written without running it."""

import csv
import io
import json
import pathlib
from typing import Any

import numpy as np

from mlrec import metrics_by_user
from mlrec.runs.per_user import PerUser
from mlrec.runs.per_user import UserRecords
from support.tiny_runs import read_json

_ITEMS = 25


def ranks_of(seed: int, users: int, hits: int) -> np.ndarray:
  """`[users]` int32: ranks, of which so many are within the first ten."""
  rng = np.random.default_rng(seed)
  ranks = rng.integers(11, _ITEMS, users)
  ranks[rng.permutation(users)[:hits]] = rng.integers(1, 11, hits)
  return ranks.astype(np.int32)


def write_run(
  folder: pathlib.Path,
  finished: pathlib.Path,
  *,
  ranks: np.ndarray,
  users: np.ndarray | None = None,
  config: dict[str, Any] | None = None,
  **result: Any,
) -> pathlib.Path:
  """Config, result and records of a run that found `ranks` at the test, the rest as of `finished`.

  `users` are those of the ranks, one a target, by default a user each; `config` changes sections, `result` keys.
  """
  folder.mkdir(parents=True)
  settings, found = read_json(finished / "config.json"), read_json(finished / "result.json")
  for section, values in (config or {}).items():
    settings[section] = values if section == "model" else settings.get(section, {}) | values
  several = users is not None
  users = np.arange(1, len(ranks) + 1) if users is None else users
  rng = np.random.default_rng(0)
  targets = np.concatenate([np.arange(1, number + 1) for number in metrics_by_user.numbers(users)]).astype(np.int32)
  kept = UserRecords(users, ranks, targets, rng.integers(1, _ITEMS + 1, (len(ranks), 10)))
  means = {name: float(gain.mean()) for name, gain in kept.gains.items() if several or name != "recall@10"}
  found["test"] = found["test"] | means
  found |= {"config_hash": folder.name, "data": "d", **result}
  (folder / "config.json").write_text(json.dumps(settings))
  (folder / "result.json").write_text(json.dumps(found))
  about = {"data": found["data"], "config_hash": found["config_hash"], "seed": found["seed"]}
  records = PerUser(**about, items=np.arange(1, _ITEMS + 1), train_counts=np.arange(_ITEMS), splits={"test": kept})
  records.write(folder / "per_user.safetensors")
  return folder


def csv_rows(text: str) -> list[dict[str, str]]:
  return list(csv.DictReader(io.StringIO(text)))
