"""Frames of videos by item id, decoded from a prepared data set by random access."""

from collections.abc import Iterator
import io
import os
from typing import Any

import numpy as np

from mlrec.content import media
from mlrec.content import modalities
from mlrec.data.interactions import DataError


@modalities.register("frames")
class Frames(media.Media):
  """The videos of a prepared `microlens/…-videos-<frames>x<size>`.

  Attributes:
    num_frames: F, how many frames of each are stored.
    size: the side of the stored frames, in pixels.
  """

  key = "videos"
  noun = "video"
  example = "microlens/demo-videos-5x64"

  def __init__(self, source: str, data_dir: str | os.PathLike = "", **options: Any):
    self._image = media.pillow()
    super().__init__(source, data_dir, **options)
    self.form = f"{self.num_frames}x{self.size}"

  def _open(self, source: str, data_dir: str) -> media.Records:
    # They bring in TFDS.
    from tfds_microlens import frame_codecs
    from tfds_microlens import reading

    self._codecs = frame_codecs
    return reading.open_videos(source, data_dir)

  def _measure(self, first: list[bytes]) -> None:
    self.num_frames = len(first)
    (frame,) = self._decoded(first, [0])
    self.size = frame.shape[1]

  def read(self, ids: np.ndarray, *, frames: int | None = None, size: int | None = None) -> np.ndarray:
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
    ids = media.row_of_ids(ids)

    def decode(coded: list[bytes], row: np.ndarray) -> None:
      for column, frame in enumerate(self._decoded(coded, chosen)):
        if frame.shape != row.shape[1:]:
          square = self._image.fromarray(frame).resize((size, size), self._image.Resampling.BILINEAR)
          frame = np.asarray(square)
        row[column] = frame

    return self._fill(np.empty((len(ids), len(chosen), size, size, 3), np.uint8), ids, decode)

  def _decoded(self, coded: list[bytes], chosen: list[int]) -> Iterator[np.ndarray]:
    """The frames at some places, ascending, as they are stored."""
    if self._codecs.are_together(coded):
      # Those before are decoded on the way, those after are not.
      decoded = self._codecs.decode(coded[: chosen[-1] + 1])
      yield from (decoded[index] for index in chosen)
    else:
      yield from (np.asarray(self._image.open(io.BytesIO(coded[index]))) for index in chosen)

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
