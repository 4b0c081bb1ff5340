"""What item towers read beside ids: arrays by dense item id, made where they are needed."""

from collections.abc import Mapping
from typing import Any
from typing import NamedTuple
from typing import Protocol

import numpy as np

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


# Decoded content that is kept, if all of a split's fits; else it is decoded whenever it is read.
_KEPT_BYTES = 256 << 20


class SourceContent:
  """What a source holds of the items of a split; that of a small split is decoded once."""

  def __init__(self, name: str, source: Any, item_ids: np.ndarray, need: Need, reading: Mapping[str, Any] = {}):
    """Looks up which items the source has.

    Args:
      name: of the array.
      source: anything that has `items`, ascending original ids, `read(ids, ...)` and `fingerprint`. Its `need`, if it
        has one, takes the place of the one asked for: what it gives may be smaller. One that is `in_memory` is read
        anew each time.
      item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
      need: the array that is read of each item.
      reading: the keywords of the source's `read` that give such arrays.
    """
    self._name, self._source, self._reading, self._ids = name, source, dict(reading), np.asarray(item_ids)
    self._there = np.isin(self._ids, np.asarray(source.items))
    self._there[0] = False
    need = getattr(source, "need", need)
    self.needs = {name: need, name + THERE: Need((), "bool")}
    size = len(self._ids) * int(np.prod(need.shape)) * np.dtype(need.dtype).itemsize
    keep = size <= _KEPT_BYTES and not getattr(source, "in_memory", False)
    self._kept = np.zeros((len(self._ids), *need.shape), need.dtype) if keep else None
    self._decoded = np.zeros(len(self._ids), bool)

  @property
  def missing(self) -> np.ndarray:
    """Original ids of the items that the source does not have: theirs is zeros, as the padding item's."""
    return self._ids[1:][~self._there[1:]]

  @property
  def fingerprint(self) -> str:
    return str(self._source.fingerprint)

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    """`{name: [*items.shape, *need.shape], name + "_there": [*items.shape] bool}`."""
    return {self._name: self._arrays(items), self._name + THERE: self._there[items]}

  def _arrays(self, items: np.ndarray) -> np.ndarray:
    shape, dtype = self.needs[self._name]
    flat = items.reshape(-1)
    if self._kept is not None:
      missing = np.unique(flat[self._there[flat] & ~self._decoded[flat]])
      if missing.size:
        self._kept[missing] = self._source.read(self._ids[missing], **self._reading)
        # Only now: another thread may be reading.
        self._decoded[missing] = True
      return self._kept[items]
    out = np.zeros((flat.size, *shape), dtype)
    there = np.flatnonzero(self._there[flat])
    if there.size:
      out[there] = self._source.read(self._ids[flat[there]], **self._reading)
    return out.reshape(*items.shape, *shape)


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
