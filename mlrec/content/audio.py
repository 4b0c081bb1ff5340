"""Sound tracks by item id, decoded from a prepared data set by random access."""

import io
import os
from typing import Any

from absl import logging
import numpy as np

from mlrec.content import media
from mlrec.content import modalities
from mlrec.data.interactions import DataError


@modalities.register("audio")
class Audio(media.Media):
  """The sound tracks of a prepared `microlens/…-items…-audio<seconds>s`.

  Attributes:
    rate: stored samples a second.
    samples: so many are stored of an item, or fewer where its track is shorter.
  """

  key = "content"
  noun = "sound track"
  example = "microlens/demo-items-audio10s"

  def __init__(self, source: str, data_dir: str | os.PathLike = "", **options: Any):
    self._av = _pyav()
    super().__init__(source, data_dir, **options)
    self.samples = self.rate * self._seconds
    self.form = f"audio{self.samples}at{self.rate}"
    self._longest = self.samples

  def _open(self, source: str, data_dir: str) -> media.Records:
    # It brings in TFDS.
    from tfds_microlens import reading

    records = reading.open_items(source, "audio", data_dir)
    self._seconds = reading.audio_seconds(source)
    return records

  def _measure(self, first: list[bytes]) -> None:
    with self._av.open(io.BytesIO(first[0]), format="flac") as container:
      self.rate = container.streams.audio[0].rate

  def read(self, ids: np.ndarray, *, samples: int | None = None, rate: int | None = None) -> np.ndarray:
    """The beginnings of some items' sound tracks, in the order of `ids`.

    Args:
      ids: `[n]` original ids.
      samples: so many of each; a longer track is cut, a shorter one is followed by zeros. `self.samples` if None; more
        than that are zeros for every item, which is logged.
      rate: samples a second, which must be those stored.

    Returns:
      `[n, samples]` int16, mono.

    Raises:
      DataError: an item has no sound track, or another rate is asked for.
    """
    if rate not in (None, self.rate):
      raise DataError(f"{self.source}: rate={rate}: expected {self.rate}, for so many samples a second are stored")
    samples = self.samples if samples is None else samples
    if samples < 1:
      raise DataError(f"{self.source}: samples={samples}: expected 1 or more")
    if samples > self._longest:
      self._longest = samples
      logging.warning(
        "%s has %.2f s of sound of an item at most, and %.2f s are read: the rest is silence.",
        self.source, self.samples / self.rate, samples / self.rate,
      )  # fmt: skip
    ids = media.row_of_ids(ids)

    def decode(coded: list[bytes], row: np.ndarray) -> None:
      at = 0
      with self._av.open(io.BytesIO(coded[0]), format="flac") as container:
        # Work is parallel over items, so one thread an item is fastest.
        container.streams.audio[0].thread_type = "NONE"
        container.streams.audio[0].codec_context.thread_count = 1
        for frame in container.decode(audio=0):
          part = frame.to_ndarray()[0][: samples - at]
          row[at : at + len(part)] = part
          at += len(part)
          if at == samples:
            break

    return self._fill(np.zeros((len(ids), samples), np.int16), ids, decode)


def _pyav() -> Any:
  try:
    import av
  except ImportError as error:
    raise DataError(f"sound needs PyAV ({error}); pip install av") from error
  return av
