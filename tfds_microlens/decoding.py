"""What reading media files takes: PyAV and Pillow, files that are whole, and reasons why a file cannot be read."""

from collections.abc import Iterable
import errno
import functools
import os
import struct
from typing import Any
from typing import BinaryIO

from tfds_microlens.errors import PrepareError
from tfds_microlens.media_sources import MediaError
from tfds_microlens.media_sources import MISSING

_MP4_BOXES = frozenset(
  (b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"free", b"skip", b"meta", b"uuid", b"wide", b"styp")
)
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_RIFF_FORMS = (b"AVI ", b"AVIX", b"WAVE")
# What a program writes that does not know the length yet.
_UNKNOWN_RIFF_LENGTHS = (0, 0xFFFFFFFF)
_HEAD_BYTES = 512
_PLAYLIST = "a playlist, and what a playlist names is not followed"
# What files begin with that are found in place of media.
_BEGINNINGS = (
  (b"GIF8", "a GIF image"),
  (b"\x89PNG", "a PNG image"),
  (b"\xff\xd8\xff", "a JPEG image"),
  (b"II*\0", "a TIFF image"),
  (b"MM\0*", "a TIFF image"),
  (b"#extm3u", f"an m3u8: {_PLAYLIST}"),
  (b"[playlist]", f"a PLS: {_PLAYLIST}"),
  (b"ffconcat version", f"an ffconcat: {_PLAYLIST}"),
  (b"<mpd", f"a DASH manifest: {_PLAYLIST}"),
  (b"<!doctype html", "a web page"),
  (b"<html", "a web page"),
  (b"<?xml", "an XML document"),
  (b"version https://git-lfs", "a Git LFS pointer to a file that was not fetched"),
  (b"PK\x03\x04", "a zip archive"),
  (b"\x1f\x8b", "a gzip file"),
  (b"%PDF", "a PDF document"),
)
# Of single pictures.
_HEIF_BRANDS = (b"heic", b"heix", b"mif1", b"avif")


def open_file(av: Any, path: str, containers: Iterable[str]) -> Any:
  """A file in one of `containers` (FFmpeg's names), for reading; others may make FFmpeg open what the file names."""
  return av.open(path, options={"format_whitelist": ",".join(containers), "protocol_whitelist": "file"})


def unreadable(what: str, error: Exception) -> MediaError:
  """The error for a file that FFmpeg cannot read as `what`."""
  if isinstance(error, MediaError):
    return error
  # Of a container that is not among those allowed FFmpeg says "Invalid argument".
  unknown = getattr(error, "errno", None) == errno.EINVAL
  reason = "it is in no container that is read" if unknown else getattr(error, "strerror", None) or str(error)
  return MediaError(f"cannot be read as {what}: {reason}")


def check(path: str, what: str) -> None:
  """Refuses a file that is missing, empty, evidently not `what`, or shorter than its container says, where it does.

  A truncated file is the beginning of a video, and the frames around its middle are not those around the middle of the
  video: they would be another item's content under this item's name, although they decode. So it is refused whole; a
  download mends it.

  Raises:
    MediaError: it is one of these.
  """
  if not os.path.exists(path):
    raise MediaError(MISSING)
  if not os.path.isfile(path):
    raise MediaError("not a file")
  size = os.path.getsize(path)
  if not size:
    raise MediaError("empty file")
  with open(path, "rb") as file:
    head = file.read(_HEAD_BYTES)
    instead = _instead(head)
    if instead:
      raise MediaError(f"cannot be read as {what}: it is {instead}")
    if head.startswith(_EBML):
      part, end = _matroska_end(file)
    elif head.startswith(b"RIFF"):
      part, end = _riff_end(file, size)
    elif head[4:8] == b"ftyp":
      part, end = _mp4_end(file, size)
    else:
      return  # another container, or none: FFmpeg's to judge
  if end > size:
    raise MediaError(f"truncated: its {part!r} runs to byte {end:,} of {size:,}")


@functools.cache
def import_av() -> Any:
  """PyAV; a PrepareError, which says what to install, if it is not there."""
  try:
    import av
  except ImportError as error:
    raise _not_installed("PyAV", "av", error) from error
  return av


@functools.cache
def import_pillow() -> Any:
  """Pillow's `Image`; a PrepareError, which says what to install, if it is not there."""
  try:
    from PIL import Image
  except ImportError as error:
    raise _not_installed("Pillow", "pillow", error) from error
  return Image


def require_libraries() -> None:
  """Raises a PrepareError, which says what to install, if PyAV or Pillow is not there."""
  import_av()
  import_pillow()


def _not_installed(what: str, package: str, error: ImportError) -> PrepareError:
  return PrepareError(f"media need {what} ({error}); install it by: pip install {package}")


def _instead(head: bytes) -> str:
  """What a file is that begins so, where that is no container of sound or moving pictures; empty if it may be one."""
  if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
    return "a WebP image"
  if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
    return "a HEIF or AVIF image"
  text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
  return next((what for begin, what in _BEGINNINGS if head.startswith(begin) or text.startswith(begin)), "")


def _mp4_end(file: BinaryIO, size: int) -> tuple[str, int]:
  """The last box that the file begins to hold, and where it ends."""
  at, kind = 0, b""
  while at < size:
    file.seek(at)
    head = file.read(16)
    length, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if length == 1:
      length = int.from_bytes(head[8:16], "big")
    if kind not in _MP4_BOXES or length < 8:
      return "", 0  # a last box without a length, or something after the end
    at += length
  return kind.decode(), at


def _riff_end(file: BinaryIO, size: int) -> tuple[str, int]:
  at, form = 0, b""
  while at < size:
    file.seek(at)
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] not in _RIFF_FORMS:
      break
    (length,) = struct.unpack("<I", head[4:8])
    if length in _UNKNOWN_RIFF_LENGTHS:
      return "", 0
    at, form = at + 8 + length, head[8:]
  # A last chunk of odd length is counted with the byte that fills it up, which some programs do not write.
  return form.decode().strip(), at - 1


def _matroska_end(file: BinaryIO) -> tuple[str, int]:
  file.seek(4)
  header = _ebml_number(file)
  if header is None:
    return "", 0
  file.seek(header, os.SEEK_CUR)
  if file.read(4) != _SEGMENT:
    return "", 0
  length = _ebml_number(file)
  return ("", 0) if length is None else ("Segment", file.tell() + length)


def _ebml_number(file: BinaryIO) -> int | None:
  """A length as EBML writes it; None if it is unknown."""
  first = file.read(1)
  if not first or not first[0]:
    return None
  count = 8 - first[0].bit_length()
  rest = file.read(count)
  number = int.from_bytes(bytes([first[0] & (0x7F >> count)]) + rest, "big")
  return None if len(rest) < count or number == (1 << 7 * (count + 1)) - 1 else number
