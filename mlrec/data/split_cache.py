"""Splits of logs that are larger than memory: made once, in passes over the log, and mapped by all who read them.

A log is read a chunk of lines at a time into flat files (what counts of each line, by its protocol), and these are read
once or twice more: for which items exist, and for the rows under dense ids. What is made is what
`mlrec.data.kept_split` and `mlrec.data.id_map` write, and equal to the split that is made in memory.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
import time
from typing import Any

from absl import logging
import numpy as np

from mlrec import files
from mlrec import mapped
from mlrec import terminal
from mlrec.data import kept_split
from mlrec.data.id_map import IdMap
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.interactions import warn_of_repeated_users
from mlrec.data.lines import LineSource
from mlrec.data.protocols.protocol import Kept
from mlrec.data.protocols.protocol import Protocol
from mlrec.data.splits import Split

# Of the files, and of what they are made of.
_VERSION = 1
_IDS, _DATA, _LOCK, _UNDER_WAY, _PROGRESS = "ids.safetensors", "data.safetensors", "lock", "under_way", "progress.json"
# What is noted of a split under way, and the note's own digest.
_NOTED, _NOTE_DIGEST = ("position", "lengths", "digests", "done"), "digest"
# Ids up to it are looked up in a table, of 256 MiB at the most; greater ones are searched for.
_MOST_LOOKED_UP = 1 << 26
_WAIT_SECONDS = 0.5
_READ_BYTES = 1 << 24


def split(
  log: LineSource, protocol: Protocol, folder: pathlib.Path, *, max_length: int, min_length: int, train_windows: int
) -> Split:
  """The split of a log, made where it is not there yet, or mapped.

  Several processes may ask for the same one: one of them makes it, and the others wait. What was interrupted goes on
  where it was.

  Args:
    log: of users' histories.
    protocol: how it is split.
    folder: of all that is kept; a split lies below it.
    max_length: as of `Protocol.split`, as are `min_length` and `train_windows`.

  Raises:
    DataError: as `Protocol.split`; or the log cannot be read, or the split not be written.
  """
  protocol.check(max_length, min_length, train_windows)
  if protocol.labelled:
    raise DataError(
      f"config.data.split = {protocol.text!r} reads all of {log.name} at once, which is larger than "
      f"config.data.in_memory_mib: set that to {-(-log.nbytes >> 20)} or more"
    )
  if protocol.timed and not log.timed:
    protocol.refuse_untimed(log.name)
  settings = {"max_length": max_length, "min_length": min_length, "train_windows": train_windows}
  made_of = {"version": _VERSION, "log": dict(log.identity), "split": protocol.text, **settings}
  place = folder / files.sha256_of_json(made_of)[:16]
  damage = ""
  try:
    # Where nothing is to be made nothing need be written: the folder may be another's.
    try:
      if (found := _opened(place)) is not None:
        return found
    except DataError as error:
      damage = f"{error}; "
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place / _LOCK):
      try:
        found = _opened(place)
      except DataError as error:
        logging.warning("%s; it is made again.", error)
        found = None
      if found is None:
        going_on = "goes on being" if (place / _UNDER_WAY / _PROGRESS).exists() else "is"
        terminal.tell(
          f"{log.name}: larger than config.data.in_memory_mib: its split {going_on} made in {place}, in passes, once"
        )
        found = _Making(log, protocol, place, settings).split()
        terminal.tell(
          f"{log.name}: {found.num_users:,} users and {len(found.rows.values):,} interactions of "
          f"{found.num_items:,} items are kept in {place}"
        )
      return found
  except OSError as error:
    where = error.filename or place
    if files.is_disk_full(error):
      # No mistake in what was asked for.
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(place)) from error
    raise DataError(f"{damage}{log.name}: its split cannot be kept in {where} ({error.strerror or error})") from error


def _opened(place: pathlib.Path) -> Split | None:
  """The split that is there; None where there is none.

  Raises:
    DataError: it is damaged.
  """
  if not (place / _DATA).exists():
    return None
  try:
    return kept_split.read(place / _DATA, place / _IDS)
  except DataError as error:
    raise DataError(f"{place}: the split that is kept there is damaged ({error})") from error


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
  """Holds a lock, for which it waits."""
  lock = files.try_lock(path)
  if lock is None:
    terminal.tell(f"{path.parent}: waiting for {files.lock_holder(path)}, which is making what belongs there")
  while lock is None:
    time.sleep(_WAIT_SECONDS)
    lock = files.try_lock(path)
  with lock:
    files.sign_lock(lock)
    yield


class _Flat:
  """A flat file of numbers of one kind, written at its end."""

  def __init__(self, path: pathlib.Path, dtype: Any, length: int = 0, digest: str | None = None):
    """Opens it, cut to `length` numbers.

    Raises:
      ValueError: it has fewer, or they have not that digest.
    """
    self.path, self.dtype = path, np.dtype(dtype)
    self._file = path.open("a+b")
    self._file.truncate(length * self.dtype.itemsize)
    self._digest = hashlib.sha256()
    self._file.seek(0)
    while piece := self._file.read(_READ_BYTES):
      self._digest.update(piece)
    if digest not in (None, self.digest):
      self._file.close()
      raise ValueError(f"{path} is not what was noted")

  @property
  def digest(self) -> str:
    """Of what has been appended, in hexadecimal digits."""
    return self._digest.hexdigest()

  def append(self, values: np.ndarray) -> None:
    data = np.ascontiguousarray(values, self.dtype).view(np.uint8).data
    self._file.write(data)
    self._digest.update(data)

  def sync(self) -> int:
    """Has it on the disk; how many numbers there are."""
    self._file.flush()
    os.fsync(self._file.fileno())
    return self._file.tell() // self.dtype.itemsize

  def mapped(self) -> np.ndarray:
    """What has been written; nothing more can be."""
    self._file.close()
    if not self.path.stat().st_size:
      return np.empty(0, self.dtype)
    return np.asarray(np.memmap(self.path, self.dtype, "r"))


class _Making:
  """A split under way."""

  def __init__(self, log: LineSource, protocol: Protocol, place: pathlib.Path, settings: Mapping[str, int]):
    self._log, self._protocol, self._place, self._settings = log, protocol, place, settings
    self._folder = place / _UNDER_WAY

  def split(self) -> Split:
    """Reads the log, and writes and opens its split."""
    if not self._folder.is_dir():
      files.remove(self._folder)
    self._folder.mkdir(exist_ok=True)
    # What does not serve is refused before it is kept, by each run.
    try:
      made = self._protocol.split_kept(self._kept(), self._numbered, **self._settings)
    except DataError:
      # Nobody would go on with it: a log that is mended has another identity, other settings another place.
      files.remove(self._folder)
      raise
    for name in (_IDS, _DATA):
      if (self._place / name).is_dir():
        shutil.rmtree(self._place / name)
    IdMap.of(made).write(self._place / _IDS)
    kept_split.write(made, self._place / _DATA)
    # What was made is not read again to be compared: that would take as long as a part of making it.
    shutil.rmtree(self._folder)
    return kept_split.read(self._place / _DATA, self._place / _IDS, compare=False)

  def _kept(self) -> Kept:
    """What counts of the log's lines, in files."""
    kinds = {"users": np.int64, "whole": np.int32, "lengths": np.int32, "items": np.int64, "short": np.int64}
    if self._protocol.timed:
      kinds["times"] = np.int64
    flat, position, done = self._begun(kinds)
    if not done:
      for chunk in self._log.chunks(position, self._folder):
        counts, kept = self._protocol.trimmed(chunk.lines, **self._settings)
        flat["users"].append(chunk.users[counts])
        flat["short"].append(chunk.users[~counts])
        flat["whole"].append(chunk.lines.lengths[counts])
        flat["lengths"].append(kept.lengths)
        flat["items"].append(kept.values)
        if self._protocol.timed and chunk.times is not None:
          flat["times"].append(chunk.times)
        self._note(flat, chunk.position, done=False)
      if self._log.changed:
        # What was read belongs to neither: it must not be kept under the identity of what there was.
        raise DataError(f"{self._log.name} was changed while it was read: run again once nothing writes to it")
      self._note(flat, [], done=True)
    read = {name: one.mapped() for name, one in flat.items()}
    warn_of_repeated_users(self._log.name, read["users"], read["short"])
    lines = Rows.from_lengths(read["items"], read["lengths"])
    return Kept(
      self._log.name, read["users"], read["whole"], lines, read.get("times"), read["short"], *self._log.names()
    )

  def _begun(self, kinds: Mapping[str, Any]) -> tuple[dict[str, _Flat], list[int], bool]:
    """The files, how far the log has been read, and whether it is done: nowhere, where they are not what was noted."""
    try:
      found = files.read_json(self._folder / _PROGRESS)
      said = {key: found[key] for key in (*_NOTED, _NOTE_DIGEST)}
      if said.pop(_NOTE_DIGEST) != files.sha256_of_json(said):
        raise ValueError("the note is not what was written")
      flat = {
        name: _Flat(self._folder / name, kind, int(said["lengths"][name]), said["digests"][name])
        for name, kind in kinds.items()
      }
      return flat, said["position"], said["done"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      return {name: _Flat(self._folder / name, kind) for name, kind in kinds.items()}, [], False

  def _note(self, flat: Mapping[str, _Flat], position: list[int], *, done: bool) -> None:
    lengths = {name: one.sync() for name, one in flat.items()}
    digests = {name: one.digest for name, one in flat.items()}
    said = dict(zip(_NOTED, (position, lengths, digests, done)))
    files.write_json(self._folder / _PROGRESS, said | {_NOTE_DIGEST: files.sha256_of_json(said)})

  def _numbered(self, lines: Rows, chosen: np.ndarray | None, exist: np.ndarray | None) -> tuple[np.ndarray, Rows]:
    """A `Numbering` in a file."""
    distinct = _distinct(lines, exist)
    dense = _Dense(distinct)
    flat = _Flat(self._folder / "rows", np.int32)
    for piece in _values(lines, chosen):
      flat.append(dense(piece))
    flat.sync()
    if chosen is None:
      return distinct, Rows(flat.mapped(), lines.offsets)
    return distinct, Rows.from_lengths(flat.mapped(), lines.lengths_of(chosen))


def _values(lines: Rows, chosen: np.ndarray | None) -> Iterator[np.ndarray]:
  """The values of the chosen lines (None for all), one after another, in parts that fit memory."""
  if chosen is None:
    yield from mapped.pieces(lines.values)
    return
  for part in mapped.parts(np.concatenate([[0], np.cumsum(lines.lengths_of(chosen))])):
    yield lines.take(chosen[part]).values
    mapped.release(lines.values)


def _distinct(lines: Rows, chosen: np.ndarray | None) -> np.ndarray:
  """The items of the chosen lines (None for all), ascending."""
  greatest = max((int(piece.max()) for piece in mapped.pieces(lines.values)), default=0)
  if greatest < _MOST_LOOKED_UP:
    there = np.zeros(greatest + 1, bool)
    for piece in _values(lines, chosen):
      there[piece] = True
    return np.flatnonzero(there)
  found = np.empty(0, np.int64)
  for piece in _values(lines, chosen):
    found = np.union1d(found, piece)
  return found


class _Dense:
  """Dense ids, from 1, of ascending ones."""

  def __init__(self, distinct: np.ndarray):
    self._distinct, self._table = distinct, None
    if len(distinct) and distinct[-1] < _MOST_LOOKED_UP:
      self._table = np.zeros(int(distinct[-1]) + 1, np.int32)
      self._table[distinct] = np.arange(1, len(distinct) + 1)

  def __call__(self, ids: np.ndarray) -> np.ndarray:
    if self._table is not None:
      return self._table[ids]
    return (np.searchsorted(self._distinct, ids) + 1).astype(np.int32)
