"""Where media of items lie: a folder or a zip file of a file an item."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import re
from typing import NamedTuple
from typing import Protocol
from typing import TypeVar
import zipfile
import zlib

from mlrec.data.interactions import DataError
from tfds_microlens.errors import PrepareError

MISSING = "missing"
# How reasons end of files whose item has another: nothing is lost by them.
ANOTHER_IS_USED = " is used for the item"
File = TypeVar("File")
_ID = re.compile(r"[1-9]\d{0,17}")
# No cover and no frame is as large; a member that claims to be is not unpacked.
_MOST_BYTES = 1 << 26


class MediaError(DataError):
  """A file that cannot be used; the message is the reason, without the file's name."""


class Problem(NamedTuple):
  """A file that gives no record, or one that is odd; `item` is empty if its name is no item id."""

  item: int | str
  file: str
  reason: str


class Source(Protocol):
  """Files by item.

  Attributes:
    expected: what it should hold, for messages.
    items: ascending ids of the items there is something of.
    problems: what is there under names that are no items'.
  """

  expected: str
  items: list[int]
  problems: list[Problem]

  def name(self, item: int) -> str:
    """Where the item's file lies, or should."""

  def stamp(self, item: int) -> tuple[int, int]:
    """Two numbers that change with what lies there, the second signed; FileNotFoundError if it is missing."""


class FileSource(Source, Protocol):
  """A source of a file an item."""

  def content(self, item: int) -> bytes:
    """The whole file.

    Raises:
      MediaError: it is too large, or damaged in its archive.
      OSError: it cannot be read.
    """


class Files:
  """A file an item, wherever each lies."""

  def __init__(
    self,
    paths: Mapping[int, pathlib.Path],
    problems: Sequence[Problem],
    *,
    where: str,
    expected: str,
    otherwise: Callable[[int], str] = lambda item: "",
  ):
    """`where` they are, what was `expected` there, and what names an item without one are for messages."""
    self._paths, self.problems = dict(paths), list(problems)
    self._where, self.expected, self._otherwise = where, expected, otherwise
    self.items = sorted(self._paths)

  def __str__(self) -> str:
    return self._where

  def name(self, item: int) -> str:
    return str(self._paths.get(item, "")) or self._otherwise(item)

  def path(self, item: int) -> pathlib.Path:
    return self._paths[item]

  def stamp(self, item: int) -> tuple[int, int]:
    found = self._paths[item].stat()
    return found.st_size, found.st_mtime_ns

  def content(self, item: int) -> bytes:
    path = self._paths[item]
    if not path.is_file():
      raise MediaError("not a file" if path.exists() else MISSING)
    check_measure(path.stat().st_size)
    return path.read_bytes()


class Folder(Files):
  """`<item><suffix>` files. Of several of an item the one whose suffix is named first counts."""

  def __init__(self, folder: str | os.PathLike[str], suffixes: Sequence[str], what: str):
    """Lists what there is.

    Args:
      folder: that holds them.
      suffixes: lower case, with their dot, the preferred one first. Files with other suffixes are ignored.
      what: they are, in the plural.
    """
    self._folder, self._suffix = pathlib.Path(folder), suffixes[0]
    names = {entry.name: pathlib.Path(entry.path) for entry in os.scandir(folder) if not entry.name.startswith(".")}
    paths, problems = _by_item(names, suffixes)
    super().__init__(
      paths, problems, where=str(self._folder), expected=_expected(what, suffixes),
      otherwise=lambda item: str(self._folder / f"{item}{self._suffix}"),
    )  # fmt: skip


class Zip:
  """A zip file of `<item><suffix>` members, in any folders."""

  def __init__(self, path: str | os.PathLike[str], suffixes: Sequence[str], what: str):
    """As of a `Folder`.

    Raises:
      PrepareError: it is no zip file, or a part of one.
    """
    self._path, self._suffix = pathlib.Path(path), suffixes[0]
    self.expected = _expected(what, suffixes)
    self._zip = open_zip(path, self.expected, "unpack it as a folder beside it")
    members = {member.filename: member for member in self._zip.infolist() if not member.is_dir()}
    # What macOS adds.
    members = {name: member for name, member in members.items() if not name.rpartition("/")[2].startswith(".")}
    self._members, self.problems = _by_item(members, suffixes)
    self.problems = [problem._replace(file=f"{path}/{problem.file}") for problem in self.problems]
    self.items = sorted(self._members)

  def __str__(self) -> str:
    return str(self._path)

  def name(self, item: int) -> str:
    member = self._members.get(item)
    return f"{self._path}/{member.filename if member else f'{item}{self._suffix}'}"

  def stamp(self, item: int) -> tuple[int, int]:
    return self._members[item].file_size, self._members[item].CRC

  def content(self, item: int) -> bytes:
    try:
      return read_member(self._zip, self._members[item])
    except UNREADABLE_MEMBER as error:
      raise MediaError(f"cannot be unpacked: {error}") from error


# What reading a damaged, encrypted or otherwise unreadable member raises.
UNREADABLE_MEMBER = (
  zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, EOFError,
)  # fmt: skip


def open_zip(path: str | os.PathLike[str], expected: str, otherwise: str) -> zipfile.ZipFile:
  """A zip file for reading; PrepareError if it is not a whole one, which says what can be done `otherwise`."""
  try:
    return zipfile.ZipFile(path)
  except (zipfile.BadZipFile, OSError, ValueError) as error:
    raise PrepareError(
      f"{path}: expected a whole zip file of {expected} ({error}); download it again, or {otherwise}"
    ) from error


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
  """A member's bytes; one of `UNREADABLE_MEMBER` if they cannot be read."""
  if member.file_size > _MOST_BYTES:
    raise ValueError(f"it claims to be of {member.file_size:,} bytes")
  return archive.read(member)


def check_measure(size: int) -> None:
  """Refuses a file, by its bytes, that is empty or too large."""
  if not size:
    raise MediaError("empty file")
  if size > _MOST_BYTES:
    raise MediaError(f"{size:,} bytes, more than {_MOST_BYTES:,}")


def _expected(what: str, suffixes: Sequence[str]) -> str:
  return f"{what} named <item>{'|'.join(suffixes)}"


def _by_item(names: Mapping[str, File], suffixes: Sequence[str]) -> tuple[dict[int, File], list[Problem]]:
  """Files by item, and those that are no item's, not the one that counts, or all that an item has, of another form."""
  found: dict[int, tuple[int, str, File]] = {}
  problems, others = [], []
  item_file = f"<item>{'|'.join(suffixes)}"
  for name, file in sorted(names.items()):
    stem, suffix = os.path.splitext(name.rpartition("/")[2])
    path = str(file) if isinstance(file, pathlib.Path) else name
    if suffix.lower() not in suffixes:
      if _ID.fullmatch(stem):
        others.append(Problem(int(stem), path, f"ignored: expected {item_file}"))
      continue
    if not _ID.fullmatch(stem):
      problems.append(Problem("", path, f"its name is not that of an item: expected {item_file}"))
      continue
    item, here = int(stem), (suffixes.index(suffix.lower()), path, file)
    kept, other = sorted((found.get(item, here), here), key=lambda place: place[:2])
    found[item] = kept
    if other is not kept:
      problems.append(Problem(item, other[1], f"ignored: {os.path.basename(kept[1])}{ANOTHER_IS_USED}"))
  problems += [problem for problem in others if problem.item not in found]
  return {item: file for item, (_, _, file) in found.items()}, problems
