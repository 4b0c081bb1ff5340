"""What item towers read beside ids: arrays by dense item id, made where they are needed."""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple
from typing import Protocol

import numpy as np

from mlrec.data.interactions import DataError

# Ends the name of the array, one bool an item, that says which items have the content of the name before it.
THERE = "_there"


class Need(NamedTuple):
  """An array that a tower reads for each item.

  Attributes:
    shape: of one item's.
    dtype: its NumPy name.
  """

  shape: tuple[int, ...]
  dtype: str


class Content(Protocol):
  """Arrays by name for any items."""

  @property
  def needs(self) -> Mapping[str, Need]:
    """What there is for each item, by name."""

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    """For dense ids of any shape, `[*items.shape, *need.shape]` each; zeros for id 0 and for items without content."""

  @property
  def fingerprint(self) -> str:
    """Stands for what is read."""


class Together:
  """Several contents as one."""

  def __init__(self, parts: list[Content]):
    self._parts = parts
    self.needs = {name: need for part in parts for name, need in part.needs.items()}

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array for part in self._parts for name, array in part.read(items).items()}

  @property
  def fingerprint(self) -> str:
    return "-".join(part.fingerprint for part in self._parts)


class Below:
  """A content whose names have a path before them."""

  def __init__(self, content: Content, path: str):
    self._content, self._path = content, path
    self.needs = {path + name: need for name, need in content.needs.items()}

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    return {self._path + name: array for name, array in self._content.read(items).items()}

  @property
  def fingerprint(self) -> str:
    return self._content.fingerprint


# Decoded frames that are kept, if all of a split's fit; else they are decoded whenever they are read.
_KEPT_BYTES = 256 << 20


class FrameContent:
  """Frames of a prepared video set, for the items of a split; those of a small one are decoded once."""

  def __init__(self, frames: Any, item_ids: np.ndarray, need: Need):
    """Looks up which items have a video.

    Args:
      frames: a `Frames`, or anything that has its `items` and `read`.
      item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
      need: `[F, S, S, 3]` uint8.

    Raises:
      DataError: no item has a video.
    """
    self._frames, self._ids = frames, np.asarray(item_ids)
    self._there = np.isin(self._ids, np.asarray(frames.items))
    self._there[0] = False
    self.needs = {"frames": need}
    size = len(self._ids) * int(np.prod(need.shape)) * np.dtype(need.dtype).itemsize
    self._kept = np.zeros((len(self._ids), *need.shape), need.dtype) if size <= _KEPT_BYTES else None
    self._decoded = np.zeros(len(self._ids), bool)
    if not self._there.any():
      raise DataError(
        f"config.data.videos: none of its {len(frames.items):,} videos is of the {len(item_ids) - 1:,} items"
      )

  @property
  def missing(self) -> np.ndarray:
    """Original ids of the items that have no video: their frames are zeros, as the padding item's."""
    return self._ids[1:][~self._there[1:]]

  @property
  def fingerprint(self) -> str:
    return str(self._frames.fingerprint)

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    """`{"frames": [*items.shape, F, S, S, 3] uint8}`."""
    shape, dtype = self.needs["frames"]
    flat = items.reshape(-1)
    if self._kept is not None:
      missing = np.unique(flat[self._there[flat] & ~self._decoded[flat]])
      if missing.size:
        self._kept[missing] = self._read(missing)
        # Only now: another thread may be reading.
        self._decoded[missing] = True
      return {"frames": self._kept[items]}
    out = np.zeros((flat.size, *shape), dtype)
    there = np.flatnonzero(self._there[flat])
    if there.size:
      out[there] = self._read(flat[there])
    return {"frames": out.reshape(*items.shape, *shape)}

  def _read(self, items: np.ndarray) -> np.ndarray:
    shape, _ = self.needs["frames"]
    return self._frames.read(self._ids[items], frames=shape[0], size=shape[1])


class FeatureContent:
  """Vectors computed beforehand, a row for each dense id."""

  def __init__(self, vectors: np.ndarray, fingerprint: str, there: np.ndarray):
    """Keeps the arrays.

    Args:
      vectors: `[num_items + 1, D]`, memory-mapped or not; row 0 is the padding item's.
      fingerprint: stands for them.
      there: `[num_items + 1]` bool, whether a row is of the item's content.
    """
    self._vectors, self._there = vectors, there
    self.fingerprint = fingerprint
    self.needs = {"features": Need(vectors.shape[1:], str(vectors.dtype)), f"features{THERE}": Need((), "bool")}

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    """`{"features": [*items.shape, D], "features_there": [*items.shape] bool}`."""
    return {"features": np.asarray(self._vectors[items]), f"features{THERE}": self._there[items]}
