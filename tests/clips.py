"""Small videos for tests, made by PyAV."""

import concurrent.futures
from fractions import Fraction
import pathlib

import av
import numpy as np


def pictures(count: int, width: int = 64, height: int = 48) -> np.ndarray:
  """`[count, height, width, 3]` uint8: frame i is of brightness `20 + 5 i`, with a slope so that it is not flat."""
  slope = np.linspace(-10, 10, width)[None, None, :, None] + np.zeros((1, height, 1, 3))
  return np.rint(np.clip(20 + 5 * np.arange(count).reshape(-1, 1, 1, 1) + slope, 0, 255)).astype(np.uint8)


def shown_index(frame: np.ndarray) -> int:
  """Which one of `pictures` a decoded frame is."""
  return round((float(frame.mean()) - 20) / 5)


def write_clip(path, frames: np.ndarray, **settings) -> pathlib.Path:
  """`_write_clip` in a thread that ends with it.

  SVT-AV1, where root runs it, makes the thread that opens it a real-time one, and what it starts inherits that: the
  rest of the tests, and all that JAX computes in them, would keep everything else on the machine waiting.
  """
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    return thread.submit(_write_clip, path, frames, **settings).result()


def _write_clip(
  path, frames: np.ndarray, *, codec="libx264", pix_fmt="yuv420p", times=None, container=None, colour=None, **options
) -> pathlib.Path:
  """Writes `frames [count, height, width, 3]`.

  Args:
    path: where to.
    frames: uint8, RGB.
    codec: FFmpeg's name of the encoder.
    pix_fmt: FFmpeg's name.
    times: of each frame, in ms; 40 ms apart if None.
    container: FFmpeg's name; mp4 if None.
    colour: `(FFmpeg's colour space, 1 for limited or 2 for full range)`.
    **options: of the encoder.
  """
  times = range(0, 40 * len(frames), 40) if times is None else times
  with av.open(str(path), "w", format=container or "mp4", options=options.pop("mux", {})) as out:
    stream = out.add_stream(codec, 25, {key: str(value) for key, value in options.items()})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = Fraction(1, 1000)
    stream.codec_context.thread_count = 1
    if colour:
      stream.codec_context.colorspace, stream.codec_context.color_range = colour
    for time, pixels in zip(times, frames):
      frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
      if colour:
        # swscale's names of these spaces are the same numbers, but for that of BT.601.
        space = 5 if colour[0] == 6 else colour[0]
        frame = frame.reformat(format=pix_fmt, dst_colorspace=space, src_color_range=2, dst_color_range=colour[1])
        frame.colorspace, frame.color_range = colour
      frame.pts = time
      frame.time_base = Fraction(1, 1000)
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return pathlib.Path(path)


def write_sound(path, cover: bool = False) -> pathlib.Path:
  """An mp4 with a sound track alone, or with a picture to go with it."""
  with av.open(str(path), "w", format="mp4") as out:
    stream = out.add_stream("aac", 44_100)
    if cover:
      still = out.add_stream("mjpeg", 1)
      still.width, still.height, still.pix_fmt = 64, 48, "yuvj420p"
      still.disposition = av.stream.Disposition.attached_pic
      picture = av.VideoFrame.from_ndarray(pictures(1)[0], "rgb24")
      picture.pts = 0
      out.mux([*still.encode(picture), *still.encode()])
    for index in range(8):
      frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
      frame.sample_rate = 44_100
      frame.pts = 1024 * index
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return pathlib.Path(path)


def turn(path, matrix) -> None:
  """Sets the display matrix `(a, b, c, d)` of an mp4: (x, y) is shown at (a·x + c·y, b·x + d·y)."""
  content = bytearray(pathlib.Path(path).read_bytes())
  at = content.index(b"tkhd") + 44
  a, b, c, d = (round(value * 65536) for value in matrix)
  content[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
  pathlib.Path(path).write_bytes(content)
