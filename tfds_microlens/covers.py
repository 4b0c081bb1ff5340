"""Covers to square JPEGs: Pillow decodes and resizes."""

import io
from typing import Any
from typing import ClassVar

import numpy as np

from tfds_microlens import decoding
from tfds_microlens import media
from tfds_microlens import video_frames
from tfds_microlens.media_sources import FileSource
from tfds_microlens.media_sources import MediaError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Decoded, it may take four bytes a pixel, in each thread.
_MOST_PIXELS = 1 << 26
# A cover of which a side has fewer pixels shows next to nothing, and is listed.
_FEW_PIXELS = 16
_SIXTEEN_BITS = 65_535
_PNG, _PNG_BITS_AT = b"\x89PNG\r\n\x1a\n", 24


class Covers:
  """A square JPEG of each cover (`media.Medium`)."""

  name: ClassVar = "cover"
  files: ClassVar = "covers"
  mark: ClassVar = b"MLC1"

  def __init__(self, source: FileSource, size: int):
    self.source, self._size = source, size

  def keep(self, item: int) -> media.Kept:
    pixels, notes = read_cover(self.source.content(item))
    return media.Kept(video_frames.encode_jpeg(video_frames.scaled(pixels, self._size)), ", ".join(notes))


def read_cover(content: bytes) -> tuple[np.ndarray, list[str]]:
  """The pixels of an image file: upright, and on white where it is transparent. Colour profiles are not applied.

  CMYK becomes RGB by r = (1 − c)(1 − k), the inks of a JPEG being inverted as all software that writes such files has
  it. Of 16 bits a sample 8 are kept. Of several pictures the first is taken.

  Args:
    content: of a JPEG, PNG, WebP, GIF or BMP file.

  Returns:
    `(pixels [height, width, 3] uint8 RGB, what is odd about it)`.

  Raises:
    MediaError: it is empty, no image, truncated, or of more than 2^26 pixels.
    PrepareError: Pillow is not installed.
  """
  pillow = decoding.import_pillow()
  if not content:
    raise MediaError("empty file")
  try:
    with pillow.open(io.BytesIO(content), formats=_FORMATS) as image:
      # What the head claims, before anything is unpacked.
      if image.width * image.height > _MOST_PIXELS:
        raise MediaError(f"{image.width:,} x {image.height:,} pixels, more than {_MOST_PIXELS:,} in all")
      notes = _notes(image, deep=content.startswith(_PNG) and content[_PNG_BITS_AT] == 16)
      return _upright_rgb(pillow, image), notes
  except MediaError:
    raise
  except pillow.UnidentifiedImageError as error:  # whose text has an address in memory
    raise MediaError(f"cannot be read as an image: none of {', '.join(_FORMATS)}") from error
  except Exception as error:  # Pillow's decoders raise errors of many kinds on damaged files
    raise MediaError(f"cannot be read as an image: {error or type(error).__name__}") from error


def _notes(image: Any, deep: bool) -> list[str]:
  notes = []
  if min(image.size) < _FEW_PIXELS:
    notes.append(f"only {image.width} x {image.height} pixels, scaled up")
  if image.mode == "CMYK":
    notes.append("CMYK, converted to RGB")
  if deep:
    notes.append("16 bits a sample, of which 8 are kept")
  if _is_transparent(image):
    notes.append("transparent, set on white")
  return notes


def _is_transparent(image: Any) -> bool:
  return image.mode.endswith(("A", "a")) or "transparency" in image.info


def _upright_rgb(pillow: Any, image: Any) -> np.ndarray:
  from PIL import ImageOps

  turned = ImageOps.exif_transpose(image)
  if turned.mode.startswith("I"):  # of PNGs with 16 bits Pillow reads grey ones so, and others with 8
    grey = np.asarray(turned).astype(np.int64).clip(0, _SIXTEEN_BITS)
    return np.repeat(np.rint(grey / 257).astype(np.uint8)[..., None], 3, axis=-1)
  if _is_transparent(turned):
    turned = turned.convert("RGBA")
    turned = pillow.alpha_composite(pillow.new("RGBA", turned.size, "white"), turned)
  return np.asarray(turned.convert("RGB"))
