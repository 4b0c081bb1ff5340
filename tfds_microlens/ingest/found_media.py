"""Files of covers, sound and videos in a folder of any layout, by the items' ids that they are named by."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import hashlib
import os
import pathlib
from typing import Any
from typing import TypeVar
import unicodedata

import numpy as np

from mlrec import terminal
from mlrec.data.interactions import DataError
from tfds_microlens import audio
from tfds_microlens import covers
from tfds_microlens import media_sources
from tfds_microlens import video_sources
from tfds_microlens.ingest.catalogue import KINDS
from tfds_microlens.ingest.ids import IdTable
from tfds_microlens.ingest.wording import NEUTRAL
from tfds_microlens.ingest.wording import Wording
from tfds_microlens.media_sources import ANOTHER_IS_USED
from tfds_microlens.media_sources import Problem

VIDEO_SUFFIXES = (".mp4", ".mov", ".webm", ".mkv", ".m4v", ".avi")
_SUFFIXES = {
  "cover": covers.SUFFIXES,
  "audio": tuple(suffix for suffix in audio.SUFFIXES if suffix not in VIDEO_SUFFIXES),
  "video": VIDEO_SUFFIXES,
}
# Folders whose names say what is in them, in which a video file may be a sound track.
_FOLDERS = {"audio": "audio", "sound": "audio", "sounds": "audio", "music": "audio"}
_NOUNS = {"cover": "covers", "audio": "sound tracks", "video": "videos"}
_AT_ONCE = 1 << 12
_Files = TypeVar("_Files", bound=media_sources.Files)


@dataclasses.dataclass
class Found:
  """What there is.

  Attributes:
    covers, audio, videos: a file an item; None where there are none.
    audio_of_videos: whether `audio` are the videos, for there are no other sound tracks.
    files: how many there are in the folder.
    strangers: files of media that are no item's, and the first few of them.
    others: files of items that are in no interaction.
  """

  covers: media_sources.Files | None = None
  audio: media_sources.Files | None = None
  videos: video_sources.Files | None = None
  audio_of_videos: bool = False
  files: int = 0
  strangers: int = 0
  others: int = 0


def find(
  folder: str,
  items: IdTable,
  is_kept: np.ndarray,
  columns: Mapping[str, Mapping[int, pathlib.Path]],
  words: Wording = NEUTRAL,
) -> Found:
  """Finds the media of the items that are left of a log.

  Args:
    folder: searched with all that is below it; empty for none.
    items: of the log.
    is_kept: `[items]` bool, which of them are left.
    columns: files by kind and by the code of an item, which come before what is found.
    words: of whoever asks, for messages.

  Raises:
    DataError: there is no such folder, or nothing in it is named by an item's id.
  """
  found = Found()
  by_kind: dict[str, dict[int, tuple[tuple[int, str], pathlib.Path]]] = {kind: {} for kind in KINDS}
  problems: dict[str, list[Problem]] = {kind: [] for kind in KINDS}
  shown: list[pathlib.Path] = []
  walked = files(folder, words) if folder else iter(())
  while chunk := [file for file, _ in zip(walked, range(_AT_ONCE))]:
    media = [(kind, path) for path in chunk if (kind := _kind(path))]
    folders = [(kind, path) for kind, path in media if path.is_dir()]
    for kind, path in folders:
      problems[kind].append(Problem("", str(path), "it is a folder"))
    media = [entry for entry in media if entry not in folders]
    found.files += len(chunk) - len(folders)
    for (kind, path), code in zip(media, _codes([path.stem for _, path in media], items)):
      if code < 0:
        found.strangers += 1
        shown = shown or [path]
        problems[kind].append(Problem("", str(path), "its name is not the id of an item"))
      elif not is_kept[code]:
        found.others += 1
      elif code not in columns.get(kind, {}):
        suffixes = audio.SUFFIXES if kind == "audio" else _SUFFIXES[kind]
        _add(by_kind[kind], problems[kind], code, path, suffixes.index(path.suffix.lower()), items)
  matched = sum(map(len, by_kind.values())) + sum(map(len, columns.values())) + found.others
  if folder and not matched:
    ids = ", ".join(map(repr, items.originals(np.flatnonzero(is_kept)[:3])))
    first = f", such as {terminal.one_line(shown[0].name)!r}," if shown else ""
    raise DataError(
      f"{words.given('media', folder)}: none of its {found.files:,} files{first} is named by the id of an "
      f"item, such as {ids}, and a suffix of a cover, a sound track or a video, such as {', '.join(VIDEO_SUFFIXES[:4])}"
    )
  made = {}
  where = folder or "the paths in the table of items"
  kept = np.flatnonzero(is_kept)
  wanted = dict(zip(items.ids(kept).tolist(), items.originals(kept)))
  for kind in KINDS:
    paths = {code: path for code, (_, path) in by_kind[kind].items()} | dict(columns.get(kind, {}))
    if paths:
      codes = np.fromiter(paths, np.int64, len(paths))
      by_id = dict(zip(items.ids(codes).tolist(), paths.values()))
      made[kind] = (by_id, problems[kind], where, _expected(kind), wanted.__getitem__)
  found.covers = _files_of(media_sources.Files, made, "cover")
  found.videos = _files_of(video_sources.Files, made, "video")
  found.audio_of_videos = "audio" not in made and "video" in made
  found.audio = _files_of(media_sources.Files, made, "video" if found.audio_of_videos else "audio")
  return found


def digest(folder: str, words: Wording = NEUTRAL) -> str:
  """Stands for the names, sizes and times of all files in a folder; empty for none."""
  if not folder:
    return ""
  found = hashlib.sha256()
  for path in files(folder, words):
    stat = path.lstat()
    found.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape"))
  return found.hexdigest()


def _files_of(kind: type[_Files], made: Mapping[str, tuple[Any, ...]], name: str) -> _Files | None:
  if name not in made:
    return None
  paths, problems, where, expected, otherwise = made[name]
  return kind(paths, problems, where=where, expected=expected, otherwise=otherwise)


def _expected(kind: str) -> str:
  return f"{_NOUNS[kind]} named <item>{'|'.join(_SUFFIXES[kind])}"


def files(media: str, words: Wording = NEUTRAL) -> Iterator[pathlib.Path]:
  """All files below a folder but hidden ones, by their names, and folders whose names are those of media.

  Links to folders are not followed.

  Raises:
    DataError: there is no such folder.
  """
  folder = pathlib.Path(media).expanduser()
  if not folder.is_dir():
    raise DataError(f"{words.given('media', media)}: {'not a folder' if folder.exists() else 'no such folder'}")
  for parent, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if not name.startswith("."))
    for name in sorted([*names, *(name for name in folders if _kind(pathlib.Path(parent, name)))]):
      if not name.startswith("."):
        yield pathlib.Path(parent, name)


def _kind(path: pathlib.Path) -> str:
  """What a file is by its suffix and the folder that it lies in; empty for nothing of ours."""
  suffix = path.suffix.lower()
  if _FOLDERS.get(path.parent.name.lower()) == "audio" and suffix in audio.SUFFIXES:
    return "audio"
  return next((kind for kind, suffixes in _SUFFIXES.items() if suffix in suffixes), "")


def _codes(stems: Sequence[str], items: IdTable) -> list[int]:
  """The codes of the items that files are named by, -1 for others; composed characters are as good as others."""
  import pyarrow

  # A name may hold bytes that are no text, which no id does.
  plain = [stem.encode(errors="surrogateescape").decode(errors="replace") for stem in stems]
  found = items.find(pyarrow.array(plain, pyarrow.string()))
  composed = items.find(pyarrow.array([unicodedata.normalize("NFC", stem) for stem in plain], pyarrow.string()))
  return np.where(found < 0, composed, found).tolist()


def _add(
  paths: dict[int, tuple[tuple[int, str], pathlib.Path]],
  problems: list[Problem],
  code: int,
  path: pathlib.Path,
  rank: int,
  items: IdTable,
) -> None:
  """Of several files of an item the one whose suffix is named first counts, and of these the first by name."""
  here = ((rank, str(path)), path)
  kept, other = sorted((paths.get(code, here), here), key=lambda entry: entry[0])
  paths[code] = kept
  if other is not kept:
    item = int(items.ids(np.array([code]))[0])
    problems.append(Problem(item, str(other[1]), f"ignored: {kept[1].name}{ANOTHER_IS_USED}"))
