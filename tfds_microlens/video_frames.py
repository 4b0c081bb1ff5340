"""Which frames of a video are kept, and their pixels: PyAV decodes, Pillow resizes and codes JPEG.

The benchmark takes F frames, s apart, around the middle of a video (arXiv 2309.15379, and its released code), and
resizes them to a square by Pillow's bilinear filter, whatever the aspect. So it is here, with one difference: the
released code's reader lands two frames early; `choose_frames(reference=True)` repeats that.
"""

from collections.abc import Callable
from collections.abc import Iterator
import fractions
import functools
import io
import os
from typing import Any

import numpy as np

from tfds_microlens import decoding
from tfds_microlens.media_sources import MediaError

# What a video may come in; images are none.
_CONTAINERS = (
  "mov",
  "mp4",
  "m4a",
  "3gp",
  "3g2",
  "mj2",
  "matroska",
  "webm",
  "avi",
  "mpegts",
  "mpeg",
  "flv",
  "asf",
  "ogg",
)
# Decoding may begin at any of their key frames. Others may keep what all frames need, such as a palette, in the first
# packet alone; they are decoded from the start.
_SEEKABLE = ("h264", "hevc", "vp8", "libvpx", "vp9", "libvpx-vp9", "av1", "libdav1d", "libaom-av1")
# Frames that no other needs can be left out on the way to the first one wanted, where a codec says which they are.
_SAYS_WHAT_IS_NEEDED = ("h264", "hevc")
# JPEG quantiser steps, coarse to fine, the same for all frequencies: at one size that gives 1.5 to 2 dB more than the
# standard tables, which spare what an eye does not see and a network does.
_STEPS = (16, 14, 12, 10, 8, 7, 6)
MIN_PSNR_DB = 36.0
# Indices of the frames wanted, out of how many there are.
_Choose = Callable[[int], np.ndarray]


def choose_frames(num_frames: int, frames: int, interval: int = 1, *, reference: bool = False) -> np.ndarray:
  """Indices of the `frames` frames around the middle of a video, `interval` apart.

  With a = ⌊n/2⌋, an odd F gives a and a ± k·s. An even F has none in the middle: its inner two are a − s/2 (towards
  zero) and a + s/2 (upwards), which for odd s are s + 1 apart, and the others follow in steps of s. What lies outside
  of the video becomes its first or last frame.

  Args:
    num_frames: n, frames in the video.
    frames: F, how many are wanted.
    interval: s.
    reference: as the released code's reader finds them: two frames earlier; and if one of these does not exist, the
      frames 9 + k·s from the start instead. Where that reader would fail too, the nearest frame is taken.

  Returns:
    `[frames]` int64, ascending, 0-based; repeated where the video is too short.

  Raises:
    ValueError: a number is less than 1.
  """
  if min(num_frames, frames, interval) < 1:
    raise ValueError(f"expected 1 or more of each, not {num_frames} frames, {frames} wanted, interval {interval}")
  middle = num_frames // 2
  steps = np.arange((frames + 1) // 2, dtype=np.int64) * interval
  if frames % 2:
    low = high = middle
  else:
    low, high = int(middle - interval / 2), -int(-(middle + interval / 2) // 1)
  wanted = np.unique(np.concatenate([low - steps, high + steps]))
  if reference:
    wanted = wanted - 2
    if wanted[0] < 0 or wanted[-1] >= num_frames:
      wanted = 9 + np.arange(frames, dtype=np.int64) * interval
  return np.clip(wanted, 0, num_frames - 1)


def read_frames(
  path: str | os.PathLike[str],
  *,
  frames: int = 5,
  size: int = 224,
  interval: int = 1,
  reference: bool = False,
  seek: bool = True,
) -> tuple[np.ndarray, int]:
  """The chosen frames of a video file, upright, in RGB.

  Where the container's list of frames is sound, decoding starts at the last key frame before the first frame wanted;
  otherwise, or if a listed frame does not come, the whole video is decoded, and its frames are counted so.

  Args:
    path: a file; HEVC, H.264, VP9, AV1 and all else that FFmpeg decodes.
    frames: how many, as for `choose_frames`.
    size: side of the square that they are resized to.
    interval: as for `choose_frames`.
    reference: as for `choose_frames`.
    seek: False decodes the whole video in any case. The result is the same.

  Returns:
    `(pixels [frames, size, size, 3] uint8, number of frames in the video)`.

  Raises:
    MediaError: the file is missing, empty, truncated, or no video that can be decoded.
    PrepareError: PyAV or Pillow is not installed.
  """
  av = decoding.import_av()
  decoding.import_pillow()
  path = os.path.abspath(os.fspath(path))
  decoding.check(path, "a video")
  choose = functools.partial(choose_frames, frames=frames, interval=interval, reference=reference)
  try:
    pixels = _Pixels(av, size)
    found = _by_seeking(av, path, choose, pixels) if seek else None
    return found or _by_decoding_all(av, path, choose, pixels)
  except (av.FFmpegError, ValueError, OverflowError) as error:
    raise decoding.unreadable("a video", error) from error


def encode_jpeg(pixels: np.ndarray) -> bytes:
  """One frame as JPEG (4:4:4), as coarse as leaves it within 36 dB of the original.

  Args:
    pixels: `[height, width, 3]` uint8, RGB.
  """
  image = decoding.import_pillow().fromarray(pixels)
  coded = b""
  for step in _STEPS:
    out = io.BytesIO()
    image.save(out, "JPEG", qtables=[[step] * 64] * 2, subsampling=0, optimize=True)
    coded = out.getvalue()
    if psnr(decode_jpeg(coded), pixels) >= MIN_PSNR_DB:
      break
  return coded


def decode_jpeg(coded: bytes) -> np.ndarray:
  """`[height, width, 3]` uint8, RGB; OSError where it is no JPEG, or one of too many pixels."""
  image = decoding.import_pillow()
  try:
    return np.asarray(image.open(io.BytesIO(coded), formats=("JPEG",)).convert("RGB"))
  except (image.DecompressionBombError, SyntaxError, ValueError) as error:
    raise OSError(str(error)) from error


def scaled(rgb: np.ndarray, size: int) -> np.ndarray:
  """`[height, width, 3]` uint8 as a square of side `size`, whatever the aspect (Pillow's bilinear filter)."""
  image = decoding.import_pillow()
  if rgb.shape[:2] != (size, size):
    rgb = np.asarray(image.fromarray(rgb).resize((size, size), image.Resampling.BILINEAR))
  return np.ascontiguousarray(rgb)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  """Peak signal-to-noise ratio of two uint8 images, in dB; infinite if they are equal."""
  difference = a.astype(np.int32) - b
  error = float(np.mean(difference * difference))
  return 10 * float(np.log10(255**2 / error)) if error else float("inf")


def _by_seeking(av: Any, path: str, choose: _Choose, pixels: "_Pixels") -> tuple[np.ndarray, int] | None:
  """As `read_frames`; None if the codec or the container's list of frames is not made for it."""
  with decoding.open_file(av, path, _CONTAINERS) as container:
    stream = _video_stream(container)
    if stream.codec_context.name not in _SEEKABLE:
      return None
    times, keys, independent = _listed(av, container, stream)
    if not times:
      return None
    wanted = choose(len(times))
    wanted_times = {times[index] for index in wanted.tolist()}
    first = min(wanted_times)
    start = max((key for key in keys if key <= first), default=None)
    if start is None:
      return None
    shown: dict[int, np.ndarray] = {}
    context = stream.codec_context
    try:
      container.seek(start, stream=stream)
      for packet in container.demux(stream):
        context.skip_frame = "NONREF" if independent and packet.pts is not None and packet.pts < first else "DEFAULT"
        for frame in packet.decode():
          time = frame.pts
          if time in wanted_times:
            if frame.is_corrupt:
              return None
            shown[time] = pixels(frame)
        if len(shown) == len(wanted_times):
          break
    except av.FFmpegError:
      return None
    if len(shown) < len(wanted_times):
      return None
  return np.stack([shown[times[index]] for index in wanted.tolist()]), len(times)


def _listed(av: Any, container: Any, stream: Any) -> tuple[list[int], list[int], bool]:
  """What the container says: the times of all frames in order, those of key frames, and what may be left out.

  Returns:
    No times if the list is not sound: times are missing or repeated, packets are damaged, or cut off by an edit list,
    or there are not as many as the container says. Last, whether a frame marked as not needed by others is really so.
  """
  times: list[int] = []
  keys: list[int] = []
  codec = stream.codec_context.name
  independent = codec in _SAYS_WHAT_IS_NEEDED
  length_bytes = _nal_length_bytes(stream.codec_context.extradata) if codec == "hevc" else 0
  try:
    for packet in container.demux(stream):
      if not packet.size:
        continue
      if packet.pts is None or packet.is_corrupt or packet.is_discard:
        return [], [], False
      times.append(packet.pts)
      if packet.is_keyframe:
        keys.append(packet.pts)
      # HEVC marks what its own temporal layer does not need; a higher layer may.
      if codec == "hevc" and independent:
        independent = length_bytes > 0 and _in_lowest_layer(bytes(packet), length_bytes)
  except av.FFmpegError:
    return [], [], False
  if len(times) != stream.frames or len(set(times)) != len(times):
    return [], [], False
  return sorted(times), keys, independent


def _nal_length_bytes(extradata: bytes | None) -> int:
  """How many bytes hold the length of a unit of an HEVC packet; 0 if that is not how the units are kept apart."""
  return (extradata[21] & 3) + 1 if extradata and len(extradata) > 22 and extradata[0] == 1 else 0


def _in_lowest_layer(packet: bytes, length_bytes: int) -> bool:
  at = 0
  while at + length_bytes + 2 <= len(packet):
    length = int.from_bytes(packet[at : at + length_bytes], "big")
    header = packet[at + length_bytes : at + length_bytes + 2]
    is_picture = header[0] >> 1 < 32
    if is_picture and header[1] & 7 != 1:
      return False
    at += length_bytes + length
  return True


def _by_decoding_all(av: Any, path: str, choose: _Choose, pixels: "_Pixels") -> tuple[np.ndarray, int]:
  """As `read_frames`, in one pass if the container's count is right, else in two."""
  with decoding.open_file(av, path, _CONTAINERS) as container:
    guess = _video_stream(container).frames
  while True:
    wanted = choose(guess).tolist() if guess > 0 else []
    shown, count = {}, 0
    for frame in _decoded(av, path):
      if count in wanted:
        shown[count] = pixels(frame)
      count += 1
    if not count:
      raise MediaError("no frame of it can be decoded")
    if count == guess:
      return np.stack([shown[index] for index in wanted]), count
    guess = count


def _decoded(av: Any, path: str) -> Iterator[Any]:
  """Every frame that can be decoded, in the order of showing; damaged packets are left out."""
  with decoding.open_file(av, path, _CONTAINERS) as container:
    stream = _video_stream(container)
    try:
      for packet in container.demux(stream):
        try:
          yield from packet.decode()
        except av.FFmpegError:
          continue
    except av.FFmpegError:
      # The rest cannot be read; what was read is still in the decoder.
      try:
        yield from stream.codec_context.decode(None)
      except av.FFmpegError:
        return


def _video_stream(container: Any) -> Any:
  """The first stream of moving pictures, set to decode in one thread."""
  pictures = [stream for stream in container.streams.video if "attached_pic" not in _disposition(stream)]
  if not pictures:
    raise MediaError("no video stream" + (", only audio" if container.streams.audio else ""))
  stream = pictures[0]
  if stream.codec_context is None:
    raise MediaError("no decoder for its codec")
  # Work is parallel over files, so one thread a file is fastest.
  stream.thread_type = "NONE"
  stream.codec_context.thread_count = 1
  return stream


def _disposition(stream: Any) -> str:
  return getattr(getattr(stream, "disposition", None), "name", None) or ""


class _Pixels:
  """Frames of one file to upright RGB squares.

  The conversion is that of `ffmpeg -i FILE -pix_fmt rgb24`, bit for bit: a filter graph sets up swscale by the frame's
  own colour space and range (BT.601, limited, where they are not said), field by field where frames are interlaced.
  PyAV's own `to_ndarray` differs from it for these, and for more than 8 bits a sample.
  """

  def __init__(self, av: Any, size: int):
    self._av, self._size = av, size
    self._form: tuple[str, int, int] | None = None
    self._graph: Any = None

  def __call__(self, frame: Any) -> np.ndarray:
    """`[size, size, 3]` uint8."""
    form = (frame.format.name, frame.width, frame.height)
    if form != self._form:
      self._form, self._graph = form, self._made(frame)
    frame.pts = None
    self._graph.push(frame)
    return scaled(_upright(self._graph.pull().to_ndarray(), frame), self._size)

  def _made(self, frame: Any) -> Any:
    graph = self._av.filter.Graph()
    # Work is parallel over files.
    if hasattr(graph, "threads"):
      graph.threads = 1
    source = graph.add_buffer(
      width=frame.width, height=frame.height, format=frame.format, time_base=fractions.Fraction(1, 1)
    )
    target, sink = graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink")
    source.link_to(target)
    target.link_to(sink)
    graph.configure()
    return graph


def _upright(rgb: np.ndarray, frame: Any) -> np.ndarray:
  """Turned and mirrored as the container's display matrix asks, by quarter turns."""
  side_data = frame.side_data.get("DISPLAYMATRIX")
  if side_data is None:
    return rgb
  # (x, y) is shown at (a·x + c·y, b·x + d·y).
  a, b, _, c, d, *_ = np.frombuffer(bytes(side_data), np.int32)[:9].tolist()
  if abs(b) > abs(a):
    rgb, down, right = rgb.transpose(1, 0, 2), b, c
  else:
    down, right = d, a
  return rgb[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
