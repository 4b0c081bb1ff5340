"""What `mlrec.ingest` may be asked for, checked before anything is read."""

import dataclasses
import os
import re
from typing import Any

from mlrec import files
from mlrec.registry import closest
from tfds_microlens.configs import MediaSettings
from tfds_microlens.errors import PrepareError
from tfds_microlens.ingest.times import UNITS
from tfds_microlens.ingest.wording import Wording
from tfds_microlens.video_sources import FrameSettings

REPEATS = ("keep", "first", "last")
NONE = "none"
# Settings that are paths.
_PATHS = ("interactions", "items", "media")
_CORE = re.compile(r"(\d{1,9})(?:,(\d{1,9}))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What is asked for; `mlrec.ingest.ingest` says what each means.

  Attributes:
    words: how all of it is written by whoever asks; it changes messages alone.
  """

  interactions: str
  user: str = ""
  item: str = ""
  time: str = ""
  rating: str = ""
  min_rating: float | None = None
  time_unit: str = ""
  header: bool = True
  separator: str = ""
  encoding: str = "utf-8"
  item_separator: str = ""
  repeats: str = "keep"
  core: str = ""
  items: str = ""
  items_id: str = ""
  items_header: bool = True
  items_separator: str = ""
  title: str = ""
  cover_path: str = ""
  audio_path: str = ""
  video_path: str = ""
  media: str = ""
  frames: str = ""
  cover: str = ""
  audio: str = ""
  words: Wording = dataclasses.field(default_factory=Wording, compare=False)

  def __post_init__(self) -> None:
    """Checks what can be checked without reading.

    Raises:
      PrepareError: a value is not possible; the message names it.
    """
    if not self.interactions:
      option = self.words.name("interactions")
      raise PrepareError(f"{option}FILE is required: the log, such as {option}log.parquet")
    for name in _PATHS:
      try:
        files.check_name(getattr(self, name))
      except OSError as error:
        raise self._refused(name, str(error.strerror)) from error
    for name, valid in (("repeats", REPEATS), ("time_unit", ("", *UNITS))):
      if getattr(self, name) not in valid:
        raise self._refused(name, closest(getattr(self, name), filter(None, valid)))
    if self.min_rating is not None and self.min_rating != self.min_rating:
      raise self._refused("min_rating", "expected a number")
    for name in ("separator", "items_separator"):
      if len(getattr(self, name)) > 1:
        raise self._refused(name, "expected a single character")
    if self.core and not _CORE.fullmatch(self.core):
      raise self._refused("core", "expected a number, such as 5, or two, of users and of items: 5,3")
    if not self.items:
      for name in ("items_id", "title", "cover_path", "audio_path", "video_path"):
        if getattr(self, name):
          table = f"{self.words.name('items')}FILE"
          raise self._refused(name, f"a column of the table of items, {table}, which is not given")
    _ = self.frame_settings, self.media_settings

  def _refused(self, name: str, problem: str) -> PrepareError:
    return PrepareError(f"{self.words.given(name, getattr(self, name))}: {problem}")

  @property
  def log(self) -> str:
    """What messages call the log."""
    return self.words.log or self.interactions

  @property
  def cores(self) -> tuple[int, int]:
    """How many interactions a user, and an item, must have."""
    found = _CORE.fullmatch(self.core)
    return (int(found[1]), int(found[2] or found[1])) if found else (1, 1)

  @property
  def frame_settings(self) -> FrameSettings | None:
    """Of videos; None where they are left out."""
    if self.frames == NONE:
      return None
    found = FrameSettings.parse(self.frames) if self.frames else FrameSettings()
    if found is None:
      raise self._refused("frames", f"expected <frames>x<side>, such as 5x224, 5x224-i5 or 5x224-h264, or {NONE}")
    return found

  @property
  def media_settings(self) -> MediaSettings:
    """Of covers and sound, where there are such."""
    parts = [f"-{name}{value}" for name, value in (("cover", self.cover), ("audio", self.audio)) if value != NONE]
    found = MediaSettings.parse("".join(parts))
    if found is None or "path" in (found.cover, found.audio):
      raise PrepareError(
        f"{self.words.given('cover', self.cover)} {self.words.given('audio', self.audio)}: expected the side of a "
        f"square in pixels, such as 224, and seconds, such as 10s, or {NONE}"
      )
    return found

  def as_json(self) -> dict[str, Any]:
    """All of it, files by their whole paths."""
    plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "words"}
    for name in _PATHS:
      plain[name] = os.path.abspath(os.path.expanduser(plain[name])) if plain[name] else ""
    return plain
