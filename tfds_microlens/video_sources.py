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

from tfds_microlens import frame_codecs
from tfds_microlens import media_sources
from tfds_microlens import video_frames
from tfds_microlens.media_sources import MediaError
from tfds_microlens.media_sources import Problem

# Of the published archive, by its name `…_frames_interval_1_number_5.zip`.
ARCHIVE_NUMBER, ARCHIVE_INTERVAL = 5, 1
# In place of the number of a video's frames where the video itself was not seen.
UNKNOWN_LENGTH = -1
SUFFIX = ".mp4"
_MEMBER = re.compile(r"(?:.*/)?([1-9]\d{0,17})-([1-9]\d{0,3})\.jpg")
_NAME = re.compile(r"([1-9]\d{0,3})x([1-9]\d{0,3})(?:-i([1-9]\d{0,3}))?(-reference)?(-h264)?")


class FrameSettings(NamedTuple):
  """Which frames are kept: `number` of them, `interval` apart around the middle, as squares of side `size`.

  `reference` chooses them as the benchmark's released code does (`video_frames.choose_frames`), and `form`, one of
  `frame_codecs.FORMS`, is how they are kept.
  """

  number: int = 5
  size: int = 224
  interval: int = 1
  reference: bool = False
  form: str = frame_codecs.JPEG

  @classmethod
  def parse(cls, text: str) -> "FrameSettings | None":
    """What `5x224`, `5x224-i5`, `5x224-reference` or `5x224-h264` says; None if it is none of them."""
    found = _NAME.fullmatch(text)
    if not found:
      return None
    form = frame_codecs.H264 if found[5] else frame_codecs.JPEG
    return cls(int(found[1]), int(found[2]), int(found[3] or 1), bool(found[4]), form)

  def __str__(self) -> str:
    apart = f"-i{self.interval}" if self.interval > 1 else ""
    together = "-h264" if self.form == frame_codecs.H264 else ""
    return f"{self.number}x{self.size}{apart}{'-reference' * self.reference}{together}"


class VideoSource(media_sources.Source, Protocol):
  """Frames by item."""

  def read(self, item: int, settings: FrameSettings) -> tuple[np.ndarray, int]:
    """`(pixels [number, size, size, 3] uint8, frames in the video)`.

    Raises:
      MediaError: no frames can be read.
    """


class Files(media_sources.Files):
  """A video file an item."""

  def read(self, item: int, settings: FrameSettings) -> tuple[np.ndarray, int]:
    return video_frames.read_frames(
      self.path(item), frames=settings.number, size=settings.size, interval=settings.interval,
      reference=settings.reference,
    )  # fmt: skip


class Folder(media_sources.Folder, Files):
  """`<item>.mp4` files."""

  def __init__(self, folder: str | os.PathLike[str]):
    super().__init__(folder, (SUFFIX,), "videos")


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
    self._zip = media_sources.open_zip(path, self.expected, "remove it to take the frames from videos")
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
      raise MediaError(f"none of frames 1 to {settings.number} is there")
    nearest = [min(frames, key=lambda k: (abs(k - wanted), k)) for wanted in range(1, settings.number + 1)]
    return np.stack([frames[k] for k in nearest]), UNKNOWN_LENGTH

  def _frame(self, member: zipfile.ZipInfo, size: int) -> np.ndarray:
    try:
      return video_frames.scaled(video_frames.decode_jpeg(media_sources.read_member(self._zip, member)), size)
    except media_sources.UNREADABLE_MEMBER as error:
      raise MediaError(f"{member.filename} cannot be read as a JPEG: {error}") from error
