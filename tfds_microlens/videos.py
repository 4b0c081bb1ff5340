"""Videos to records of JPEG frames, in parallel, resumable, and whatever a file is like.

Each video's record is first kept as a small file of its own, so that a run that was killed goes on where it stopped;
then all are packed, in order of item id. A video that no frames can be had from has no record: it is listed, with the
reason, in a report beside the records.
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
import zlib

import numpy as np
import tqdm

from tfds_microlens import fetch
from tfds_microlens import records
from tfds_microlens import video_frames
from tfds_microlens.video_sources import FrameSettings
from tfds_microlens.video_sources import MISSING
from tfds_microlens.video_sources import Problem
from tfds_microlens.video_sources import Source

REPORT = "videos_without_record.tsv"
ITEMS = "items.npy"
_NOTE_EVERY_S = 30.0
_FILES_A_FOLDER = 1000


@dataclasses.dataclass(frozen=True)
class Prepared:
  """Videos whose frames lie in the cache.

  Attributes:
    items: `[records]` int64, ascending.
    problems: the videos that give no record, in order of item.
    cache: where the records are.
  """

  items: np.ndarray
  problems: list[Problem]
  cache: "Cache"

  def records(self) -> Iterator[bytes]:
    """The serialised example of each of `items`."""
    for item in self.items.tolist():
      record = self.cache.read(item)
      if record is None:
        raise fetch.PrepareError(f"{self.cache.path(item)}: damaged since it was written; run the same command again")
      yield record

  def write_tables(self, folder) -> None:
    """Writes the ids of the records, and the report, into `folder`."""
    folder = pathlib.Path(folder)
    np.save(folder / ITEMS, self.items)
    lines = ["item\tfile\treason", *("\t".join(map(_on_one_line, problem)) for problem in self.problems)]
    (folder / REPORT).write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepare(
  source: Source, settings: FrameSettings, *, cache_dir, expected: Iterable[int] = (), workers: int | None = None
) -> Prepared:
  """Takes the frames of every item of `source` that are not yet in the cache.

  Args:
    source: where they are.
    settings: which frames.
    cache_dir: a folder for this release and these settings alone.
    expected: items that should have a video; those without are reported as missing.
    workers: threads; as many as there are cores if None.

  Raises:
    PrepareError: no video at all could be used, or PyAV or Pillow is not installed.
  """
  video_frames.require_libraries()
  problems = list(source.problems)
  missing = sorted(set(expected) - set(source.items))
  cache = Cache(cache_dir, source, settings)
  items = []
  progress = _Progress(len(source.items))
  for item, reason in in_order(cache.fill, source.items, workers):
    if reason:
      problems.append(Problem(item, source.name(item), reason))
    else:
      items.append(item)
    progress.update(bad=bool(reason))
  progress.close()
  if not items:
    shown = "".join(f"\n  {problem.file}: {problem.reason}" for problem in problems[:5])
    raise fetch.PrepareError(
      f"{source}: expected {source.expected}; found {len(source.items):,}, none of which can be used{shown}"
    )
  problems += [Problem(item, source.name(item), MISSING) for item in missing]
  problems.sort(key=lambda problem: (not problem.item, problem.item or 0, problem.file))
  return Prepared(np.array(items, np.int64), problems, cache)


class Cache:
  """Records of single videos, a file each, which says what video it was made of and whether it is whole."""

  # A mark, CRC-32 of the record, its bytes, and the stamp of what it was made of.
  _HEAD = struct.Struct("<4sIQQq")
  _MARK = b"MLV1"  # another one whenever the same video would give other bytes

  def __init__(self, folder: str | os.PathLike, source: Source, settings: FrameSettings):
    self.folder = pathlib.Path(folder)
    self._source, self._settings = source, settings

  def path(self, item: int) -> pathlib.Path:
    return self.folder / f"{item // _FILES_A_FOLDER}" / f"{item}.frames"

  def fill(self, item: int) -> tuple[int, str]:
    """Makes sure of the record of `item`; gives the item, and why it has no record, or an empty string."""
    try:
      stamp = self._source.stamp(item)
      if self.read(item, stamp) is not None:
        return item, ""
      pixels, num_frames = self._source.read(item, self._settings)
      frames = [video_frames.encode_jpeg(frame) for frame in pixels]
    except video_frames.VideoError as error:
      return item, str(error)
    except FileNotFoundError:
      return item, MISSING
    except OSError as error:  # no permission, a bad sector, a link to itself
      return item, f"cannot be read: {error.strerror or error}"
    self._write(item, records.serialize({"item": item, "frames": frames, "num_frames": num_frames}), stamp)
    return item, ""

  def read(self, item: int, stamp: tuple[int, int] | None = None) -> bytes | None:
    """The record of `item`, if it is there, whole, and (where a stamp is given) made of what has that stamp."""
    try:
      content = self.path(item).read_bytes()
    except OSError:
      return None
    if len(content) < self._HEAD.size:
      return None
    mark, checksum, length, *made_of = self._HEAD.unpack_from(content)
    record = content[self._HEAD.size :]
    whole = mark == self._MARK and length == len(record) and checksum == zlib.crc32(record)
    return record if whole and stamp in (None, tuple(made_of)) else None

  def _write(self, item: int, record: bytes, stamp: tuple[int, int]) -> None:
    path = self.path(item)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
      part.write_bytes(self._HEAD.pack(self._MARK, zlib.crc32(record), len(record), *stamp) + record)
      os.replace(part, path)
    except BaseException:
      part.unlink(missing_ok=True)
      raise


def in_order(work: Callable, jobs: Iterable, workers: int | None = None) -> Iterator:
  """`map` over threads, with a few jobs a thread under way; decoding, scaling and coding leave Python's lock alone."""
  if workers is None:
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  under_way: collections.deque = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(workers, "videos") as pool:
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


class _Progress:
  """A bar on a terminal; elsewhere a line now and then."""

  def __init__(self, total: int):
    self._bar = tqdm.tqdm(desc="frames", total=total, unit=" videos", mininterval=1.0, leave=False, disable=None)
    self._total, self._done, self._bad = total, 0, 0
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
      print(f"frames: {self._done:,} of {self._total:,} videos, {self._bad:,} unusable", file=sys.stderr, flush=True)

  def close(self) -> None:
    self._bar.close()
