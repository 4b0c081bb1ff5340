"""The videos and covers of the synthetic MicroLens: what each item shows, as an mp4 clip and as a still.

A clip is 24 frames of 128 x 128. Before a grey wall (plain, striped, dotted or checked) one shape of one colour moves:
rising, drifting to the right, falling, or bouncing, at 3, 6 or 10 pixels a frame. In the middle frame it is near the
middle of the picture (a bouncing one turns there), so the frames that the benchmark takes show all five attributes.
A cover is the middle frame, so it shows shape, colour and background.
What says nothing differs from clip to clip: size, place, tilt, the wall's greys and where its pattern begins.
"""

from collections.abc import Callable
import os
import pathlib

import numpy as np

from mlrec.machine import in_order
from tfds_microlens import decoding
from tfds_microlens import demo

SIDE = 128
NUM_FRAMES = 24
_FRAMES_A_SECOND = 12
SPEEDS = (3, 6, 10)  # pixels a frame
_BOUNCE = 4  # frames from a turn to the next
COLOURS = ((225, 40, 40), (240, 135, 20), (240, 220, 40), (40, 180, 60), (40, 90, 230), (150, 50, 200))
_TILE = 80
_PATTERN = 16  # pixels


def write(made: demo.Demo, folder: str | os.PathLike[str], *, workers: int | None = None) -> pathlib.Path:
  """Writes `<item>.mp4` (H.264) for each item into `folder`.

  Raises:
    PrepareError: PyAV is not installed.
  """
  return _write_each(made, folder, "mp4", _encode, workers)


def write_covers(made: demo.Demo, folder: str | os.PathLike[str], *, workers: int | None = None) -> pathlib.Path:
  """Writes `<item>.png`, the middle frame of the clip, for each item into `folder`.

  Raises:
    PrepareError: Pillow is not installed.
  """
  image = decoding.import_pillow()

  def write_still(clip: np.ndarray, path: pathlib.Path) -> None:
    image.fromarray(clip[NUM_FRAMES // 2]).save(path)

  return _write_each(made, folder, "png", write_still, workers)


def _write_each(
  made: demo.Demo,
  folder: str | os.PathLike[str],
  suffix: str,
  write_one: Callable[[np.ndarray, pathlib.Path], None],
  workers: int | None,
) -> pathlib.Path:
  decoding.require_libraries()
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)

  def make(place: int) -> None:
    item = int(made.items[place])
    write_one(draw(made.attributes[place], item), folder / f"{item}.{suffix}")

  for _ in in_order(make, range(len(made.items)), workers):
    pass
  return folder


def draw(attributes: np.ndarray, item: int) -> np.ndarray:
  """The frames of an item's clip.

  Args:
    attributes: `[5]`, an index into each of `demo.ATTRIBUTES`.
    item: its id, which alone decides what the attributes leave open.

  Returns:
    `[24, 128, 128, 3]` uint8, RGB.
  """
  shape, colour, motion, speed, background = (
    names[value] for names, value in zip(demo.ATTRIBUTES.values(), attributes.tolist())
  )
  numbers = (np.random.PCG64(item).random_raw(8) >> np.uint64(33)).astype(np.int64)
  size, tilt, right, down, grey, contrast, begin_x, begin_y = (numbers / 2.0**31).tolist()
  coverage = _coverage(shape, radius=26 + 6 * size, tilt=(2 * tilt - 1) * 0.2)[..., None]
  uncovered = 1 - coverage
  wall = _wall(background, 70 + 60 * grey, 45 + 25 * contrast, int(begin_x * 2 * _PATTERN), int(begin_y * 2 * _PATTERN))
  painted = coverage * np.array(COLOURS[demo.ATTRIBUTES["colour"].index(colour)], np.float32)
  place = np.array([SIDE // 2 + round(16 * down - 8), SIDE // 2 + round(16 * right - 8)])
  step = SPEEDS[demo.ATTRIBUTES["speed"].index(speed)]
  clip = np.empty((NUM_FRAMES, SIDE, SIDE, 3), np.uint8)
  clip[:] = np.rint(wall).astype(np.uint8)
  for index in range(NUM_FRAMES):
    centre = place + _way(motion, step, index - NUM_FRAMES // 2)
    # What leaves the picture on one side comes in again on the other.
    y, x = ((centre + _TILE // 2) % (SIDE + _TILE) - _TILE).tolist()
    rows, columns = slice(max(y, 0), min(y + _TILE, SIDE)), slice(max(x, 0), min(x + _TILE, SIDE))
    part = slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)
    clip[index, rows, columns] = np.rint(wall[rows, columns] * uncovered[part] + painted[part])
  return clip


def _way(motion: str, step: int, frames: int) -> np.ndarray:
  """`[2]`, down and to the right: how far a shape is from its place, so many `frames` after the middle one."""
  if motion == "rising":
    return np.array([-step * frames, 0])
  if motion == "falling":
    return np.array([step * frames, 0])
  if motion == "drifting":
    return np.array([0, step * frames])
  height = abs((frames + _BOUNCE) % (2 * _BOUNCE) - _BOUNCE)
  return np.array([step * (_BOUNCE // 2 - height), 0])


def _coverage(shape: str, radius: float, tilt: float) -> np.ndarray:
  """`[tile, tile]` float32 in 0 to 1: how much of each pixel the shape covers; all shapes have about the same area."""
  axis = np.arange(_TILE, dtype=np.float32) - (_TILE - 1) / 2
  x, y = np.meshgrid(axis, axis)
  x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
  # The distance to the edge, positive inside.
  if shape == "circle":
    inside = radius - np.hypot(x, y)
  elif shape == "ring":
    inside = 0.25 * radius - np.abs(np.hypot(x, y) - radius)
  elif shape == "square":
    inside = 0.87 * radius - np.maximum(abs(x), abs(y))
  elif shape == "triangle":
    y = y - 0.2 * radius
    inside = 0.68 * radius - np.maximum(y, 0.866 * abs(x) - 0.5 * y)
  elif shape == "star":
    # One of ten half rays, from an outer corner to an inner one.
    angle = abs((np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
    along, across = np.hypot(x, y) * np.cos(angle), np.hypot(x, y) * np.sin(angle)
    outer, inner = 1.22 * radius, 0.55 * radius
    edge = np.array([inner * np.cos(np.pi / 5) - outer, inner * np.sin(np.pi / 5)])
    inside = ((outer - along) * edge[1] + across * edge[0]) / np.hypot(*edge)
  else:
    long, broad = 1.12 * radius, 0.36 * radius
    inside = np.maximum(np.minimum(long - abs(x), broad - abs(y)), np.minimum(broad - abs(x), long - abs(y)))
  return np.clip(inside + 0.5, 0, 1).astype(np.float32)


def _wall(background: str, grey: float, contrast: float, begin_x: int, begin_y: int) -> np.ndarray:
  """`[side, side, 3]` float32, grey."""
  x, y = np.meshgrid(np.arange(SIDE) + begin_x, np.arange(SIDE) + begin_y)
  if background == "striped":
    lighter = (x + y) % (2 * _PATTERN) < _PATTERN
  elif background == "checked":
    lighter = (x // _PATTERN + y // _PATTERN) % 2 == 0
  elif background == "dotted":
    lighter = np.hypot(x % (2 * _PATTERN) - _PATTERN, y % (2 * _PATTERN) - _PATTERN) < 0.55 * _PATTERN
  else:
    lighter = np.zeros((SIDE, SIDE), bool)
  return np.repeat((grey + contrast * lighter).astype(np.float32)[..., None], 3, axis=-1)


def _encode(clip: np.ndarray, path: pathlib.Path) -> None:
  import av

  with av.open(str(path), "w") as container:
    # One thread: with several, the bytes depend on the machine.
    stream = container.add_stream("libx264", _FRAMES_A_SECOND, {"preset": "superfast", "crf": "18", "threads": "1"})
    stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
    for index, pixels in enumerate(clip):
      frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
      frame.pts = index
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
