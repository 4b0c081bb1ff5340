"""Sound tracks to FLAC: PyAV decodes and resamples.

What is kept is mono, 16 bits, 16,000 samples a second: what encoders of sound are fed. It is coded as FLAC because that
gives back every sample, whatever library decodes it and on whatever machine, in three quarters of the bytes of plain
PCM for real sound tracks. Opus would take a tenth, and would change each sample, by the version of its decoder.
"""

from collections.abc import Iterator
import io
import os
from typing import Any
from typing import ClassVar

import numpy as np

from tfds_microlens import decoding
from tfds_microlens import media
from tfds_microlens.media_sources import Folder
from tfds_microlens.media_sources import MediaError

RATE = 16_000
# A sound track of its own; a video has one too.
SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".webm", ".mp4")
_CONTAINERS = (
  "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mp3",
  "wav", "flac", "aac",
)  # fmt: skip
# What is no louder anywhere than the last bit is silence, with what rounding adds.
_SILENT = 1


class Audio:
  """The beginning of each sound track as FLAC (`media.Medium`)."""

  name: ClassVar = "audio"
  files: ClassVar = "sound tracks"
  mark: ClassVar = b"MLA1"

  def __init__(self, source: Folder, seconds: int):
    self.source, self._seconds = source, seconds

  def keep(self, item: int) -> media.Kept:
    samples, notes = read_audio(self.source.path(item), self._seconds)
    return media.Kept(encode_flac(samples), ", ".join(notes))


def read_audio(path, seconds: int) -> tuple[np.ndarray, list[str]]:
  """The first `seconds` of a file's first sound track, mixed to one channel, at 16,000 samples a second.

  Channels are mixed and the rate is changed by FFmpeg's swresample with its defaults (for stereo the mean of both).
  Packets that cannot be decoded are left out, and what follows moves up.

  Args:
    path: a file; AAC, MP3, FLAC, Opus, Vorbis, PCM and whatever else FFmpeg decodes, with or without pictures.
    seconds: no more are decoded. A shorter track is kept as it is.

  Returns:
    `(samples [n] int16, n at least 1, what is odd about it)`.

  Raises:
    MediaError: the file is missing, empty, truncated, has no sound track, or none that can be decoded.
    PrepareError: PyAV is not installed.
  """
  av = decoding.import_av()
  path = os.path.abspath(os.fspath(path))
  decoding.check_whole(path)
  wanted = seconds * RATE
  parts: list[np.ndarray] = []
  count = 0
  notes: list[str] = []
  try:
    with decoding.open_file(av, path, _CONTAINERS) as container:
      for part in _resampled(av, _decoded(av, container, notes)):
        parts.append(part)
        count += len(part)
        if count >= wanted:
          break
  except (av.FFmpegError, ValueError, OverflowError) as error:
    if isinstance(error, MediaError):
      raise
    raise MediaError(f"cannot be read as sound: {getattr(error, 'strerror', None) or error}") from error
  if not count:
    raise MediaError("no sound of it can be decoded")
  samples = np.concatenate(parts)[:wanted]
  if np.abs(samples.astype(np.int32)).max() <= _SILENT:
    notes.append("silent")
  return samples, notes


def encode_flac(samples: np.ndarray) -> bytes:
  """`samples [n] int16`, mono, 16,000 a second, as a FLAC file."""
  av = decoding.import_av()
  out = io.BytesIO()
  with av.open(out, "w", format="flac", options={"fflags": "+bitexact"}) as container:
    stream = container.add_stream("flac", rate=RATE, layout="mono", options={"flags": "+bitexact"})
    stream.codec_context.format = "s16"
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.int16), "s16", "mono")
    frame.sample_rate, frame.pts = RATE, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  return out.getvalue()


def decode_flac(coded: bytes) -> np.ndarray:
  """`[n]` int16: the samples of a FLAC file of one channel."""
  av = decoding.import_av()
  with av.open(io.BytesIO(coded), format="flac") as container:
    return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def _decoded(av, container, notes: list[str]) -> Iterator:
  """Every frame of sound that can be decoded; what else there is, is noted once."""
  if not container.streams.audio:
    raise MediaError("no sound track" + (", only pictures" if container.streams.video else ""))
  stream = container.streams.audio[0]
  if stream.codec_context is None:
    raise MediaError("no decoder for its codec")
  # Work is parallel over files, so one thread a file is fastest.
  stream.thread_type = "NONE"
  stream.codec_context.thread_count = 1
  damaged = False
  packets = container.demux(stream)
  while True:
    try:
      packet = next(packets)
      yield from packet.decode()
    except StopIteration:
      break
    except av.EOFError:
      break
    except av.FFmpegError:
      if not damaged:
        notes.append("damaged, what cannot be decoded is left out")
      damaged = True


def _resampled(av, frames: Iterator) -> Iterator[np.ndarray]:
  """Mono at `RATE`, part by part: each `[n]` int16."""
  resampler: Any = None
  form = None
  for frame in frames:
    found = frame.format.name, frame.layout.name, frame.sample_rate
    if found != form:
      # A track may change its form on the way.
      if resampler is not None:
        yield from _samples(resampler.resample(None))
      resampler, form = av.AudioResampler(format="s16", layout="mono", rate=RATE), found
    frame.pts = None
    yield from _samples(resampler.resample(frame))
  if resampler is not None:
    yield from _samples(resampler.resample(None))


def _samples(frames) -> list[np.ndarray]:
  return [frame.to_ndarray()[0] for frame in frames]
