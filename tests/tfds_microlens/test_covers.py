"""Covers of any form to upright RGB."""

import numpy as np
from PIL import Image
import pytest

from support.pictures import BAD_COVERS
from support.pictures import BLUE
from support.pictures import coded
from support.pictures import halves
from support.pictures import png
from support.pictures import RED
from tfds_microlens import covers
from tfds_microlens.media_sources import MediaError


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_formats_are_read_by_what_is_in_them(form):
  options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
  pixels, notes = covers.read_cover(coded(halves(), form, **options))
  np.testing.assert_allclose(pixels.astype(int), np.asarray(halves()).astype(int), atol=3 if form == "JPEG" else 0)
  assert notes == []


def test_grey_becomes_rgb():
  grey = Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32))
  for image in (grey, grey.convert("P"), grey.convert("1")):
    pixels, _ = covers.read_cover(coded(image))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_cmyk_keeps_its_colours_and_is_noted():
  """Pillow writes the inks of a JPEG inverted, as Photoshop does."""
  pixels, notes = covers.read_cover(coded(halves().convert("CMYK"), "JPEG", quality=100, subsampling=0))
  np.testing.assert_allclose(pixels.astype(int), np.asarray(halves()).astype(int), atol=4)
  assert notes == ["CMYK, converted to RGB"]


def test_sixteen_bits_become_eight():
  values = np.linspace(0, 65_535, 32 * 32).reshape(32, 32).astype(np.uint16)
  pixels, notes = covers.read_cover(coded(Image.fromarray(values)))
  assert np.array_equal(pixels[..., 1], np.rint(values / 257).astype(np.uint8))
  assert notes == ["16 bits a sample, of which 8 are kept"]
  # Colours: Pillow writes no such file.
  row = b"\0" + bytes([0x80, 0x40, 0x20, 0x10, 0xF0, 0xFF]) * 20
  pixels, notes = covers.read_cover(png(20, 20, bits=16, colour=2, data=row * 20))
  np.testing.assert_allclose(pixels[3, 4], [0x80, 0x20, 0xF0], atol=1)
  assert notes == ["16 bits a sample, of which 8 are kept"]


def test_what_is_transparent_is_set_on_white():
  image = halves().convert("RGBA")
  image.putalpha(Image.fromarray(np.repeat([[0], [128], [255]], 20, axis=0).astype(np.uint8).repeat(40, axis=1)))
  pixels, notes = covers.read_cover(coded(image))
  assert notes == ["transparent, set on white"]
  assert (pixels[:20] == 255).all()
  np.testing.assert_allclose(pixels[25, 5], (np.array(RED) + 255) / 2, atol=2)
  assert (pixels[45:] == BLUE).all()
  # A palette, one colour of which is transparent.
  palette = halves().quantize(2)
  red = palette.getpixel((0, 0))
  pixels, notes = covers.read_cover(coded(palette, transparency=red))
  assert (pixels[:30] == 255).all()
  assert (pixels[30:] == BLUE).all()
  assert notes == ["transparent, set on white"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_exif_says(orientation):
  # What a camera held that way would have stored.
  stored = {
    1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
  }[orientation](np.asarray(halves()))  # fmt: skip
  exif = Image.Exif()
  exif[0x0112] = orientation
  image = Image.fromarray(np.ascontiguousarray(stored))
  pixels, notes = covers.read_cover(coded(image, "PNG", exif=exif))
  assert np.array_equal(pixels, np.asarray(halves()))
  assert notes == []


def test_a_single_pixel_is_kept_and_noted():
  pixels, notes = covers.read_cover(coded(Image.new("RGB", (1, 1), RED)))
  assert pixels.tolist() == [[list(RED)]]
  assert notes == ["only 1 x 1 pixels, scaled up"]


@pytest.mark.parametrize("kind", BAD_COVERS)
def test_a_bad_file_is_refused_with_its_reason(kind):
  content, reason = BAD_COVERS[kind]
  with pytest.raises(MediaError, match=reason):
    covers.read_cover(content)
