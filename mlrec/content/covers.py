"""Covers by item id, decoded from a prepared data set by random access."""

import io
import os
from typing import Any

import numpy as np

from mlrec.content import media
from mlrec.content import modalities
from mlrec.data.interactions import DataError


@modalities.register("cover")
class Covers(media.Media):
  """The covers of a prepared `microlens/…-items-cover<size>…`.

  Attributes:
    size: the side of the stored covers, in pixels.
  """

  key = "content"
  noun = "cover"
  example = "microlens/demo-items-cover224"

  def __init__(self, source: str, data_dir: str | os.PathLike = "", **options: Any):
    self._image = media.pillow()
    super().__init__(source, data_dir, **options)
    self.form = f"cover{self.size}"

  def _open(self, source: str, data_dir: str) -> media.Records:
    # It brings in TFDS.
    from tfds_microlens import reading

    return reading.open_items(source, "cover", data_dir)

  def _measure(self, first: list[bytes]) -> None:
    self.size = self._image.open(io.BytesIO(first[0])).width

  def read(self, ids: np.ndarray, *, size: int | None = None) -> np.ndarray:
    """The covers of some items, in the order of `ids`.

    Args:
      ids: `[n]` original ids.
      size: side of the square they are scaled to, each pixel being the mean of the area it covers; as stored if None.

    Returns:
      `[n, size, size, 3]` uint8, RGB.

    Raises:
      DataError: an item has no cover, or larger ones are asked for than are stored.
    """
    size = self.size if size is None else size
    if not 1 <= size <= self.size:
      release = self.source.partition("-")[0]
      raise DataError(
        f"{self.source}: size={size}: expected 1 to {self.size}, for so large are the stored covers; "
        f"{release}-items-cover{max(size, 1)} would have larger ones"
      )
    ids = media.row_of_ids(ids)

    def decode(coded: list[bytes], row: np.ndarray) -> None:
      image = self._image.open(io.BytesIO(coded[0]))
      if image.size != (size, size):
        image = image.resize((size, size), self._image.Resampling.BOX)
      row[...] = np.asarray(image)

    return self._fill(np.empty((len(ids), size, size, 3), np.uint8), ids, decode)
