"""Sound tracks to FLAC: PyAV decodes and resamples.

What is kept is mono, 16 bits, 16,000 samples a second: what encoders of sound are fed. It is coded as FLAC because that
restores every sample, with any decoder on any machine, in three quarters of the bytes of plain
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
from tfds_microlens.media_sources import Files
from tfds_microlens.media_sources import MediaError

RATE = 16_000
# Of separate sound tracks, and of videos, which have one too.
SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".webm", ".mp4")
_CONTAINERS = (
  "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mp3",
  "wav", "flac", "aac",
)  # fmt: skip
# What is no louder anywhere than the last bit is silence, with what rounding adds.
_SILENT = 1
# Channels cancel where their mix has less than this of the energy of the loudest. Of two channels that have nothing in
# common it has a half of the mean, and of a loud and a silent one a quarter.
_CANCELLED = 0.01


class Audio:
  """The beginning of each sound track as FLAC (`media.Medium`)."""

  name: ClassVar = "audio"
  files: ClassVar = "sound tracks"
  mark: ClassVar = b"MLA2"

  def __init__(self, source: Files, seconds: int):
    self.source, self._seconds = source, seconds

  def keep(self, item: int) -> media.Kept:
    samples, notes = read_audio(self.source.path(item), self._seconds)
    return media.Kept(encode_flac(samples), ", ".join(notes))


def read_audio(path: str | os.PathLike[str], seconds: int) -> tuple[np.ndarray, list[str]]:
  """The first `seconds` of a file's first sound track, mixed to one channel, at 16,000 samples a second.

  Channels are mixed and the rate is changed by FFmpeg's swresample with its defaults (for stereo the mean of both).
  Where channels cancel in the mix, as those of opposite phase do, the loudest one is taken instead. Packets that cannot
  be decoded are left out, and what follows moves up.

  Args:
    path: a file; AAC, MP3, FLAC, Opus, Vorbis, PCM and all else that FFmpeg decodes, with or without pictures.
    seconds: no more are decoded. A shorter track is kept as it is.

  Returns:
    `(samples [n] int16, n at least 1, what is odd about it)`.

  Raises:
    MediaError: the file is missing, empty, truncated, has no sound track, or none that can be decoded.
    PrepareError: PyAV is not installed.
  """
  av = decoding.import_av()
  path = os.path.abspath(os.fspath(path))
  decoding.check(path, "sound")
  wanted = seconds * RATE
  notes: list[str] = []
  try:
    samples, energies = _mixed(av, path, wanted, notes)
    loudest = int(energies.argmax()) if energies.size else 0
    if energies.size > 1 and _energy(samples) < _CANCELLED * energies[loudest]:
      samples, _ = _mixed(av, path, wanted, [], channel=loudest)
      notes.append(f"its channels cancel when mixed, so channel {loudest + 1} of {energies.size} is taken")
  except (av.FFmpegError, ValueError, OverflowError) as error:
    raise decoding.unreadable("sound", error) from error
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


def _mixed(
  av: Any, path: str, wanted: int, notes: list[str], channel: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """The first `wanted` samples of a file as one channel, and how loud its channels are.

  Args:
    av: PyAV.
    path: of the file.
    wanted: no more samples are decoded.
    notes: gets what is odd.
    channel: is taken alone; all are mixed if None.

  Returns:
    `(samples [n] int16, sum of squares [channels])`; no channels if there is one, or if their number changes.
  """
  parts: list[np.ndarray] = []
  energies: dict[int, np.ndarray] = {}
  count = 0
  with decoding.open_file(av, path, _CONTAINERS) as container:
    for mixed, channels in _resampled(av, _decoded(av, container, notes)):
      part = mixed if channel is None else channels[min(channel, len(channels) - 1)]
      parts.append(part[: wanted - count])
      taken = len(parts[-1])
      energies[len(channels)] = energies.get(len(channels), np.zeros(len(channels))) + _energy(channels[:, :taken])
      count += taken
      if count >= wanted:
        break
  if not count:
    raise MediaError("no sound of it can be decoded")
  return np.concatenate(parts), next(iter(energies.values())) if len(energies) == 1 else np.zeros(0)


def _energy(samples: np.ndarray) -> np.ndarray:
  """The sum of squares over the last axis."""
  return np.square(samples.astype(np.float64)).sum(axis=-1)


def _decoded(av: Any, container: Any, notes: list[str]) -> Iterator[Any]:
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


def _resampled(av: Any, frames: Iterator[Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """At `RATE`, part by part: mixed, `[n]` int16, and each channel, `[channels, n]` int16."""
  resamplers: list[Any] = []
  form = None
  for frame in frames:
    found = frame.format.name, frame.layout.name, frame.sample_rate
    if found != form:
      # A track may change its form on the way.
      yield from _samples(resamplers, None)
      layouts = ("mono", frame.layout) if frame.layout.nb_channels > 1 else ("mono",)
      resamplers = [av.AudioResampler(format="s16p", layout=layout, rate=RATE) for layout in layouts]
      form = found
    frame.pts = None
    yield from _samples(resamplers, frame)
  yield from _samples(resamplers, None)


def _samples(resamplers: list[Any], frame: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """What resamplers give for a frame, or at the end for None."""
  given = [[part.to_ndarray() for part in resampler.resample(frame)] for resampler in resamplers]
  for parts in zip(*given, strict=True):
    yield parts[0][0], parts[-1]
