"""Frames of videos by item id, decoded from a prepared data set by random access."""

import concurrent.futures
import functools
import hashlib
import io
import os

import numpy as np

from mlrec.data import microlens
from mlrec.data.cores import usable_cores
from mlrec.data.interactions import DataError

# Items whose frames enter the fingerprint.
_SAMPLED = 32


class Frames:
  """The videos of a prepared `microlens/…-videos-<frames>x<size>`.

  `read` may be called from several threads. A copy of this object in another process opens the files anew.

  Attributes:
    source: its name.
    items: `[videos]` int64, ascending: original ids of the items that have one.
    num_frames: F, how many frames of each are stored.
    size: the side of the stored frames, in pixels.
  """

  def __init__(self, source: str, data_dir: str | os.PathLike = "", *, threads: int | None = None):
    """Opens `source`; the demo is made on first use.

    Args:
      source: such as `microlens/50k-videos-5x224`.
      data_dir: where prepared data sets lie; empty for the default place.
      threads: that decode; as many as there are cores if None.

    Raises:
      DataError: there is no such source (the closest names are given), it has not been prepared, or Pillow is missing.
    """
    self.source, self._data_dir, self._threads = source, os.fspath(data_dir), threads
    self._image = _pillow()
    self.items, self._records = microlens.open_videos(source, self._data_dir)
    ((_, first),) = self._records([0])
    self.num_frames = len(first)
    self.size = self._image.open(io.BytesIO(first[0])).width
    self._pool = concurrent.futures.ThreadPoolExecutor(threads or usable_cores(), "frames")

  @functools.cached_property
  def fingerprint(self) -> str:
    """Sixteen hexadecimal digits of what is stored: ids, sizes and, for a few items, the coded frames themselves."""
    digest = hashlib.sha256(f"{self.num_frames}x{self.size}".encode() + self.items.astype("<i8").tobytes())
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
    return _reopen, (self.source, self._data_dir, self._threads)

  def read(self, ids, *, frames: int | None = None, size: int | None = None) -> np.ndarray:
    """The frames of some items, in the order of `ids`.

    Args:
      ids: `[n]` original ids.
      frames: how many of the stored frames, those in the middle; all if None. An even number out of an odd one leaves
        out the middle frame, as the choice out of the whole video does.
      size: side of the square they are scaled to (Pillow's bilinear filter); as stored if None.

    Returns:
      `[n, frames, size, size, 3]` uint8, RGB.

    Raises:
      DataError: an item has no video, or more frames or larger ones are asked for than are stored.
    """
    chosen = self._chosen(self.num_frames if frames is None else frames)
    size = self._checked_size(self.size if size is None else size)
    ids = np.asarray(ids, np.int64).reshape(-1)
    places = self._places(ids)
    out = np.empty((len(ids), len(chosen), size, size, 3), np.uint8)
    if not len(ids):
      return out
    records = self._records(places.tolist())

    def fill(row):
      item, coded = records[row]
      if item != ids[row]:
        raise DataError(f"{self.source}: the record of item {ids[row]} holds item {item}; prepare it again")
      for column, index in enumerate(chosen):
        image = self._image.open(io.BytesIO(coded[index]))
        if image.size != (size, size):
          image = image.resize((size, size), self._image.Resampling.BILINEAR)
        out[row, column] = np.asarray(image)

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
        f"{self.source}: item {unknown[0]}{more} has no video; expected an id of `items`, the nearest is {near}"
      )
    return places

  def _chosen(self, frames: int) -> list[int]:
    stored = self.num_frames
    if not 1 <= frames <= stored:
      raise DataError(f"{self.source}: frames={frames}: expected 1 to {stored}, for so many are stored of a video")
    first = (stored - frames) // 2
    if stored % 2 and not frames % 2:
      half = frames // 2
      return [*range(stored // 2 - half, stored // 2), *range(stored // 2 + 1, stored // 2 + 1 + half)]
    return list(range(first, first + frames))

  def _checked_size(self, size: int) -> int:
    if not 1 <= size <= self.size:
      raise DataError(f"{self.source}: size={size}: expected 1 to {self.size}, for so large are the stored frames")
    return size


def _reopen(source, data_dir, threads) -> Frames:
  return Frames(source, data_dir, threads=threads)


def _pillow():
  try:
    from PIL import Image
  except ImportError as error:
    raise DataError(f"frames need Pillow ({error}); pip install pillow") from error
  return Image
