"""What `mlrec.ingest` may be asked for, checked before anything is read."""

import dataclasses
import os
import re
from typing import Any

from mlrec.registry import closest
from tfds_microlens.configs import MediaSettings
from tfds_microlens.errors import PrepareError
from tfds_microlens.ingest.times import UNITS
from tfds_microlens.video_sources import FrameSettings

REPEATS = ("keep", "first", "last")
NONE = "none"
_CORE = re.compile(r"(\d{1,9})(?:,(\d{1,9}))?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What is asked for; `mlrec.ingest.ingest` says what each means."""

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

  def __post_init__(self) -> None:
    """Checks what can be checked without reading.

    Raises:
      PrepareError: a value is not possible; the message names it.
    """
    if not self.interactions:
      raise PrepareError("--interactions=FILE is required: the log, such as --interactions=log.parquet")
    for name, value, valid in (("repeats", self.repeats, REPEATS), ("time_unit", self.time_unit, ("", *UNITS))):
      if value not in valid:
        raise PrepareError(f"--{name}={value}: {closest(value, filter(None, valid))}")
    if self.rating and self.min_rating is None:
      raise PrepareError(f"--rating={self.rating} has no effect without --min_rating, such as --min_rating=4")
    if self.min_rating is not None and self.min_rating != self.min_rating:
      raise PrepareError("--min_rating=nan: expected a number")
    for name, value in (("separator", self.separator), ("items_separator", self.items_separator)):
      if len(value) > 1:
        raise PrepareError(f"--{name}={value}: expected a single character")
    if self.core and not _CORE.fullmatch(self.core):
      raise PrepareError(f"--core={self.core}: expected a number, such as 5, or two, of users and of items: 5,3")
    if not self.items:
      of_items = {name: getattr(self, name) for name in ("items_id", "title", "cover_path", "audio_path", "video_path")}
      for name in filter(of_items.get, of_items):
        raise PrepareError(f"--{name}={of_items[name]} names a column of --items, which is not given")
    _ = self.frame_settings, self.media_settings

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
      raise PrepareError(f"--frames={self.frames}: expected <frames>x<side>, such as 5x224 or 5x224-i5, or {NONE}")
    return found

  @property
  def media_settings(self) -> MediaSettings:
    """Of covers and sound, where there are such."""
    parts = [f"-{name}{value}" for name, value in (("cover", self.cover), ("audio", self.audio)) if value != NONE]
    found = MediaSettings.parse("".join(parts))
    if found is None or "path" in (found.cover, found.audio):
      raise PrepareError(
        f"--cover={self.cover} --audio={self.audio}: expected the side of a square in pixels, such as 224, and "
        f"seconds, such as 10s, or {NONE}"
      )
    return found

  def as_json(self) -> dict[str, Any]:
    """All of it, files by their whole paths."""
    plain = dataclasses.asdict(self)
    for name in ("interactions", "items", "media"):
      plain[name] = os.path.abspath(os.path.expanduser(plain[name])) if plain[name] else ""
    return plain
