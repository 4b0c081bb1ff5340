"""Media of items to records: in parallel, resumable, and tolerant of unusable files.

Each item's record is first a small file of its own, so that a run that was killed is resumed; then all are
packed, in order of item id. An item of which nothing can be used is listed, with the reason, in a report beside the
records; so is one that was kept although it is odd.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import struct
import sys
import time
from typing import ClassVar
from typing import NamedTuple
from typing import Protocol
import uuid

from absl import logging
import numpy as np
import tqdm

from mlrec import files
from mlrec.machine import in_order
from tfds_microlens import decoding
from tfds_microlens.beam import Beam
from tfds_microlens.errors import PrepareError
from tfds_microlens.media_sources import ANOTHER_IS_USED
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
      MediaError: the file cannot be used.
      OSError: the file cannot be read.
    """


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A medium whose records lie in the cache.

  Attributes:
    items: `[records]` int64, ascending.
    problems: items that have no record, then files whose names are no items', then items without a file; by id.
    notes: items that have a record and are odd, in order of id.
    cache: where the records are.
  """

  items: np.ndarray
  problems: list[Problem]
  notes: list[Problem]
  cache: "Cache"

  def record(self, item: int) -> bytes:
    """Of one of `items`; made again if it was damaged since."""
    return self.cache.record(item)

  def records(self) -> Iterator[bytes]:
    """Of each of `items`."""
    return map(self.record, self.items.tolist())

  @property
  def first_unusable(self) -> str:
    """`; the first: FILE: REASON` of the first file that is there and of no use, for messages; empty without any."""
    there = (each for each in self.problems if each.reason != MISSING and not _is_harmless(each.reason))
    first = next(there, None)
    return _on_one_line(f"; the first: {first.file}: {first.reason}") if first else ""

  def write_report(self, path: str | os.PathLike[str]) -> None:
    """Writes a table of the problems and the notes, files of no use first and missing ones last."""
    listed = sorted([*self.problems, *self.notes], key=_in_report)
    lines = ["item\tfile\treason", *("\t".join(map(_on_one_line, problem)) for problem in listed)]
    pathlib.Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepare(
  medium: Medium,
  *,
  cache_dir: str | os.PathLike[str],
  expected: Iterable[int] = (),
  only_expected: bool = False,
  most: int | None = None,
  workers: int | None = None,
  beam: Beam | None = None,
) -> Prepared:
  """Makes the records of all items that are not yet in the cache.

  Args:
    medium: what is made.
    cache_dir: a folder for this data set and this medium alone.
    expected: items that should have a file; those without are reported as missing.
    only_expected: other items of the source are ignored.
    most: so many records are enough; None for all.
    workers: threads; as many as there are cores if None.
    beam: where records are made first; here they are then only looked at.

  Raises:
    PrepareError: no file at all could be used, or PyAV or Pillow is not installed.
  """
  decoding.require_libraries()
  source, wanted = medium.source, set(expected)
  there = [item for item in source.items if item in wanted] if only_expected else source.items
  problems = [each for each in source.problems if not only_expected or each.item == "" or each.item in wanted]
  notes = []
  cache = Cache(cache_dir, medium)
  if beam is not None:
    beam.each(cache.fill, there[:most], medium.name)
  items: list[int] = []
  with _Progress(medium, len(there)) as progress, contextlib.closing(in_order(cache.fill, there, workers)) as filled:
    for item, has_record, note in filled:
      if has_record:
        items.append(item)
        if note:
          notes.append(Problem(item, source.name(item), KEPT + note))
      else:
        problems.append(Problem(item, source.name(item), note))
      progress.update(bad=not has_record)
      if len(items) == most:
        break
  cache.report_damage()
  if not items:
    shown = "".join(f"\n  {problem.file}: {problem.reason}" for problem in problems[:5])
    of_these = f" of {len(wanted):,} items" if only_expected else ""
    raise PrepareError(
      f"{source}: expected {source.expected}; found {len(there):,}{of_these}, none of which can be used{shown}"
    )
  unseen = wanted.difference(source.items, (problem.item for problem in problems))
  problems += [Problem(item, source.name(item), MISSING) for item in unseen]
  problems.sort(key=_in_report)
  return Prepared(np.array(items, np.int64), problems, notes, cache)


class Cache:
  """Records of single items, a file each, which says what file it was made of and holds a digest of it all.

  A file is its digest (SHA-256 of what follows and of the item's id), a mark, the stamp of the source file, the length
  of the record, the record, and what is odd about it.
  """

  _HEAD = struct.Struct("<4sQqQ")
  _DIGEST_BYTES = hashlib.sha256().digest_size

  def __init__(self, folder: str | os.PathLike[str], medium: Medium):
    self.folder = pathlib.Path(folder)
    self._medium = medium
    self._damaged: set[int] = set()

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

  def record(self, item: int) -> bytes:
    """The record of an item that has one; made again if its file was damaged or removed since.

    Raises:
      PrepareError: it cannot be made again: its source has changed.
    """
    kept = self.read(item)
    if kept is None:
      _, has_record, reason = self.fill(item)
      self.report_damage()
      kept = self.read(item) if has_record else None
      if kept is None:
        raise PrepareError(f"{self._medium.source.name(item)}: changed while it was being prepared ({reason})")
    return kept.record

  def read(self, item: int, stamp: tuple[int, int] | None = None) -> Kept | None:
    """What is kept of `item`, if it is whole and (where a stamp is given) made of what has that stamp.

    Damaged files are remembered, for `report_damage`.
    """
    try:
      content = files.read_regular(self.path(item))
    except FileNotFoundError:
      return None
    except OSError:
      self._damaged.add(item)
      return None
    digest, rest = content[: self._DIGEST_BYTES], content[self._DIGEST_BYTES :]
    if digest != _digest(item, rest):
      self._damaged.add(item)
      return None
    mark, *made_of, length = self._HEAD.unpack_from(rest)
    if mark != self._medium.mark or stamp not in (None, tuple(made_of)):
      return None
    body = rest[self._HEAD.size :]
    return Kept(body[:length], body[length:].decode())

  def report_damage(self) -> None:
    """Logs which files were found damaged since the last report; all of them have been made again."""
    damaged, self._damaged = sorted(self._damaged), set()
    if damaged:
      logging.warning(
        "%s: %d of the kept %s of single items were damaged, %s first; they are made again.",
        self.folder, len(damaged), self._medium.name, self.path(damaged[0]).name,
      )  # fmt: skip

  def _write(self, item: int, kept: Kept, stamp: tuple[int, int]) -> None:
    path = self.path(item)
    rest = self._HEAD.pack(self._medium.mark, *stamp, len(kept.record)) + kept.record + kept.note.encode()
    if path.is_dir():
      files.remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Others may make the same, on other machines, too.
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
      part.write_bytes(_digest(item, rest) + rest)
      os.replace(part, path)
    except BaseException:
      part.unlink(missing_ok=True)
      raise


def _digest(item: int, rest: bytes) -> bytes:
  return hashlib.sha256(item.to_bytes(8, "little") + rest).digest()


def _on_one_line(value: object) -> str:
  return " ".join(str(value).split())


def _in_report(problem: Problem) -> tuple[int, int | str, str]:
  """What can be mended comes first: of many items that never had a file, one that is broken would not be found."""
  if problem.reason == MISSING:
    group = 3
  elif not problem.item:
    group = 2
  else:
    group = int(_is_harmless(problem.reason))
  return group, problem.item or 0, problem.file


def first_listed(report: str | os.PathLike[str]) -> str:
  """`FILE: REASON` of a report's first line, if that file is there and gives no record; else an empty text."""
  with open(report, encoding="utf-8") as lines:
    next(lines)
    _, file, reason = next(lines, "\t\t").rstrip("\n").split("\t")
  return "" if not file or reason == MISSING or _is_harmless(reason) else f"{file}: {reason}"


def _is_harmless(reason: str) -> bool:
  """Whether the item has a record all the same."""
  return reason.startswith(KEPT) or reason.endswith(ANOTHER_IS_USED)


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

  def __enter__(self) -> "_Progress":
    return self

  def __exit__(self, *error: object) -> None:
    self._bar.close()
