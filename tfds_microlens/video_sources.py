"""Where frames of items come from: a folder of videos, or the archive of frames that MicroLens publishes."""

import collections
import os
import pathlib
import re
from typing import NamedTuple
from typing import Protocol
import zipfile
import zlib

import numpy as np

from tfds_microlens import fetch
from tfds_microlens import video_frames

MISSING = "missing"
# Of the published archive, by its name `…_frames_interval_1_number_5.zip`.
ARCHIVE_NUMBER, ARCHIVE_INTERVAL = 5, 1
# In place of the number of a video's frames where the video itself was not seen.
UNKNOWN_LENGTH = -1
_SUFFIX = ".mp4"
_ID = re.compile(r"[1-9]\d{0,17}")
_MEMBER = re.compile(r"(?:.*/)?([1-9]\d{0,17})-([1-9]\d{0,3})\.jpg")
_NAME = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})(?:-i([1-9]\d{0,3}))?(-reference)?")
# No frame of a video is as large; a member that claims to be is not unpacked.
_MOST_BYTES = 1 << 26


class FrameSettings(NamedTuple):
  """Which frames are kept: `number` of them, `interval` apart around the middle, as squares of side `size`.

  `reference` chooses them as the benchmark's released code does (`video_frames.choose_frames`).
  """

  number: int = 5
  size: int = 224
  interval: int = 1
  reference: bool = False

  @classmethod
  def parse(cls, text: str) -> "FrameSettings | None":
    """What `5x224`, `5x224-i5` or `5x224-reference` says; None if it is none of them."""
    found = _NAME.fullmatch(text)
    return cls(int(found[1]), int(found[2]), int(found[3] or 1), bool(found[4])) if found else None

  def __str__(self) -> str:
    apart = f"-i{self.interval}" if self.interval > 1 else ""
    return f"{self.number}x{self.size}{apart}{'-reference' * self.reference}"


class Problem(NamedTuple):
  """A video that gives no record; `item` is empty if its name is no item id."""

  item: int | str
  file: str
  reason: str


class Source(Protocol):
  """Frames by item.

  Attributes:
    expected: what it should hold, for messages.
    items: ascending ids of the items there is something of.
    problems: what is there under names that are no items'.
  """

  expected: str
  items: list[int]
  problems: list[Problem]

  def name(self, item: int) -> str:
    """Where the item's frames lie, or should."""

  def stamp(self, item: int) -> tuple[int, int]:
    """Two numbers that change with what lies there, the second signed; FileNotFoundError if it is gone."""

  def read(self, item: int, settings: FrameSettings) -> tuple[np.ndarray, int]:
    """`(pixels [number, size, size, 3] uint8, frames in the video)`.

    Raises:
      VideoError: no frames can be had.
    """


class Folder:
  """`<item>.mp4` files."""

  expected = f"videos named <item>{_SUFFIX}"

  def __init__(self, folder: str | os.PathLike[str]):
    self._folder = pathlib.Path(folder)
    self._paths: dict[int, pathlib.Path] = {}
    self.problems: list[Problem] = []
    with os.scandir(self._folder) as entries:
      for entry in entries:
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() != _SUFFIX or stem.startswith("."):
          continue
        if _ID.fullmatch(stem) and suffix == _SUFFIX:
          self._paths[int(stem)] = pathlib.Path(entry.path)
        else:
          reason = f"its name is not that of an item: expected <item>{_SUFFIX}"
          self.problems.append(Problem("", entry.path, reason))
    self.items = sorted(self._paths)

  def __str__(self) -> str:
    return str(self._folder)

  def name(self, item: int) -> str:
    return str(self._paths.get(item, self._folder / f"{item}{_SUFFIX}"))

  def stamp(self, item: int) -> tuple[int, int]:
    found = self._paths[item].stat()
    return found.st_size, found.st_mtime_ns

  def read(self, item: int, settings: FrameSettings) -> tuple[np.ndarray, int]:
    return video_frames.read_frames(
      self._paths[item], frames=settings.number, size=settings.size, interval=settings.interval,
      reference=settings.reference,
    )  # fmt: skip


class Archive:
  """A zip file of `<item>-<k>.jpg`, k from 1: the frames that the benchmark itself was run on.

  A video with fewer frames than wanted repeats the nearest, as a short video does.
  """

  expected = "frames named <item>-<k>.jpg"

  def __init__(self, path: str | os.PathLike[str]):
    """Lists what there is.

    Raises:
      PrepareError: it is no zip file, or a part of one.
    """
    self._path = pathlib.Path(path)
    self.problems: list[Problem] = []
    try:
      self._zip = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
      raise fetch.PrepareError(
        f"{path}: expected a whole zip file of {self.expected} ({error}); fetch it again, or remove it to take the "
        "frames from videos"
      ) from error
    self._members: dict[int, dict[int, zipfile.ZipInfo]] = collections.defaultdict(dict)
    for member in self._zip.infolist():
      found = _MEMBER.fullmatch(member.filename)
      if found:
        self._members[int(found[1])][int(found[2])] = member
      elif not member.is_dir():
        self.problems.append(Problem("", f"{path}/{member.filename}", f"expected {self.expected}"))
    self.items = sorted(self._members)

  def __str__(self) -> str:
    return str(self._path)

  def name(self, item: int) -> str:
    return f"{self._path}/{item}-*.jpg"

  def stamp(self, item: int) -> tuple[int, int]:
    members = sorted(self._members[item].items())
    sums = b"".join(k.to_bytes(4, "little") + member.CRC.to_bytes(4, "little") for k, member in members)
    return sum(member.file_size for _, member in members), zlib.crc32(sums)

  def read(self, item: int, settings: FrameSettings) -> tuple[np.ndarray, int]:
    members = self._members[item]
    frames = {k: self._frame(members[k], settings.size) for k in range(1, settings.number + 1) if k in members}
    if not frames:
      raise video_frames.VideoError(f"none of frames 1 to {settings.number} is there")
    nearest = [min(frames, key=lambda k: (abs(k - wanted), k)) for wanted in range(1, settings.number + 1)]
    return np.stack([frames[k] for k in nearest]), UNKNOWN_LENGTH

  def _frame(self, member: zipfile.ZipInfo, size: int) -> np.ndarray:
    try:
      if member.file_size > _MOST_BYTES:
        raise ValueError(f"it claims to be of {member.file_size:,} bytes")
      return video_frames.scaled(video_frames.decode_jpeg(self._zip.read(member)), size)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, EOFError) as error:
      raise video_frames.VideoError(f"{member.filename} cannot be read as a JPEG: {error}") from error
