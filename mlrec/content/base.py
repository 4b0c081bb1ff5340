"""What item towers read beside ids: arrays by dense item id, made where they are needed."""

import abc
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import ClassVar
from typing import NamedTuple
from typing import Protocol
from typing import Self

from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.data import ingested
from mlrec.data.interactions import DataError

# Ends the name of the array, one bool an item, that says which items have the content of the name before it.
PRESENT = "_present"
# What has `mlrec.ingest` take in what an item has, if not a folder of media.
_TAKEN_IN = {"title": "--items=FILE"}


class Need(NamedTuple):
  """An array that a tower reads for each item.

  Attributes:
    shape: of one item's.
    dtype: its NumPy name.
  """

  shape: tuple[int, ...]
  dtype: str


class Source(abc.ABC):
  """One content of items by original id, read at random; the base of every modality.

  A modality says how a config names it; a source that is handed to a run as it is needs only `items`, `fingerprint` and
  `read`.

  Attributes:
    key: the key of `config.data` that names the source.
    noun: what an item has of it, for messages.
    example: a value of the key, for messages.
    in_memory: whether what is read is held decoded already, so that nobody needs to keep it.
    source: the value of that key, for messages; empty where a config does not name it.
    items: `[n]` int64, ascending: original ids of the items that have the content.
    fingerprint: sixteen hexadecimal digits of what is read.
  """

  key: ClassVar[str] = "content"
  noun: ClassVar[str] = "record"
  example: ClassVar[str] = ""
  in_memory: ClassVar[bool] = False
  source: str = ""
  items: np.ndarray
  fingerprint: str

  @classmethod
  def from_config(cls, data: ConfigDict, *args: Any, **opening: Any) -> Self:
    """Opens what `config.data` names.

    Args:
      data: `config.data`.
      *args: none; it lets a modality name its own keywords.
      **opening: what the reader's recipe hands to the source.

    Raises:
      ConfigError: the key is empty.
      DataError: the content cannot be read.
    """
    raise NotImplementedError(f"{cls.__name__} is given as it is: no config names it")

  @classmethod
  def named(cls, data: ConfigDict) -> str:
    """The value of `config.data.{key}`; or of `config.data.source`, if that is a folder of `mlrec.ingest`.

    A release that the key names, as those of the configs do, is not what a log of one's own is about: that the same
    integers stand for items of both means nothing.

    Raises:
      ConfigError: there is none, or such a folder has no content of the kind.
      DataError: such a folder is damaged.
    """
    source = data.get("source", "")
    if ingested.takes_place_of(source, data[cls.key]):
      if ingested.holds(source, cls.noun):
        return source
      taken_in = f"python -m mlrec.ingest takes them in, with {_TAKEN_IN.get(cls.noun, '--media=DIR')}"
      of_release = f" = {data[cls.key]!r} is of a release" if data[cls.key] else " is empty"
      raise ConfigError(
        f"config.data.{cls.key}{of_release}, the item tower reads {cls.noun}s, and config.data.source = {source!r} is "
        f"a log of your own that has none: {taken_in}"
      )
    if not data[cls.key]:
      raise ConfigError(
        f"config.data.{cls.key} is empty, and the item tower reads {cls.noun}s: name a prepared data set, such as "
        f"{cls.example}"
      )
    return data[cls.key]

  @abc.abstractmethod
  def read(self, ids: np.ndarray, *args: Any, **reading: Any) -> np.ndarray:
    """The content of items, in the order of their original `ids [n]`; a modality names its own keywords.

    Raises:
      DataError: an item has none.
    """

  def given(self, need: Need) -> Need:
    """The array that `read` gives of each item where `need` is asked for: it may be smaller."""
    return need


class Content(Protocol):
  """Arrays by name for any items; may be read from several threads.

  Attributes:
    decodes: whether reading decodes media, which takes long.
  """

  decodes: bool

  @property
  def needs(self) -> Mapping[str, Need]:
    """The arrays of each item, by name."""

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    """For dense ids of any shape, `[*items.shape, *need.shape]` each; zeros for id 0 and for items without content."""

  @property
  def fingerprint(self) -> str:
    """Stands for what is read."""


class Combined:
  """Several contents as one."""

  def __init__(self, parts: Sequence[Content]):
    self._parts = parts
    self.decodes = any(part.decodes for part in parts)
    self.needs = {name: need for part in parts for name, need in part.needs.items()}

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    return {name: array for part in self._parts for name, array in part.read(items).items()}

  @property
  def fingerprint(self) -> str:
    return "-".join(part.fingerprint for part in self._parts)


class Prefixed:
  """A content whose names have a path before them."""

  def __init__(self, content: Content, path: str):
    self._content, self._path = content, path
    self.decodes = content.decodes
    self.needs = {path + name: need for name, need in content.needs.items()}

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    return {self._path + name: array for name, array in self._content.read(items).items()}

  @property
  def fingerprint(self) -> str:
    return self._content.fingerprint


# Decoded content is kept if that of all items of a split fits; otherwise it is decoded whenever it is read.
KEPT_BYTES = 256 << 20


class SourceContent:
  """What a source holds of the items of a split; that of a small split is decoded once."""

  def __init__(
    self,
    name: str,
    source: Source,
    item_ids: np.ndarray,
    need: Need,
    reading: Mapping[str, Any],
    *,
    kept_bytes: int = KEPT_BYTES,
  ):
    """Looks up which items the source has.

    Args:
      name: of the array.
      source: what is read.
      item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
      need: the array that is read of each item.
      reading: the keywords of the source's `read` that give such arrays.
      kept_bytes: what decoded content may take to be kept.

    Raises:
      DataError: the source has none of the items.
    """
    self._name, self._source, self._reading, self._ids = name, source, dict(reading), np.asarray(item_ids)
    self._present = present(source, self._ids)
    need = source.given(need)
    self.needs = {name: need, name + PRESENT: Need((), "bool")}
    size = len(self._ids) * int(np.prod(need.shape)) * np.dtype(need.dtype).itemsize
    keep = size <= kept_bytes and not source.in_memory
    self._kept = np.zeros((len(self._ids), *need.shape), need.dtype) if keep else None
    self._decoded = np.zeros(len(self._ids), bool)
    self.decodes = not source.in_memory

  @property
  def missing(self) -> np.ndarray:
    """Original ids of the items that the source does not have: theirs is zeros, like the padding item's."""
    return self._ids[1:][~self._present[1:]]

  @property
  def fingerprint(self) -> str:
    return str(self._source.fingerprint)

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    """`{name: [*items.shape, *need.shape], name + "_present": [*items.shape] bool}`."""
    return {self._name: self._arrays(items), self._name + PRESENT: self._present[items]}

  def _arrays(self, items: np.ndarray) -> np.ndarray:
    shape, dtype = self.needs[self._name]
    flat = items.reshape(-1)
    if self._kept is not None:
      undecoded = np.unique(flat[self._present[flat] & ~self._decoded[flat]])
      if undecoded.size:
        self._kept[undecoded] = self._source.read(self._ids[undecoded], **self._reading)
        # Only now: another thread may be reading.
        self._decoded[undecoded] = True
      return self._kept[items]
    out = np.zeros((flat.size, *shape), dtype)
    found = np.flatnonzero(self._present[flat])
    if found.size:
      out[found] = self._source.read(self._ids[flat[found]], **self._reading)
    return out.reshape(*items.shape, *shape)


def present(source: Source, item_ids: np.ndarray) -> np.ndarray:
  """`[num_items + 1]` bool: which items of a split a source has.

  Args:
    source: of content.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.

  Raises:
    DataError: it has none of them.
  """
  found = np.isin(item_ids, np.asarray(source.items))
  found[0] = False
  if not found.any():
    named = f" = {source.source!r}" if source.source else ""
    raise DataError(
      f"config.data.{source.key}{named}: none of its {len(source.items):,} {source.noun}s belongs to the "
      f"{len(item_ids) - 1:,} items"
    )
  return found
