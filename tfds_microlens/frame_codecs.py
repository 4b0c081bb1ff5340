"""How the frames of a video are kept: each by itself, as a JPEG, or together, as a short stream of H.264.

Five frames in a row are nearly alike. A stream keeps what they share once: at the same accuracy it takes a third of the
bytes. As its samples are red, green and blue (4:4:4), nothing is converted when it is decoded. To read one frame of it
those before are decoded too.

A stream begins with a frame that needs no other, each further one needs those before alone, and each is one packet, in
order of showing. So both forms are a byte string a frame.
"""

from collections.abc import Sequence
import fractions
import re
from typing import Any

import numpy as np

from tfds_microlens import decoding
from tfds_microlens import video_frames
from tfds_microlens.errors import PrepareError

JPEG, H264 = "jpeg", "h264"
FORMS = (JPEG, H264)
# What H.264 packets begin with (ITU-T H.264, annex B).
_H264_MARK = b"\x00\x00\x01", b"\x00\x00\x00\x01"
# The type of its units that no picture needs.
_REMARK = 6
_ENCODER = "libx264rgb"
# Variable-length codes and no filter of block edges: decoded in two thirds of the time, for a tenth more bytes. One
# thread, for the same bytes on any machine.
_SETTINGS = "cabac=0:no-deblock=1:ref=1:bframes=0:scenecut=0:keyint=infinite:threads=1"
# Quantisers (constant rate factors of x264) from fine to coarse.
_FINEST, _COARSEST = 1, 40
# A record of larger frames is not one that was made here.
_MOST_PIXELS = 10_000**2


def encode(pixels: np.ndarray, form: str) -> list[bytes]:
  """Frames in the given form, one of `FORMS`, as coarse as leaves each within 36 dB of the original.

  Args:
    pixels: `[frames, height, width, 3]` uint8, RGB, in order of showing.
    form: one of `FORMS`.

  Raises:
    PrepareError: what is needed is not installed.
  """
  return [video_frames.encode_jpeg(frame) for frame in pixels] if form == JPEG else _encode_h264(pixels)


def decode(coded: Sequence[bytes]) -> np.ndarray:
  """`[frames, height, width, 3]` uint8, RGB, of all frames of a record, or of its first ones; whatever their form.

  Raises:
    OSError: they cannot be decoded.
  """
  if are_together(coded):
    return _decode_h264(coded)
  return np.stack([video_frames.decode_jpeg(frame) for frame in coded])


def are_together(coded: Sequence[bytes]) -> bool:
  """Whether frames of a record need those before them."""
  return bool(coded) and coded[0].startswith(_H264_MARK)


def as_jpegs(coded: Sequence[bytes]) -> list[bytes]:
  """Frames of a record, whatever their form, as a JPEG each."""
  return [video_frames.encode_jpeg(frame) for frame in decode(coded)] if are_together(coded) else list(coded)


def _encode_h264(pixels: np.ndarray) -> list[bytes]:
  # The coarsest quantiser that serves, by halves: the error hardly ever falls as it grows.
  low, high = _FINEST, _COARSEST + 1
  best: list[bytes] | None = None
  while high - low > 1:
    middle = (low + high) // 2
    coded = _encoded(pixels, middle)
    if all(video_frames.psnr(*pair) >= video_frames.MIN_PSNR_DB for pair in zip(_decode_h264(coded), pixels)):
      low, best = middle, coded
    else:
      high = middle
  return best or _encoded(pixels, _FINEST)


def _encoded(pixels: np.ndarray, quantiser: int) -> list[bytes]:
  av = decoding.import_av()
  context = _encoder(av)
  context.height, context.width = pixels.shape[1:3]
  context.pix_fmt, context.time_base, context.framerate = "rgb24", fractions.Fraction(1, 25), fractions.Fraction(25)
  context.thread_count = 1
  context.options = {"preset": "medium", "tune": "psnr", "crf": str(quantiser), "x264-params": _SETTINGS}
  packets = []
  for place, frame in enumerate(pixels):
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
    picture.pts = place
    packets += context.encode(picture)
  packets += context.encode(None)
  first, *others = map(bytes, packets)
  return [_without_remarks(first), *others]


def _without_remarks(packet: bytes) -> bytes:
  """A packet less its supplemental units: x264's has the settings as a text, a tenth of a small stream."""
  begin, *units = re.split(rb"(?=\x00\x00\x01)", packet)
  kept = [unit for unit in units if unit[3] & 31 != _REMARK]
  return begin + b"".join(kept)


def _encoder(av: Any) -> Any:
  try:
    return av.CodecContext.create(_ENCODER, "w")
  except ValueError as error:
    raise PrepareError(
      f"frames of the form {H264!r} need FFmpeg's encoder {_ENCODER}, which this PyAV was built without: install "
      "PyAV's own wheel (pip install --only-binary=av av), or leave out -h264 for JPEGs"
    ) from error


def _decode_h264(coded: Sequence[bytes]) -> np.ndarray:
  av = decoding.import_av()
  context = av.CodecContext.create("h264", "r")
  # Work is parallel over items.
  context.thread_type, context.thread_count = "NONE", 1
  context.options = {"err_detect": "explode", "max_pixels": str(_MOST_PIXELS)}
  frames = []
  try:
    for packet in coded:
      frames += context.decode(av.Packet(packet))
    frames += context.decode(None)
  except (av.FFmpegError, ValueError) as error:
    raise OSError(f"no H.264 that can be decoded: {error}") from error
  if len(frames) != len(coded) or any(frame.is_corrupt or frame.format.name != "gbrp" for frame in frames):
    raise OSError(f"{len(coded)} packets of H.264 that do not hold as many whole frames in RGB")
  return np.stack([_rgb(frame) for frame in frames])


def _rgb(frame: Any) -> np.ndarray:
  """`[height, width, 3]` uint8 of a decoded frame, whose planes are green, blue and red."""
  out = np.empty((frame.height, frame.width, 3), np.uint8)
  for plane, channel in zip(frame.planes, (1, 2, 0)):
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    out[:, :, channel] = rows[: frame.height, : frame.width]
  return out
