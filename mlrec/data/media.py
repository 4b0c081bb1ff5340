"""What sources of items' media have in common: random access by item id to a prepared data set."""

from collections.abc import Callable
import concurrent.futures
import functools
import hashlib
import os
from typing import Any
from typing import ClassVar

import numpy as np

from mlrec.data.cores import usable_cores
from mlrec.data.interactions import DataError

# Items whose coded media enter the fingerprint.
_SAMPLED = 32


class Media:
  """A medium of a prepared data set.

  `read` may be called from several threads. A copy of this object in another process opens the files anew.

  Attributes:
    what: an item has, for messages.
    source: name of the data set.
    items: `[n]` int64, ascending: original ids of the items that have it.
    form: what is stored of each, in a word, for the fingerprint.
  """

  what: ClassVar[str]
  form: str

  def __init__(self, source: str, data_dir: str | os.PathLike = "", *, threads: int | None = None):
    """Opens `source`; the demo is made on first use.

    Args:
      source: a TFDS name.
      data_dir: where prepared data sets lie; empty for the default place.
      threads: that decode; as many as there are cores if None.

    Raises:
      DataError: there is no such source (the closest names are given), it has not been prepared, or a decoder is
        missing.
    """
    self.source, self._data_dir, self._threads = source, os.fspath(data_dir), threads
    self.items, self._records = self._open(source, self._data_dir)
    self._pool = concurrent.futures.ThreadPoolExecutor(threads or usable_cores(), self.what)

  def _open(
    self, source: str, data_dir: str
  ) -> tuple[np.ndarray, Callable[[list[int]], list[tuple[int, list[bytes]]]]]:
    """`items`, and a function from places among them to `(item, coded parts)` of each."""
    raise NotImplementedError

  @functools.cached_property
  def fingerprint(self) -> str:
    """Sixteen hexadecimal digits of what is stored: ids, form and, for a few items, the coded media themselves."""
    digest = hashlib.sha256(self.form.encode() + self.items.astype("<i8").tobytes())
    for place in np.unique(np.linspace(0, len(self.items) - 1, _SAMPLED).astype(int)).tolist():
      ((_, coded),) = self._records([place])
      digest.update(b"".join(coded))
    return digest.hexdigest()[:16]

  def __len__(self) -> int:
    return len(self.items)

  def __contains__(self, item) -> bool:
    place = int(np.searchsorted(self.items, item))
    return place < len(self.items) and bool(self.items[place] == item)

  def __reduce__(self):
    return _reopen, (type(self), self.source, self._data_dir, self._threads)

  def _fill(self, out: np.ndarray, ids: np.ndarray, decode: Callable[[list[bytes], np.ndarray], Any]) -> np.ndarray:
    """Has each row of `out [n, …]` filled by `decode(coded parts, row)`, in threads; DataError for an unknown item."""
    if not len(ids):
      return out
    records = self._records(self._places(ids).tolist())

    def fill(row):
      item, coded = records[row]
      if item != ids[row]:
        raise DataError(f"{self.source}: the record of item {ids[row]} holds item {item}; prepare it again")
      decode(coded, out[row])

    for _ in self._pool.map(fill, range(len(ids))):
      pass
    return out

  def _places(self, ids: np.ndarray) -> np.ndarray:
    places = np.searchsorted(self.items, ids)
    known = self.items[np.minimum(places, len(self.items) - 1)] == ids
    if not known.all():
      unknown = ids[~known]
      near = self.items[np.argmin(np.abs(self.items - unknown[0]))]
      more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
      raise DataError(
        f"{self.source}: item {unknown[0]}{more} has no {self.what}; expected an id of `items`, the nearest is {near}"
      )
    return places


def row_of_ids(ids) -> np.ndarray:
  """`[n]` int64."""
  return np.asarray(ids, np.int64).reshape(-1)


def pillow() -> Any:
  """Pillow's `Image`; a DataError if it is not installed."""
  try:
    from PIL import Image
  except ImportError as error:
    raise DataError(f"pictures need Pillow ({error}); pip install pillow") from error
  return Image


def _reopen(kind, source, data_dir, threads) -> Media:
  return kind(source, data_dir, threads=threads)
