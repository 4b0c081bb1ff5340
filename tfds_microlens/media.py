"""Media of items to records, in parallel, resumable, and whatever a file is like.

What is kept of each item is first a small file of its own, so that a run that was killed goes on where it stopped;
then all are packed, in order of item id. An item that nothing can be had of is listed, with the reason, in a report
beside the records; so is one that was kept though it is odd.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import concurrent.futures
import dataclasses
import os
import pathlib
import struct
import sys
import time
from typing import ClassVar
from typing import NamedTuple
from typing import Protocol
import zlib

import numpy as np
import tqdm

from mlrec.data.cores import usable_cores
from tfds_microlens import decoding
from tfds_microlens import fetch
from tfds_microlens.media_sources import MediaError
from tfds_microlens.media_sources import MISSING
from tfds_microlens.media_sources import Problem
from tfds_microlens.media_sources import Source

# Of what is odd about an item that has a record.
KEPT = "kept: "
# Ids of the records of a data set, ascending, in a file beside them.
ITEMS = "items.npy"
_NOTE_EVERY_S = 30.0
_FILES_A_FOLDER = 1000


class Kept(NamedTuple):
  """What is kept of an item: its record, and what is odd about it, or an empty string."""

  record: bytes
  note: str = ""


class Medium(Protocol):
  """A medium of items, and what is kept of it.

  Attributes:
    name: of what is kept, in the plural, for the suffix of single files and for messages.
    files: what it is made of, in the plural, for messages.
    mark: four bytes; others whenever the same file would give another record.
    source: where the files are.
  """

  name: ClassVar[str]
  files: ClassVar[str]
  mark: ClassVar[bytes]

  @property
  def source(self) -> Source: ...

  def keep(self, item: int) -> Kept:
    """Makes the record of an item of the source.

    Raises:
      MediaError: none can be had.
      OSError: the file cannot be read.
    """


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A medium whose records lie in the cache.

  Attributes:
    items: `[records]` int64, ascending.
    problems: items that have no record, in order of id, and what is there under names that are no items'.
    notes: items that have a record and are odd, in order of id.
    cache: where the records are.
  """

  items: np.ndarray
  problems: list[Problem]
  notes: list[Problem]
  cache: "Cache"

  def record(self, item: int) -> bytes:
    """Of one of `items`."""
    kept = self.cache.read(item)
    if kept is None:
      raise fetch.PrepareError(f"{self.cache.path(item)}: damaged since it was written; run the same command again")
    return kept.record

  def records(self) -> Iterator[bytes]:
    """Of each of `items`."""
    return map(self.record, self.items.tolist())

  def write_report(self, path) -> None:
    """Writes a table of the problems and the notes."""
    listed = sorted([*self.problems, *self.notes], key=_by_item)
    lines = ["item\tfile\treason", *("\t".join(map(_on_one_line, problem)) for problem in listed)]
    pathlib.Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepare(
  medium: Medium, *, cache_dir, expected: Iterable[int] = (), only_expected: bool = False, workers: int | None = None
) -> Prepared:
  """Makes the records of all items that are not yet in the cache.

  Args:
    medium: what is made.
    cache_dir: a folder for this data set and this medium alone.
    expected: items that should have a file; those without are reported as missing.
    only_expected: other items of the source are passed over.
    workers: threads; as many as there are cores if None.

  Raises:
    PrepareError: no file at all could be used, or PyAV or Pillow is not installed.
  """
  decoding.require_libraries()
  source, wanted = medium.source, set(expected)
  there = [item for item in source.items if item in wanted] if only_expected else source.items
  problems = [each for each in source.problems if not only_expected or each.item == "" or each.item in wanted]
  notes = []
  cache = Cache(cache_dir, medium)
  items = []
  progress = _Progress(medium, len(there))
  for item, has_record, note in in_order(cache.fill, there, workers):
    if has_record:
      items.append(item)
      if note:
        notes.append(Problem(item, source.name(item), KEPT + note))
    else:
      problems.append(Problem(item, source.name(item), note))
    progress.update(bad=not has_record)
  progress.close()
  if not items:
    shown = "".join(f"\n  {problem.file}: {problem.reason}" for problem in problems[:5])
    of_these = f" of {len(wanted):,} items" if only_expected else ""
    raise fetch.PrepareError(
      f"{source}: expected {source.expected}; found {len(there):,}{of_these}, none of which can be used{shown}"
    )
  unseen = wanted.difference(source.items, (problem.item for problem in problems))
  problems += [Problem(item, source.name(item), MISSING) for item in unseen]
  problems.sort(key=_by_item)
  return Prepared(np.array(items, np.int64), problems, notes, cache)


class Cache:
  """What is kept of single items, a file each, which says what file it was made of and whether it is whole."""

  # A mark, CRC-32 of what follows, the bytes of the record, and the stamp of what it was made of; then the record, and
  # what is odd about it.
  _HEAD = struct.Struct("<4sIQQq")

  def __init__(self, folder: str | os.PathLike, medium: Medium):
    self.folder = pathlib.Path(folder)
    self._medium = medium

  def path(self, item: int) -> pathlib.Path:
    return self.folder / f"{item // _FILES_A_FOLDER}" / f"{item}.{self._medium.name}"

  def fill(self, item: int) -> tuple[int, bool, str]:
    """Makes sure of the record of `item`: the item, whether it has one, and what is odd or why it has none."""
    source = self._medium.source
    try:
      stamp = source.stamp(item)
      kept = self.read(item, stamp)
      if kept is not None:
        return item, True, kept.note
      kept = self._medium.keep(item)
    except MediaError as error:
      return item, False, str(error)
    except FileNotFoundError:
      return item, False, MISSING
    except OSError as error:  # no permission, a bad sector, a link to itself
      return item, False, f"cannot be read: {error.strerror or error}"
    self._write(item, kept, stamp)
    return item, True, kept.note

  def read(self, item: int, stamp: tuple[int, int] | None = None) -> Kept | None:
    """What is kept of `item`, if it is there, whole, and (where a stamp is given) made of what has that stamp."""
    try:
      content = self.path(item).read_bytes()
    except OSError:
      return None
    if len(content) < self._HEAD.size:
      return None
    mark, checksum, length, *made_of = self._HEAD.unpack_from(content)
    rest = content[self._HEAD.size :]
    whole = mark == self._medium.mark and length <= len(rest) and checksum == zlib.crc32(rest)
    return Kept(rest[:length], rest[length:].decode()) if whole and stamp in (None, tuple(made_of)) else None

  def _write(self, item: int, kept: Kept, stamp: tuple[int, int]) -> None:
    path = self.path(item)
    rest = kept.record + kept.note.encode()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      part.write_bytes(self._HEAD.pack(self._medium.mark, zlib.crc32(rest), len(kept.record), *stamp) + rest)
      os.replace(part, path)
    except BaseException:
      part.unlink(missing_ok=True)
      raise


def in_order(work: Callable, jobs: Iterable, workers: int | None = None) -> Iterator:
  """`map` over threads, with a few jobs a thread under way; decoding, scaling and coding leave Python's lock alone."""
  workers = workers or usable_cores()
  under_way: collections.deque = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(workers, "media") as pool:
    try:
      for job in jobs:
        under_way.append(pool.submit(work, job))
        if len(under_way) >= 4 * workers:
          yield under_way.popleft().result()
      while under_way:
        yield under_way.popleft().result()
    finally:
      pool.shutdown(wait=True, cancel_futures=True)


def _on_one_line(value) -> str:
  return " ".join(str(value).split())


def _by_item(problem: Problem):
  return not problem.item, problem.item or 0, problem.file


class _Progress:
  """A bar on a terminal; elsewhere a line now and then."""

  def __init__(self, medium: Medium, total: int):
    self._name, self._files, self._total = medium.name, medium.files, total
    self._bar = tqdm.tqdm(
      desc=medium.name, total=total, unit=f" {medium.files}", mininterval=1.0, leave=False, disable=None
    )
    self._done, self._bad = 0, 0
    self._noted = time.monotonic()

  def update(self, bad: bool) -> None:
    self._done += 1
    self._bad += bad
    if not self._bar.disable:
      self._bar.update()
      if bad:
        self._bar.set_postfix(unusable=self._bad, refresh=False)
    elif time.monotonic() - self._noted > _NOTE_EVERY_S:
      self._noted = time.monotonic()
      so_far = f"{self._done:,} of {self._total:,} {self._files}, {self._bad:,} unusable"
      print(f"{self._name}: {so_far}", file=sys.stderr, flush=True)

  def close(self) -> None:
    self._bar.close()
