"""What reading media files takes: PyAV and Pillow, and files that are whole."""

from collections.abc import Iterable
import functools
import os

from tfds_microlens import fetch
from tfds_microlens.media_sources import MediaError
from tfds_microlens.media_sources import MISSING

_MP4_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"free", b"skip", b"meta", b"uuid"))


def open_file(av, path: str, containers: Iterable[str]):
  """A file in one of `containers` (FFmpeg's names), for reading; others may make FFmpeg open what the file names."""
  return av.open(path, options={"format_whitelist": ",".join(containers), "protocol_whitelist": "file"})


def check_whole(path: str) -> None:
  """Refuses a file that is missing, empty, or an MP4 whose boxes run past its end.

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
  at = 0
  with open(path, "rb") as file:
    while at < size:
      file.seek(at)
      head = file.read(16)
      length, kind = int.from_bytes(head[:4], "big"), head[4:8]
      if length == 1:
        length = int.from_bytes(head[8:16], "big")
      if kind not in _MP4_BOXES or length < 8 or (at == 0 and kind != b"ftyp"):
        return  # another container, a last box without a length, or something after the end: FFmpeg's to judge
      at += length
  if at > size:
    raise MediaError(f"truncated: its {kind.decode()!r} runs to byte {at:,} of {size:,}")


@functools.cache
def import_av():
  """PyAV; a PrepareError, which says what to install, if it is not there."""
  try:
    import av
  except ImportError as error:
    raise _not_installed("PyAV", "av", error) from error
  return av


@functools.cache
def import_pillow():
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


def _not_installed(what: str, package: str, error: ImportError) -> fetch.PrepareError:
  return fetch.PrepareError(f"media need {what} ({error}); install it by: pip install {package}")
