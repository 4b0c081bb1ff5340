"""The files of items' videos, as browsers play them."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Self
import unicodedata

from mlrec import terminal
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
  """Files `<original id><suffix>`, wherever they lie in a folder."""

  def __init__(self, folder: pathlib.Path, paths: Mapping[str, pathlib.Path]):
    """`paths` are by original id, as text."""
    self._folder, self._paths = folder, paths

  @classmethod
  def of(cls, folder: pathlib.Path) -> Self:
    """Lists a folder with all that is below it.

    Of several files of an item the one whose suffix is preferred counts, and of these the first by name.

    Raises:
      DataError: it is none, or holds no video.
    """
    from tfds_microlens.ingest import found_media
    from tfds_microlens.ingest.wording import Wording

    found: dict[str, pathlib.Path] = {}
    for path in found_media.files(str(folder), Wording({"media": "--media="})):
      if path.suffix.lower() in TYPES and not path.is_dir():
        found[path.stem] = min(found.get(path.stem, path), path, key=_rank)
    if not found:
      raise DataError(f"--media={folder}: no file in it is a video, {', '.join(TYPES)}")
    # Some systems write names with accents apart from their letters, which an id has in one.
    return cls(folder, {unicodedata.normalize("NFC", stem): path for stem, path in found.items()} | found)

  def count(self, items: Sequence[Id]) -> int:
    """Of how many of the items there are files.

    Raises:
      DataError: of none.
    """
    count = sum(item in self for item in items)
    if not count:
      named = terminal.one_line(next(iter(self._paths.values())).name)
      ids = ", ".join(map(repr, items[:3]))
      raise DataError(
        f"--media={self._folder}: it holds {terminal.counted(len(self._paths), 'video file')}, such as {named!r}, and "
        f"none is named by the id of an item, such as {ids}"
      )
    return count

  def __contains__(self, item: Id) -> bool:
    return str(item) in self._paths

  def find(self, item: Id) -> tuple[pathlib.Path, str] | None:
    """The item's file and its media type; None where there is none (any more)."""
    path = self._paths.get(str(item))
    return (path, TYPES[path.suffix.lower()]) if path is not None and path.is_file() else None


def _rank(path: pathlib.Path) -> tuple[int, str]:
  return list(TYPES).index(path.suffix.lower()), str(path)
