"""What a run is compared with at its end: popularity, and the same model on item IDs."""

from collections.abc import Callable
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from mlrec import metrics
from mlrec.data.splits import Split
from mlrec.train.writers import finite
from mlrec.train.writers import write_json

COMPARISON = "comparison.json"
_COLUMNS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "cold/hr@10")
# Users ranked at a time; the states are one number each.
_USERS = 4096


def popularity(split: Split, name: str) -> dict[str, float]:
  """Metrics of ranking all items by their training interactions, the user's history struck, on split `name`."""
  counts = jnp.asarray(split.train_counts.astype(np.float32)[:, None])
  targets, seen = split.targets(name), split.seen(name).padded(split.max_length + 2)
  ranks = []
  for at in range(0, split.num_users, _USERS):
    users = slice(at, at + _USERS)
    states = jnp.ones((len(targets[users]), 1))
    ranks.append(
      np.asarray(
        metrics.target_ranks(states, counts, targets=jnp.asarray(targets[users]), seen=jnp.asarray(seen[users]))
      )
    )
  found = np.concatenate(ranks)
  return metrics.ranking_metrics(found) | metrics.bucket_metrics(found, split.train_counts[targets])


def id_twin(config: ConfigDict) -> ConfigDict:
  """The same experiment on item IDs."""
  twin = config.copy_and_resolve_references()
  twin.model.item = ConfigDict({"name": "id"})
  twin.baselines = ()
  return twin


def compare(workdir: pathlib.Path, rows: dict[str, dict[str, Any]], say: Callable[[str], None]) -> None:
  """Prints test metrics side by side and keeps them in `comparison.json`.

  Args:
    workdir: of the run.
    rows: test metrics by the row's name; numbers, or mean and standard deviation over seeds.
    say: prints a line.
  """
  if jax.process_index() == 0:
    kept = {name: {key: row.get(key) for key in _COLUMNS} for name, row in rows.items()}
    write_json(workdir / COMPARISON, kept)
  width = max(map(len, rows)) + 2
  say("test".ljust(width) + "".join(column.rjust(18) for column in _COLUMNS))
  for name, row in rows.items():
    say(name.ljust(width) + "".join(_figure(row.get(column)).rjust(18) for column in _COLUMNS))


def popularity_row(split: Split) -> dict[str, float | None]:
  return finite(popularity(split, "test"))


def _figure(value: Any) -> str:
  if value is None:
    return "-"
  return f"{value['mean']:.4f} ± {value['std']:.4f}" if isinstance(value, dict) else f"{value:.4f}"
