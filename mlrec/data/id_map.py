"""Original ids by dense id, as a run keeps them: what its tables' rows stand for."""

import hashlib
import pathlib
from typing import NamedTuple
from typing import Self

import numpy as np

from mlrec import files
from mlrec import mapped
from mlrec.data.interactions import DataError
from mlrec.data.splits import Split


class IdMap(NamedTuple):
  """The ids of a run.

  Attributes:
    items: `[num_items + 1]` int64, entry 0 being 0, the padding.
    users: `[num_users]` int64.
  """

  items: np.ndarray
  users: np.ndarray

  @classmethod
  def of(cls, split: Split) -> Self:
    return cls(np.asarray(split.item_ids, np.int64), np.asarray(split.users, np.int64))

  @property
  def digest(self) -> str:
    """Sixteen hexadecimal digits of both."""
    digest = hashlib.sha256()
    for ids in self:
      digest.update(len(ids).to_bytes(8, "little"))
      for piece in mapped.pieces(ids):
        digest.update(piece.astype("<i8").tobytes())
    return digest.hexdigest()[:16]

  def write(self, path: pathlib.Path) -> None:
    """Writes safetensors, a whole file or none."""
    mapped.write(path, self._asdict(), {})

  @classmethod
  def read(cls, path: pathlib.Path, *, digest: str = "") -> Self:
    """Reads what `write` wrote; its arrays are mapped.

    Args:
      path: the file, which must not be changed while they are in use; it may be replaced or removed.
      digest: what it must have; empty for any.

    Raises:
      DataError: the file is missing or damaged.
    """
    try:
      arrays, _ = mapped.read(path)
      found = cls(*(arrays[name] for name in cls._fields))
    except (OSError, KeyError, ValueError) as error:
      raise DataError(f"{path}: the run's ids cannot be read ({files.reason(error)})") from error
    if digest and found.digest != digest:
      raise DataError(f"{path}: these are not the ids that the run was trained with (their digest differs)")
    return found


def matched(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Places of the ids that both have: `ours[first[k]] == theirs[second[k]]` for each k.

  Args:
    ours: distinct ids in any order.
    theirs: likewise.
  """
  _, first, second = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
  return first, second
