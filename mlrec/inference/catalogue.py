"""What people see of items: their titles and pictures, where the data that a run names has them."""

import base64
from collections.abc import Callable
import functools
from typing import Self

from ml_collections import ConfigDict
import numpy as np

from mlrec.content.titles import open_titles
from mlrec.content.titles import Titles
from mlrec.data.interactions import DataError

_PREPARED = "microlens/"
_JPEG = b"\xff\xd8\xff"
# Of an item's id: its picture, JPEG; None where there is none.
Pictures = Callable[[int], bytes | None]


class Catalogue:
  """Titles and pictures by the integer id of an item."""

  def __init__(self, titles: Titles | None = None, pictures: Pictures | None = None):
    self._titles, self._pictures = titles, pictures
    self._titled = set(titles.items.tolist()) if titles is not None else set()

  @classmethod
  def of(cls, data: ConfigDict, *, titles: str = "") -> Self:
    """What `config.data` names has; nothing of it need be there.

    Args:
      data: `config.data`.
      titles: where titles are instead, as `config.data.content` says it.

    Raises:
      DataError: there are no titles where `titles` says.
    """
    found = open_titles(titles, data.data_dir, key="content") if titles else _any_titles(data)
    return cls(found, _any_pictures(data))

  @property
  def has_titles(self) -> bool:
    return self._titles is not None

  @property
  def has_pictures(self) -> bool:
    return self._pictures is not None

  def title(self, item: int) -> str:
    """The item's title; empty where it has none."""
    return self._titles.read(np.array([item]))[0] if self._titles is not None and item in self._titled else ""

  def picture(self, item: int) -> bytes | None:
    """The item's cover, or the middle frame of its video: JPEG; None where it has none."""
    return self._pictures(item) if self._pictures is not None else None

  def picture_url(self, item: int) -> str:
    """The same as a `data:` URL; empty where there is none."""
    picture = self.picture(item)
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else ""


def _any_titles(data: ConfigDict) -> Titles | None:
  named = [data.content, *([f"{_PREPARED}{_release(data)}-items"] if _release(data) else [])]
  for source in filter(None, named):
    try:
      return open_titles(source, data.data_dir, key="content")
    except DataError:
      continue
  return None


def _any_pictures(data: ConfigDict) -> Pictures | None:
  # It brings in TFDS.
  from tfds_microlens import reading

  for open_records in (
    lambda: reading.open_items(data.content, "cover", data.data_dir) if data.content.startswith(_PREPARED) else None,
    lambda: reading.open_videos(data.videos, data.data_dir) if data.videos else None,
  ):
    try:
      opened = open_records()
    except DataError:
      continue
    if opened is not None:
      return functools.partial(_picture, *opened)
  return None


def _picture(items: np.ndarray, records: Callable, item: int) -> bytes | None:
  place = int(np.searchsorted(items, item))
  if place == len(items) or items[place] != item:
    return None
  ((_, parts),) = records([place])
  middle = parts[len(parts) // 2] if parts else b""
  return middle if middle.startswith(_JPEG) else None


def _release(data: ConfigDict) -> str:
  """The release whose log the run was trained on; empty for a log of another sort."""
  family, _, rest = data.source.partition("/")
  return rest.partition("-")[0] if f"{family}/" == _PREPARED else ""
