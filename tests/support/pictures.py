"""Small pictures for tests, made by Pillow, and files that are no covers."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

RED, BLUE = (220, 30, 40), (20, 40, 200)


def halves(width: int = 40, height: int = 60) -> Image.Image:
  """Red above, blue below."""
  pixels = np.empty((height, width, 3), np.uint8)
  pixels[: height // 2], pixels[height // 2 :] = RED, BLUE
  return Image.fromarray(pixels)


def coded(image: Image.Image, form: str = "PNG", **options) -> bytes:
  out = io.BytesIO()
  image.save(out, form, **options)
  return out.getvalue()


def png(width: int, height: int, *, bits: int, colour: int, data: bytes) -> bytes:
  def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

  head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


_WHOLE = coded(halves(), "JPEG")
# The content of each, and the reason that is given.
BAD_COVERS = {
  "empty": (b"", "empty file"),
  "text": (b"<html>403 Forbidden</html>\n" * 30, "cannot be read as an image: none of JPEG, PNG, WEBP, GIF, BMP"),
  "zeros": (bytes(5000), "cannot be read as an image"),
  "truncated JPEG": (_WHOLE[: len(_WHOLE) // 2], "cannot be read as an image"),
  "truncated PNG": (coded(halves())[:-40], "cannot be read as an image"),
  "head alone": (_WHOLE[:20], "cannot be read as an image"),
  "a TIFF": (coded(halves(), "TIFF"), "cannot be read as an image"),
  "a bomb": (png(20_000, 20_000, bits=1, colour=0, data=b""), "exceeds limit of"),
  "a large one": (png(9_000, 9_000, bits=1, colour=0, data=b""), "9,000 x 9,000 pixels, more than 67,108,864"),
}
