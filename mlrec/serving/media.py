"""The files of items' videos, as browsers play them."""

from collections.abc import Mapping
import os
import pathlib
from typing import Self

from mlrec.data.interactions import DataError
from mlrec.inference.original_ids import Id

# By suffix, the preferred one first.
TYPES: Mapping[str, str] = {
  ".mp4": "video/mp4",
  ".m4v": "video/mp4",
  ".webm": "video/webm",
  ".mov": "video/quicktime",
  ".mkv": "video/x-matroska",
}


class Media:
  """Files of one folder, `<original id><suffix>`."""

  def __init__(self, paths: Mapping[str, pathlib.Path]):
    """`paths` are by original id, as text."""
    self._paths = paths

  @classmethod
  def of(cls, folder: pathlib.Path) -> Self:
    """Lists a folder.

    Raises:
      DataError: it is none, or holds no video.
    """
    preference = list(TYPES)
    found: dict[str, pathlib.Path] = {}
    try:
      with os.scandir(folder) as entries:
        for entry in entries:
          path = pathlib.Path(entry.path)
          suffix = path.suffix.lower()
          if suffix not in TYPES or path.name.startswith("."):
            continue
          before = found.get(path.stem)
          if before is None or preference.index(suffix) < preference.index(before.suffix.lower()):
            found[path.stem] = path
    except OSError as error:
      raise DataError(f"--media={folder}: the folder cannot be read ({error.strerror})") from error
    if not found:
      raise DataError(f"--media={folder}: it holds no file named after an item, such as 42{preference[0]}")
    return cls(found)

  def __len__(self) -> int:
    return len(self._paths)

  def __contains__(self, item: Id) -> bool:
    return str(item) in self._paths

  def find(self, item: Id) -> tuple[pathlib.Path, str] | None:
    """The item's file and its media type; None where there is none (any more)."""
    path = self._paths.get(str(item))
    return (path, TYPES[path.suffix.lower()]) if path is not None and path.is_file() else None
