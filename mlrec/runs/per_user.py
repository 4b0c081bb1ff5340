"""What a run found of each user, as it is kept beside its result: 56 bytes a target and split, 12 an item.

`per_user.safetensors` holds, of all items, `items` (original ids) and `train_counts`, and of each split `…/users`
(original ids), `…/ranks`, `…/targets` and `…/recommended`, the latter two by dense id, which is the place in `items`
plus 1. Its metadata name the data's fingerprint, the config's hash and the seed, so that no report mixes it up.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
from typing import Any
from typing import Self

import numpy as np

from mlrec import files
from mlrec import metrics_by_user
from mlrec.data.interactions import DataError
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import Split
from mlrec.train.summary import Ranked

_SPLIT_ARRAYS = {"users": np.int64, "ranks": np.int32, "targets": np.int32, "recommended": np.int32}


@dataclasses.dataclass(frozen=True, eq=False)
class UserRecords:
  """What was found on one split.

  Attributes:
    users: `[B]` int64, original ids: one a target, so that a user with several stands there as often, in places one
      after another.
    ranks: `[B]` int32, the place of each target, from 1.
    targets: `[B]` int32, dense ids.
    recommended: `[B, K]` int32, the first places' dense ids, best first; 0 where there were too few.
  """

  users: np.ndarray
  ranks: np.ndarray
  targets: np.ndarray
  recommended: np.ndarray

  @property
  def firsts(self) -> np.ndarray:
    """`[U]` int64: the first place of each user."""
    return np.flatnonzero(np.diff(self.users, prepend=self.users[:1] - 1))

  @property
  def gains(self) -> dict[str, np.ndarray]:
    """By metric, `[U]` float64 what each user adds to its mean; `recall@10` is `hr@10` with one target a user."""
    of_user = self.ranks, self.users
    return {
      "ndcg@10": metrics_by_user.ndcg(*of_user, 10),
      "hr@10": metrics_by_user.hits(*of_user, 10),
      "recall@10": metrics_by_user.recall(*of_user, 10),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class PerUser:
  """The records of a run.

  Attributes:
    data: fingerprint of the split.
    config_hash: of the run.
    seed: of the run.
    items: `[N]` int64, original ids, ascending; dense id n is that of `items[n - 1]`.
    train_counts: `[N]` int32, how often each of them occurs in training.
    splits: what was found, by split.
  """

  data: str
  config_hash: str
  seed: int
  items: np.ndarray
  train_counts: np.ndarray
  splits: Mapping[str, UserRecords]

  @classmethod
  def of(cls, split: Split, ranked: Mapping[str, Ranked], *, config_hash: str, seed: int) -> Self:
    """The records of what a run found on parts of a split, by their names."""
    found = {}
    for name, one in ranked.items():
      found[name] = UserRecords(split.users[split.evaluated(name)], one.ranks, split.targets(name), one.recommended)
    return cls(split.fingerprint, config_hash, seed, split.item_ids[1:], split.train_counts[1:], found)

  def write(self, path: pathlib.Path) -> None:
    """Writes safetensors, a whole file or none."""
    arrays = {"items": np.asarray(self.items, np.int64), "train_counts": np.asarray(self.train_counts, np.int32)}
    for name, records in self.splits.items():
      arrays |= {f"{name}/{key}": np.asarray(getattr(records, key), kind) for key, kind in _SPLIT_ARRAYS.items()}
    said = {"data": self.data, "config_hash": self.config_hash, "seed": str(self.seed)}
    files.write_safetensors(path, arrays, said)

  @classmethod
  def read(cls, path: pathlib.Path) -> Self:
    """Reads what `write` wrote, with nothing in it believed.

    Raises:
      DataError: the file is missing, damaged, or holds something else.
    """
    try:
      arrays, said = files.read_safetensors(path)
      items, counts = _checked(arrays, "items", np.int64), _checked(arrays, "train_counts", np.int32)
      if len(items) != len(counts) or counts.min(initial=0) < 0 or not (items[1:] > items[:-1]).all():
        raise ValueError("its items must be ascending ids with a count of training each")
      splits = {name: _records(arrays, name, len(items)) for name in EVALUATED if f"{name}/ranks" in arrays}
      return cls(said["data"], said["config_hash"], int(said["seed"]), items, counts, splits)
    except KeyError as error:
      raise DataError(f"{path}: a run's records of users cannot be read (it has no {error})") from error
    except (OSError, ValueError) as error:
      raise DataError(f"{path}: a run's records of users cannot be read ({error})") from error


def _records(arrays: Mapping[str, Any], name: str, num_items: int) -> UserRecords:
  found = UserRecords(*(_checked(arrays, f"{name}/{key}", kind) for key, kind in _SPLIT_ARRAYS.items()))
  if not len(found.users) == len(found.ranks) == len(found.targets) == len(found.recommended):
    raise ValueError(f"its arrays of {name!r} are of different lengths")
  users, firsts = np.unique(found.users), found.firsts
  if len(users) < len(firsts):
    raise ValueError(f"{name}/users names one twice, in places apart")
  if len(users) < len(found.users):
    pairs = np.unique(np.stack([found.users, found.targets]), axis=1)
    if pairs.shape[1] < len(found.users):
      raise ValueError(f"{name}/users names one twice, with one target")
  for key, least, most in (("ranks", 1, None), ("targets", 1, num_items), ("recommended", 0, num_items)):
    values = getattr(found, key)
    if values.size and (values.min() < least or (most is not None and values.max() > most)):
      raise ValueError(f"{name}/{key} holds {values.min()} to {values.max()}, of {num_items} items")
  return found


def _checked(arrays: Mapping[str, Any], name: str, kind: type) -> np.ndarray:
  array, axes = arrays[name], 2 if name.endswith("recommended") else 1
  if array.dtype != kind or array.ndim != axes:
    raise ValueError(f"{name} must be {np.dtype(kind)} of {axes} axes, not {array.dtype} {array.shape}")
  return array
