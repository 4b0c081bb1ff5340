"""What people see of items: their titles and pictures, where the data that a run names has them."""

import base64
from collections.abc import Callable
from typing import Self

from ml_collections import ConfigDict
import numpy as np

from mlrec.content.titles import open_titles
from mlrec.content.titles import Titles
from mlrec.data import ingested
from mlrec.data.interactions import DataError

_PREPARED = "microlens/"
_JPEG = b"\xff\xd8\xff"


class Pictures:
  """JPEG pictures of items, one or several of each, by the integer id of an item."""

  def __init__(self, items: np.ndarray, records: Callable[[list[int]], list[tuple[int, list[bytes]]]]):
    """Takes what `tfds_microlens.reading` opens: ids, ascending, and a function from places among them to records."""
    self._items, self._records = items, records

  def __contains__(self, item: int) -> bool:
    return self._place(item) is not None

  def read(self, item: int) -> list[bytes]:
    """All of an item's, in their order; empty where it has none."""
    place = self._place(item)
    if place is None:
      return []
    ((_, parts),) = self._records([place])
    if parts and parts[0] and not parts[0].startswith(_JPEG):
      # It brings in TFDS, which has opened the records.
      from tfds_microlens import frame_codecs

      parts = frame_codecs.as_jpegs(parts)
    return [part for part in parts if part.startswith(_JPEG)]

  def _place(self, item: int) -> int | None:
    place = int(np.searchsorted(self._items, item))
    return place if place < len(self._items) and self._items[place] == item else None


class Catalogue:
  """Titles and pictures by the integer id of an item."""

  def __init__(self, titles: Titles | None = None, covers: Pictures | None = None, videos: Pictures | None = None):
    self._titles, self._videos = titles, videos
    self._pictures = [pictures for pictures in (covers, videos) if pictures is not None]
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
    found = open_titles(titles, data.data_dir, named="titles") if titles else _any_titles(data)
    return cls(found, *_any_pictures(data))

  @property
  def has_titles(self) -> bool:
    return self._titles is not None

  @property
  def has_pictures(self) -> bool:
    return bool(self._pictures)

  def title(self, item: int) -> str:
    """The item's title; empty where it has none."""
    return self._titles.read(np.array([item]))[0] if self._titles is not None and item in self._titled else ""

  def picture(self, item: int) -> bytes | None:
    """The item's cover, or the middle frame of its video: JPEG; None where it has none."""
    for pictures in self._pictures:
      if found := pictures.read(item):
        return found[len(found) // 2]
    return None

  def has_picture(self, item: int) -> bool:
    """Whether it is known to have one, without reading it."""
    return any(item in pictures for pictures in self._pictures)

  def frames(self, item: int) -> list[bytes]:
    """The frames of the item's video in their order: JPEG; empty where there are none."""
    return self._videos.read(item) if self._videos is not None else []

  def has_frames(self, item: int) -> bool:
    """Whether it is known to have some, without reading them."""
    return self._videos is not None and item in self._videos

  def picture_url(self, item: int) -> str:
    """The same as a `data:` URL; empty where there is none."""
    picture = self.picture(item)
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else ""


def _named(data: ConfigDict, key: str) -> str:
  """What holds the content of a key: as in training, an ingested folder stands for a release that a config names."""
  named = str(data[key])
  if named and not named.startswith(_PREPARED):
    return named
  if ingested.is_ingested(data.source):
    return str(data.source)
  # A folder that is no longer here was of other items than any release.
  is_log = data.source.endswith((".tsv", ".csv"))
  return named if is_log or data.source.startswith(_PREPARED) else ""


def _any_titles(data: ConfigDict) -> Titles | None:
  named = [_named(data, "content"), *([f"{_PREPARED}{_release(data)}-items"] if _release(data) else [])]
  for source in filter(None, named):
    try:
      return open_titles(source, data.data_dir)
    except DataError:
      continue
  return None


def _any_pictures(data: ConfigDict) -> tuple[Pictures | None, Pictures | None]:
  """Covers, and frames of videos."""
  # It brings in TFDS.
  from tfds_microlens import reading

  def opened(named: bool, open_records: Callable[[], reading.Records]) -> Pictures | None:
    try:
      return Pictures(*open_records()) if named else None
    except DataError:
      return None

  items, videos = _named(data, "content"), _named(data, "videos")
  has_covers = items.startswith(_PREPARED) or ingested.is_ingested(items)
  return (
    opened(has_covers, lambda: reading.open_items(items, "cover", data.data_dir)),
    opened(bool(videos), lambda: reading.open_videos(videos, data.data_dir)),
  )


def _release(data: ConfigDict) -> str:
  """The release whose log the run was trained on; empty for a log of another sort."""
  family, _, rest = data.source.partition("/")
  return rest.partition("-")[0] if f"{family}/" == _PREPARED else ""
