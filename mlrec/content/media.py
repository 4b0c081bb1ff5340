"""What sources of items' media have in common: random access by item id to a prepared data set."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import functools
import hashlib
import os
from typing import Any
from typing import Self

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from mlrec import terminal
from mlrec.content.base import Source
from mlrec.data.interactions import DataError

# Items whose coded media enter the fingerprint.
_SAMPLED = 32
# Records read at a time where it is sought which of them can be read.
_TRIED = 256
# Ids of the items that have a medium, ascending; `(item, its coded parts)` of each at the places asked for.
Records = tuple[np.ndarray, Callable[[list[int]], list[tuple[int, list[bytes]]]]]


class Media(Source):
  """A medium of a prepared data set.

  `read` may be called from several threads. A copy of this object in another process opens the files again.

  Attributes:
    source: name of the data set.
    form: what is stored of each, in a word, for the fingerprint.
  """

  form: str

  def __init__(self, source: str, data_dir: str | os.PathLike = "", *, skip_damaged: bool | Sequence[int] = False):
    """Opens `source`; the demo is made on first use.

    Args:
      source: a TFDS name.
      data_dir: where prepared data sets lie; empty for the default place.
      skip_damaged: whether every record is read, and an item whose record cannot be is one that has none; or the places
        of such records, if they are known.

    Raises:
      DataError: there is no such source (the closest names are given), it has not been prepared, or a decoder is
        missing.
    """
    self.source, self._data_dir = source, os.fspath(data_dir)
    try:
      self.items, self._records = self._open(source, self._data_dir)
      self._damaged = self._unreadable() if skip_damaged is True else list(skip_damaged or ())
      self._leave_out(self._damaged)
      if not len(self.items):
        raise DataError(f"{source}: none of its items has a {self.noun}")
      with self._decoding(int(self.items[0])):
        ((_, first),) = self._records([0])
        self._measure(first)
    except DataError as error:
      raise DataError(f"config.data.{self.key}: {error}") from error

  @classmethod
  def from_config(cls, data: ConfigDict) -> Self:
    return cls(cls.named(data), data.data_dir, skip_damaged=data.skip_damaged)

  def _unreadable(self) -> list[int]:
    """The places of records that cannot be read."""

    def problem(places: list[int]) -> str:
      try:
        self._records(places)
      except (ValueError, RuntimeError) as error:
        return terminal.shortened(str(error), 200)
      return ""

    found: dict[int, str] = {}
    for start in range(0, len(self.items), _TRIED):
      places = list(range(start, min(start + _TRIED, len(self.items))))
      if problem(places):
        found |= {place: why for place in places if (why := problem([place]))}
    if found:
      first, why = next(iter(found.items()))
      logging.warning("%s: item %d is skipped: %s", self.source, self.items[first], why)
      logging.warning(
        "%s: %d of %d records cannot be read; their items count as having no %s.",
        self.source, len(found), len(self.items), self.noun,
      )  # fmt: skip
    return list(found)

  def _leave_out(self, damaged: Sequence[int]) -> None:
    if damaged:
      records, kept = self._records, np.delete(np.arange(len(self.items)), damaged)
      self.items = self.items[kept]
      self._records = lambda places: records(kept[places].tolist())

  def _open(self, source: str, data_dir: str) -> Records:
    """Opens the records."""
    raise NotImplementedError

  def _measure(self, first: list[bytes]) -> None:
    """Reads off the first record what all of them are like."""
    raise NotImplementedError

  # Read lazily: it costs the reading of a few records.
  @functools.cached_property
  def fingerprint(self) -> str:  # type: ignore[override]
    """Sixteen hexadecimal digits of what is stored: ids, form and, for a few items, the coded media themselves."""
    digest = hashlib.sha256(self.form.encode() + self.items.astype("<i8").tobytes())
    for place in np.unique(np.linspace(0, len(self.items) - 1, _SAMPLED).astype(int)).tolist():
      ((_, coded),) = self._records([place])
      digest.update(b"".join(coded))
    return digest.hexdigest()[:16]

  def __len__(self) -> int:
    return len(self.items)

  def __contains__(self, item: int) -> bool:
    place = int(np.searchsorted(self.items, item))
    return place < len(self.items) and bool(self.items[place] == item)

  def __reduce__(self) -> tuple[Any, ...]:
    return functools.partial(type(self), skip_damaged=self._damaged), (self.source, self._data_dir)

  def _fill(self, out: np.ndarray, ids: np.ndarray, decode: Callable[[list[bytes], np.ndarray], Any]) -> np.ndarray:
    """Fills each row of `out [n, …]` by `decode(coded parts, row)`; DataError for an unknown item."""
    if not len(ids):
      return out
    for row, (item, coded) in enumerate(self._records(self._places(ids).tolist())):
      if item != ids[row]:
        raise DataError(f"{self.source}: the record of item {ids[row]} holds item {item}; prepare it again")
      with self._decoding(item):
        decode(coded, out[row])
    return out

  @contextlib.contextmanager
  def _decoding(self, item: int) -> Iterator[None]:
    """Turns an error of a decoder, of any type, into a DataError of one line."""
    try:
      yield
    except DataError:
      raise
    except Exception as error:
      reason = " ".join(str(error).split()) or type(error).__name__
      raise DataError(f"{self.source}: the {self.noun} of item {item} cannot be decoded ({reason})") from error

  def _places(self, ids: np.ndarray) -> np.ndarray:
    places = np.searchsorted(self.items, ids)
    known = self.items[np.minimum(places, len(self.items) - 1)] == ids
    if not known.all():
      unknown = ids[~known]
      more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
      raise DataError(
        f"{self.source}: item {unknown[0]}{more} is none of the {len(self.items):,} items that have a {self.noun}"
      )
    return places


def row_of_ids(ids: Any) -> np.ndarray:
  """`[n]` int64."""
  return np.asarray(ids, np.int64).reshape(-1)


def pillow() -> Any:
  """Pillow's `Image`; a DataError if it is not installed."""
  try:
    from PIL import Image
  except ImportError as error:
    raise DataError(f"pictures need Pillow ({error}); pip install pillow") from error
  return Image
