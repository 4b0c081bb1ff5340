"""Splits of logs that are larger than memory: made once, in passes over the log, and mapped by all who read them.

A log is read a chunk of lines at a time into flat files (what counts of each line, by its protocol), and these are read
once or twice more: for which items exist, and for the rows under dense ids. What is made is what
`mlrec.data.kept_split` and `mlrec.data.id_map` write, and equal to the split that is made in memory.
"""

from collections.abc import Iterator
from collections.abc import Mapping
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
from mlrec.data.interactions import first_and_last
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.data.lines import LineSource
from mlrec.data.protocols.protocol import Log
from mlrec.data.protocols.protocol import Protocol
from mlrec.data.protocols.protocol import tell_of_skipped
from mlrec.data.splits import Split

# Of the files, and of what they are made of.
_VERSION = 1
_IDS, _DATA, _LOCK, _UNDER_WAY, _PROGRESS = "ids.safetensors", "data.safetensors", "lock", "under_way", "progress.json"
# Ids up to it are looked up in a table, of 256 MiB at the most; greater ones are searched for.
_MOST_LOOKED_UP = 1 << 26
_WAIT_SECONDS = 0.5


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
  if protocol.timed and not log.timed:
    protocol.refuse_untimed(log.name)
  settings = {"max_length": max_length, "min_length": min_length, "train_windows": train_windows}
  made_of = {"version": _VERSION, "log": dict(log.identity), "split": protocol.text, **settings}
  place = folder / hashlib.sha256(files.canonical_json(made_of).encode()).hexdigest()[:16]
  try:
    # Where nothing is to be made nothing need be written: the folder may be another's.
    if (found := _opened(place)) is not None:
      return found
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place / _LOCK):
      found = _opened(place)
      if found is None:
        terminal.tell(f"{log.name}: it is read into {place}, once, for memory does not hold it")
        found = _Making(log, protocol, place, settings).split()
        terminal.tell(
          f"{log.name}: {found.num_users:,} users and {len(found.rows.values):,} interactions of "
          f"{found.num_items:,} items are kept in {place}"
        )
      return found
  except OSError as error:
    where = error.filename or place
    raise DataError(f"{log.name}: its split cannot be kept in {where} ({error.strerror or error})") from error


def _opened(place: pathlib.Path) -> Split | None:
  """The split that is there; None where it is to be made."""
  if not (place / _DATA).exists():
    return None
  try:
    return kept_split.read(place / _DATA, IdMap.read(place / _IDS))
  except DataError as error:
    logging.warning("%s; it is made again.", error)
    return None


class _locked:  # noqa: N801 - used as a function is
  """Holds a lock, for which it waits."""

  def __init__(self, path: pathlib.Path):
    self._path = path

  def __enter__(self) -> None:
    told = False
    while (lock := files.try_lock(self._path)) is None:
      if not told:
        terminal.tell(f"{self._path.parent}: waiting for {files.lock_holder(self._path)}, which makes what is there")
        told = True
      time.sleep(_WAIT_SECONDS)
    files.sign_lock(lock)
    self._lock = lock

  def __exit__(self, *_: object) -> None:
    self._lock.close()


class _Flat:
  """A flat file of numbers of one kind, written at its end."""

  def __init__(self, path: pathlib.Path, dtype: Any, length: int):
    """Opens it, cut to `length` numbers."""
    self.path, self.dtype = path, np.dtype(dtype)
    self._file = path.open("ab")
    self._file.truncate(length * self.dtype.itemsize)

  def append(self, values: np.ndarray) -> None:
    self._file.write(np.ascontiguousarray(values, self.dtype).view(np.uint8).data)

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
    lines = self._lines()
    made = self._of_lines(*lines)
    # What does not serve is refused by each run.
    self._protocol.look_at(made, self._log.name, self._interactions)
    for name in (_IDS, _DATA):
      if (self._place / name).is_dir():
        shutil.rmtree(self._place / name)
    IdMap.of(made).write(self._place / _IDS)
    kept_split.write(made, self._place / _DATA)
    # What was made is not read again to be compared: that would take as long as a part of making it.
    shutil.rmtree(self._folder)
    return kept_split.read(self._place / _DATA, IdMap.read(self._place / _IDS), compare=False)

  def _lines(self) -> tuple[np.ndarray, np.ndarray, Rows, np.ndarray | None, np.ndarray]:
    """What counts of the log's lines.

    Returns:
      The users, the lengths before they were trimmed, the items and their times; and the users of lines that do not
      count.
    """
    kinds = {"users": np.int64, "whole": np.int32, "lengths": np.int32, "items": np.int64, "short": np.int64}
    if self._protocol.timed:
      kinds["times"] = np.int64
    progress = self._progress(kinds)
    flat = {name: _Flat(self._folder / name, kind, progress["lengths"].get(name, 0)) for name, kind in kinds.items()}
    if not progress["done"]:
      for chunk in self._log.chunks(progress["position"], self._folder):
        counts, kept = self._protocol.trimmed(chunk.lines, **self._settings)
        flat["users"].append(chunk.users[counts])
        flat["short"].append(chunk.users[~counts])
        flat["whole"].append(chunk.lines.lengths[counts])
        flat["lengths"].append(kept.lengths)
        flat["items"].append(kept.values)
        if self._protocol.timed and chunk.times is not None:
          flat["times"].append(chunk.times)
        self._keep(flat, chunk.position, done=False)
      self._keep(flat, [], done=True)
    users, whole, lengths, items, short = (flat[name].mapped() for name in list(kinds)[:5])
    times = flat["times"].mapped() if self._protocol.timed else None
    return users, whole, Rows.from_lengths(items, lengths), times, short

  def _progress(self, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """How far the log has been read: nowhere, where what is there is not what was noted."""
    try:
      found = files.read_json(self._folder / _PROGRESS)
      lengths = {name: int(found["lengths"][name]) for name in kinds}
      position = [int(part) for part in found["position"]]
      there = {name: (self._folder / name).stat().st_size // np.dtype(kind).itemsize for name, kind in kinds.items()}
      if (
        min(lengths.values()) < 0 or min(position, default=0) < 0 or any(there[name] < lengths[name] for name in kinds)
      ):
        raise ValueError("there is less than was noted")
      return {"position": position, "lengths": lengths, "done": found["done"] is True}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
      return {"position": [], "lengths": {}, "done": False}

  def _keep(self, flat: Mapping[str, _Flat], position: list[int], *, done: bool) -> None:
    lengths = {name: one.sync() for name, one in flat.items()}
    files.write_json(self._folder / _PROGRESS, {"position": position, "lengths": lengths, "done": done})

  def _of_lines(
    self, line_users: np.ndarray, whole: np.ndarray, lines: Rows, times: np.ndarray | None, short: np.ndarray
  ) -> Split:
    users, chosen = _merged(line_users)
    name, least = self._log.name, self._settings["min_length"]
    number = len(users) if not len(short) else len(np.union1d(users, short))
    if not self._protocol.by_line:
      long_enough = (lines.lengths if chosen is None else lines.lengths_of(chosen)) >= least
      if not long_enough.all():
        users, chosen = users[long_enough], np.flatnonzero(long_enough) if chosen is None else chosen[long_enough]
    if not len(users):
      raise DataError(f"{name}: none of {number} users has {least} items")
    tell_of_skipped(name, number - len(users), number, least)
    self._interactions = int((whole if chosen is None else whole[chosen]).sum(dtype=np.int64))
    distinct = _distinct(lines, None if self._protocol.by_line else chosen)
    rows = self._rows(lines, chosen, distinct)
    user_names, item_names = self._log.names()
    log = Interactions(users, rows, name, user_names, item_names)
    if times is not None and chosen is not None:
      times = Rows(times, lines.offsets).take(chosen).values
    cuts = self._protocol.cuts(Log(log, users, rows, times))
    return Split(
      users, rows, np.concatenate([[0], distinct]), self._settings["max_length"], cuts, number - len(users),
      user_names=user_names, item_names=item_names, protocol=self._protocol.text,
      train_windows=self._settings["train_windows"],
    )  # fmt: skip

  def _rows(self, lines: Rows, chosen: np.ndarray | None, distinct: np.ndarray) -> Rows:
    """The chosen lines under dense ids, in a file."""
    dense = _Dense(distinct)
    flat = _Flat(self._folder / "rows", np.int32, 0)
    for piece in _values(lines, chosen):
      flat.append(dense(piece))
    flat.sync()
    if chosen is None:
      return Rows(flat.mapped(), lines.offsets)
    return Rows.from_lengths(flat.mapped(), lines.lengths_of(chosen))


def _merged(line_users: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
  """The users, in the order of their first lines, and the place of the last line of each: None for just the lines."""
  in_order = np.sort(line_users)
  if (in_order[1:] != in_order[:-1]).all():
    return line_users, None
  del in_order
  first, last = first_and_last(line_users)
  return line_users[first], last


def _values(lines: Rows, chosen: np.ndarray | None) -> Iterator[np.ndarray]:
  """The values of the chosen lines (None for all), one after another, in parts that fit memory."""
  if chosen is None:
    yield from mapped.pieces(lines.values)
    return
  ends = np.cumsum(lines.lengths_of(chosen))
  start = 0
  while start < len(chosen):
    before = ends[start - 1] if start else 0
    end = max(int(np.searchsorted(ends, before + mapped.AT_ONCE, side="right")), start + 1)
    yield lines.take(chosen[start:end]).values
    mapped.release(lines.values)
    start = end


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
