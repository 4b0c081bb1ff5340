"""Small videos for tests, made by PyAV, and files that are none."""

import concurrent.futures
from fractions import Fraction
import io
import pathlib

import av
import numpy as np
from PIL import Image


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
      frame = _palette_frame(pixels) if pix_fmt == "pal8" else av.VideoFrame.from_ndarray(pixels, "rgb24")
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


def _palette_frame(pixels: np.ndarray) -> av.VideoFrame:
  """The first channel, as 256 shades of grey."""
  greys = np.arange(256, dtype=np.uint8)
  return av.VideoFrame.from_ndarray((pixels[..., 0], np.stack([greys | 255, greys, greys, greys], 1)), "pal8")


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


def blank_packets(path, places) -> None:
  """Overwrites the packets at `places` of a video with zeros."""
  with av.open(str(path)) as container:
    packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
  content = bytearray(pathlib.Path(path).read_bytes())
  for place in places:
    at, size = packets[place]
    content[at : at + size] = bytes(size)
  pathlib.Path(path).write_bytes(content)


def turn(path, matrix) -> None:
  """Sets the display matrix `(a, b, c, d)` of an mp4: (x, y) is shown at (a·x + c·y, b·x + d·y)."""
  content = bytearray(pathlib.Path(path).read_bytes())
  at = content.index(b"tkhd") + 44
  a, b, c, d = (round(value * 65536) for value in matrix)
  content[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
  pathlib.Path(path).write_bytes(content)


def _truncated(path):
  write_clip(path, pictures(40), g=10, mux={"movflags": "faststart"})
  path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])


def _truncated_before_its_table(path):
  write_clip(path, pictures(40), g=10)
  path.write_bytes(path.read_bytes()[:-300])


def _without_its_table(path):
  write_clip(path, pictures(5))
  content = path.read_bytes()
  path.write_bytes(content[: content.index(b"moov") - 4])


def _truncated_other(**settings):
  def make(path):
    write_clip(path, pictures(40), **settings)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])

  return make


def _gif(path):
  Image.fromarray(pictures(1)[0]).save(path, "GIF", save_all=True, append_images=[Image.fromarray(pictures(2)[1])])


def _bare_stream(path):
  write_clip(path, pictures(5), container="h264")


def _image(path):
  out = io.BytesIO()
  Image.fromarray(pictures(1)[0]).save(out, "JPEG")
  path.write_bytes(out.getvalue())


def _playlist(path):
  whole = write_clip(path.with_name("whole.mp4"), pictures(5))
  path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{whole}\n#EXT-X-ENDLIST\n")


def _all_frames_damaged(path):
  write_clip(path, pictures(6), g=1)
  content = path.read_bytes()
  start = content.index(b"mdat") + 4
  path.write_bytes(content[:start] + bytes(content.index(b"moov") - 4 - start) + content[content.index(b"moov") - 4 :])


# What makes each, and the reason that is given.
BAD_VIDEOS = {
  "truncated": (_truncated, "truncated: its 'mdat' runs to byte"),
  "truncated before its table": (_truncated_before_its_table, "truncated: its 'moov' runs to byte"),
  "without its table": (_without_its_table, "cannot be read as a video"),
  "empty": (lambda path: path.write_bytes(b""), "empty file"),
  "zeros": (lambda path: path.write_bytes(bytes(5000)), "cannot be read as a video"),
  "truncated Matroska": (
    _truncated_other(codec="libvpx", container="webm", **{"cpu-used": 8, "deadline": "realtime"}),
    "truncated: its 'Segment' runs to byte",
  ),
  "truncated AVI": (_truncated_other(codec="mpeg4", container="avi"), "truncated: its 'AVI' runs to byte"),
  "text": (
    lambda path: path.write_text("<html>403 Forbidden</html>\n" * 30),
    "cannot be read as a video: it is a web page",
  ),
  "an image": (_image, "cannot be read as a video: it is a JPEG image"),
  "a GIF": (_gif, "cannot be read as a video: it is a GIF image"),
  "an AVIF": (
    lambda path: path.write_bytes(b"\0\0\0\x20ftypavif" + bytes(500)),
    "cannot be read as a video: it is a HEIF or AVIF image",
  ),
  "a playlist": (_playlist, "it is an m3u8: a playlist, and what a playlist names is not followed"),
  "a manifest": (lambda path: path.write_text("<MPD></MPD>"), "a playlist, and what a playlist names is not followed"),
  "a bare stream": (_bare_stream, "cannot be read as a video: it is in no container that is read"),
  "sound": (write_sound, "no video stream, only audio"),
  "sound with a cover": (lambda path: write_sound(path, cover=True), "no video stream, only audio"),
  "a folder": (lambda path: path.mkdir(), "not a file"),
  "damaged throughout": (_all_frames_damaged, "no frame of it can be decoded"),
  "missing": (lambda path: None, "missing"),
}
