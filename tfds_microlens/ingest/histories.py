"""Records of a log to histories: by user, in the order of time, filtered; in memory that does not grow with the log."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib

import numpy as np

from tfds_microlens.ingest.log import append
from tfds_microlens.ingest.log import Log
from tfds_microlens.ingest.log import RECORD
from tfds_microlens.ingest.settings import Settings

# Records sorted at a time, 16 MiB; a log of more than so many parts has larger ones.
_PART_ROWS = 1 << 20
_MOST_PARTS = 256
_READ_ROWS = 1 << 18


@dataclasses.dataclass
class Histories:
  """What is left of a log.

  Attributes:
    path: of the records, user by user, a user's in the order of time; equal times keep the order of the log.
    lengths: `[user codes]` int64, how many each user has; 0 for those who are left out.
    item_counts: `[item codes]` int64, in how many each item occurs.
    timed: whether their times are times.
    ticks_per_ms: of their times.
    dropped: records that were left out, by reason.
    repeats: how many records name an item that the same user has earlier.
    twice: how many of those do so at the same time; 0 where there are no times.
    rounds: how often the k-core was applied until nothing changed.
    months: how many fall into each, as "2020-01", ascending; empty where there are no times.
    lengths_before: `[users]` int64, of each user before the k-core.
  """

  path: pathlib.Path
  lengths: np.ndarray
  item_counts: np.ndarray
  timed: bool
  ticks_per_ms: int
  dropped: dict[str, int]
  repeats: int
  twice: int
  rounds: int
  months: dict[str, int]
  lengths_before: np.ndarray

  @property
  def users(self) -> np.ndarray:
    """Codes of the users who are left, ascending."""
    return np.flatnonzero(self.lengths)

  @property
  def items(self) -> np.ndarray:
    """Codes of the items that are left, ascending."""
    return np.flatnonzero(self.item_counts)

  @property
  def num_interactions(self) -> int:
    return int(self.lengths.sum())

  def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
    """`(user code, records [its length])` of each of `users`."""
    users = self.users
    ends = np.cumsum(self.lengths[users])
    with self.path.open("rb") as file:
      start = done = 0
      while start < len(users):
        end = max(int(np.searchsorted(ends, done + _READ_ROWS, side="right")), start + 1)
        records = np.fromfile(file, RECORD, int(ends[end - 1]) - done)
        for user, last in zip(users[start:end].tolist(), (ends[start:end] - done).tolist()):
          yield user, records[last - int(self.lengths[user]) : last]
        start, done = end, int(ends[end - 1])


def make(log: Log, settings: Settings, folder: pathlib.Path) -> Histories:
  """Sorts and filters what was read of a log.

  Args:
    log: what was read; its file is removed.
    settings: of repeats and of the k-core.
    folder: for files that are large; that of the result stays.
  """
  by_user = folder / "by_user"
  lengths = np.zeros(len(log.users), np.int64)
  item_counts = np.zeros(len(log.items), np.int64)
  merged = repeats = twice = 0
  with by_user.open("wb") as file:
    for records in _sorted_parts(log, folder):
      again, at_once = _again(records, last=settings.repeats == "last")
      repeats += int(again.sum())
      twice += at_once if log.timed else 0
      if settings.repeats != "keep":
        merged += int(again.sum())
        records = records[~again]
      lengths += np.bincount(records["user"], minlength=len(lengths))
      item_counts += np.bincount(records["item"], minlength=len(item_counts))
      append(file, records)
  log.path.unlink()
  before = lengths[lengths > 0]
  dropped = {f"of an item that the user has already (the {settings.repeats} one counts)": merged} if merged else {}
  if max(settings.cores) > 1:
    path, lengths, item_counts, rounds = _core(by_user, lengths, item_counts, settings.cores, folder)
    out = int(before.sum() - lengths.sum())
    if out:
      dropped["outside of the {}-core".format(",".join(map(str, settings.cores)))] = out
  else:
    path, rounds = by_user, 0
  months = _months(path, log.ticks_per_ms) if log.timed else {}
  return Histories(
    path, lengths, item_counts, log.timed, log.ticks_per_ms, dropped, repeats, twice, rounds, months, before
  )


def _sorted_parts(log: Log, folder: pathlib.Path) -> Iterator[np.ndarray]:
  """All records by user and time, in parts of whole users, ascending."""
  for path, size in _parts(log, folder):
    with path.open("rb") as file:
      records = np.fromfile(file, RECORD, size)
    if path != log.path:
      path.unlink()
    # Stable: what has equal times keeps its order.
    yield records[np.lexsort((records["time"], records["user"]))]


def _parts(log: Log, folder: pathlib.Path) -> list[tuple[pathlib.Path, int]]:
  """Files of the records of ascending ranges of users, each in the order of the log, and how many records each has."""
  if log.kept <= _PART_ROWS:
    return [(log.path, log.kept)]
  counts = np.zeros(len(log.users), np.int64)
  for records in _read(log.path):
    counts += np.bincount(records["user"], minlength=len(counts))
  size = max(_PART_ROWS, -(-log.kept // _MOST_PARTS))
  part_of = (np.cumsum(counts) - counts) // size
  used, part_of = np.unique(part_of, return_inverse=True)  # a user of many records may fill several
  paths = [folder / f"part_{part}" for part in range(len(used))]
  with contextlib.ExitStack() as stack:
    opened = [stack.enter_context(path.open("wb")) for path in paths]
    for records in _read(log.path):
      parts = part_of[records["user"]]
      order = np.argsort(parts, kind="stable")
      ends = np.cumsum(np.bincount(parts, minlength=len(used)))
      for file, group in zip(opened, np.split(records[order], ends[:-1])):
        append(file, group)
  sizes = np.bincount(part_of, weights=counts, minlength=len(used)).astype(np.int64)
  return list(zip(paths, sizes.tolist()))


def _again(records: np.ndarray, *, last: bool) -> tuple[np.ndarray, int]:
  """Records, sorted by user and time, of an item that the same user has before; or after, for the `last` to stay.

  Returns:
    `([n] bool, how many of them are of the same time as the other)`.
  """
  order = np.lexsort((records["item"], records["user"]))  # stable
  user, item, time = (records[name][order] for name in ("user", "item", "time"))
  same = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
  found = np.zeros(len(records), bool)
  found[order[:-1] if last else order[1:]] = same
  return found, int((same & (time[1:] == time[:-1])).sum())


def _core(
  path: pathlib.Path, lengths: np.ndarray, item_counts: np.ndarray, cores: tuple[int, int], folder: pathlib.Path
) -> tuple[pathlib.Path, np.ndarray, np.ndarray, int]:
  """The k-core: users and items of too few records are left out until there are none.

  Returns:
    As of `Histories`: the file, the lengths, the counts, the rounds.
  """
  rounds = 0
  while ((lengths > 0) & (lengths < cores[0])).any() or ((item_counts > 0) & (item_counts < cores[1])).any():
    rounds += 1
    users, items = lengths >= cores[0], item_counts >= cores[1]
    lengths, item_counts = np.zeros_like(lengths), np.zeros_like(item_counts)
    target = folder / f"core_{rounds}"
    with target.open("wb") as file:
      for records in _read(path):
        records = records[users[records["user"]] & items[records["item"]]]
        lengths += np.bincount(records["user"], minlength=len(lengths))
        item_counts += np.bincount(records["item"], minlength=len(item_counts))
        append(file, records)
    path.unlink()
    path = target
  return path, lengths, item_counts, rounds


def _months(path: pathlib.Path, ticks_per_ms: int) -> dict[str, int]:
  found: dict[str, int] = {}
  for records in _read(path):
    times = (records["time"] // ticks_per_ms).astype("datetime64[ms]")
    months, counts = np.unique(times.astype("datetime64[M]"), return_counts=True)
    for month, count in zip(months.astype(str).tolist(), counts.tolist()):
      found[month] = found.get(month, 0) + count
  return dict(sorted(found.items()))


def _read(path: pathlib.Path) -> Iterator[np.ndarray]:
  with path.open("rb") as file:
    while len(records := np.fromfile(file, RECORD, _READ_ROWS)):
      yield records
