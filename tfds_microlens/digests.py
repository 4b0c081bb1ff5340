"""What a prepared data set was when it was written, so that damage is found before it is read as data.

`digests.json`, written last, holds the size and the SHA-256 of every other file of the folder, of a shard of records
also that of its ends (the first and the last MiB), and a digest of itself. What is compared, and what it costs:

* when a data set is opened: the sizes of all files, and the digests of those that are no shards (JSON, tables of ids,
  reports), which are small;
* when a shard is first read at random: its ends, 2 MiB in about 2 ms. They tell one shard from another, for the index
  of all its records is at the end. Each record also has a hash of ArrayRecord's own, compared whenever it is read: so a
  change between the ends is an error too, though only for the records that it affects;
* where all records are read (interactions, titles), and by `python -m tfds_microlens`: whole shards, about 1 s a GB.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import hashlib
import os
import pathlib
import re
from types import MappingProxyType
from typing import Any
from typing import NamedTuple

from mlrec import files
from mlrec.data.ingested import MARKER
from tfds_microlens.errors import DamagedError

FILE = "digests.json"
_SHARD = re.compile(r".*-\d{5,}-of-\d{5,}")
_END_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 20
# A thousand shards take 300 kB.
_MOST_BYTES = 1 << 26
# What other data sets of `own` are made of.
_INGESTED = re.compile(r"microlens/own-(histories|items|videos)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Of a file: `bytes`, `sha256`, and of a shard `ends_sha256`.
Described = dict[str, int | str]


class Place(NamedTuple):
  """A data set and where it lies.

  Attributes:
    name: `microlens/…`.
    root: `data_dir`.
    folder: of its files, `<root>/microlens/<config>/<version>`.
  """

  name: str
  root: pathlib.Path
  folder: pathlib.Path

  @property
  def command(self) -> str:
    """Prepares it, again if it is damaged."""
    if _INGESTED.match(self.name):
      return f"python -m mlrec.ingest --to=FOLDER, with the options that made it ({self.root / MARKER} holds them)"
    return f"python -m tfds_microlens {self.name.partition('/')[2]} --data_dir={self.root}"

  def damaged(self, file: str, problem: str) -> DamagedError:
    """The error for a file of the folder, in one line."""
    problem = " ".join(problem.split())
    return DamagedError(f"{self.folder / file}: {problem}; prepare {self.name} again: {self.command}")


class Digests:
  """The recorded digests of a data set, whose files other than shards have been compared with them."""

  def __init__(self, place: Place):
    """Reads the digests and compares what is small.

    Raises:
      DamagedError: a file is missing, is of another size, or is not what was written.
    """
    self._place = place
    self._files = _read(place)
    for name, recorded in self._files.items():
      self._check_size(name, recorded["bytes"])
      if not is_shard(name):
        self._compare(name, recorded["sha256"], files.sha256)

  def check(self, shard: str, *, whole: bool) -> None:
    """Compares a shard's ends, or all of it.

    Args:
      shard: its file name.
      whole: as said.

    Raises:
      DamagedError: it is not what was written.
    """
    recorded = self._files.get(shard)
    if recorded is None:
      raise self._place.damaged(FILE, f"it has no digest of {shard}")
    self._check_size(shard, recorded["bytes"])
    self._compare(shard, recorded["sha256" if whole else "ends_sha256"], files.sha256 if whole else _sha256_of_ends)

  def check_all(self) -> None:
    """Compares every shard, whole.

    Raises:
      DamagedError: one is not what was written.
    """
    for name in filter(is_shard, self._files):
      self.check(name, whole=True)

  def _check_size(self, name: str, expected: int) -> None:
    try:
      with files.open_regular(self._place.folder / name) as file:
        size = os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
      raise self._place.damaged(name, "missing") from error
    except OSError as error:
      raise self._place.damaged(name, f"cannot be read ({error.strerror or error})") from error
    if size != expected:
      raise self._place.damaged(name, f"expected {expected:,} bytes, found {size:,}")

  def _compare(self, name: str, expected: str, digest_of: Callable[[pathlib.Path], str]) -> None:
    try:
      found = digest_of(self._place.folder / name)
    except OSError as error:
      raise self._place.damaged(name, f"cannot be read ({error.strerror or error})") from error
    if found != expected:
      raise self._place.damaged(name, "it is not what was written (its digest differs)")


def is_shard(name: str) -> bool:
  """Whether a file name is that of a shard of records."""
  return bool(_SHARD.fullmatch(name))


def describe(folder: pathlib.Path, known: Mapping[str, Described] = MappingProxyType({})) -> dict[str, Described]:
  """Size and digests of each file in a folder; those `known` already are not computed again."""
  paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != FILE]
  return {path.name: known.get(path.name) or _describe(path) for path in paths if not path.name.startswith(".")}


def write(place: Place, known: Mapping[str, Described] = MappingProxyType({})) -> None:
  """Writes the digests of all files of a data set that is finished.

  Args:
    place: of the data set.
    known: what `describe` gave of files that have not changed since.
  """
  described = describe(place.folder, known)
  content = {"name": place.name, "version": place.folder.name, "files": described}
  files.write_json(place.folder / FILE, content | {"sha256": _own_digest(content)})


def _describe(path: pathlib.Path) -> Described:
  found: Described = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
  return found | ({"ends_sha256": _sha256_of_ends(path)} if is_shard(path.name) else {})


def _sha256_of_ends(path: pathlib.Path) -> str:
  with files.open_regular(path) as file:
    digest = hashlib.sha256(file.read(_END_BYTES))
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - _END_BYTES, 0))
    digest.update(file.read(_END_BYTES))
  return digest.hexdigest()


def _own_digest(content: dict[str, Any]) -> str:
  return files.sha256_of_json(content)


def _read(place: Place) -> dict[str, dict[str, Any]]:
  """What is recorded of each file."""
  try:
    path = place.folder / FILE
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
      raise ValueError(f"more than {_MOST_BYTES:,} bytes")
    content = files.read_json(path)
    own = content.pop("sha256")
    if own != _own_digest(content):
      raise ValueError("its own digest differs")
    recorded = content["files"]
    _check_form(recorded.items())
  except FileNotFoundError as error:
    raise place.damaged(FILE, "missing: it was not finished, or an older version wrote it") from error
  except OSError as error:
    raise place.damaged(FILE, f"cannot be read ({error.strerror or error})") from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise place.damaged(FILE, f"it is not what was written ({error})") from error
  if (content.get("name"), content.get("version")) != (place.name, place.folder.name):
    raise place.damaged(FILE, f"it is of another data set, {content.get('name')}:{content.get('version')}")
  return recorded


def _check_form(recorded: Iterable[tuple[str, dict[str, Any]]]) -> None:
  for name, found in recorded:
    sums = [found["sha256"], *([found["ends_sha256"]] if is_shard(name) else [])]
    if pathlib.PurePath(name).name != name or type(found["bytes"]) is not int or not all(map(_SHA256.fullmatch, sums)):
      raise ValueError(f"malformed entry {name[:80]!r}")
