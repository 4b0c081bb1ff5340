"""Logs that are read a chunk of lines at a time: pairs files, files with labels, and logs in any order."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from mlrec import mapped
from mlrec.data import labelled
from mlrec.data.interactions import BEGINNING
from mlrec.data.interactions import histories_by_time
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import iter_csv
from mlrec.data.interactions import iter_tsv
from mlrec.data.interactions import read_pairs
from mlrec.data.interactions import Rows
from mlrec.data.names import Names

# What the files of logs end in.
SUFFIXES = (".tsv", ".csv", labelled.SUFFIX)
# An interaction, with its place in the log.
_RECORD = np.dtype([("user", np.int64), ("item", np.int64), ("time", np.int64), ("place", np.int64)])
# Interactions that are sorted at a time, 128 MiB of them, and how many files they are dealt to at the most.
_SORTED = 1 << 22
_MOST_PARTS = 512
_LINES_AT_ONCE = 1 << 18
# Of a CSV, at the least: a digit each and what separates them.
_BYTES_A_LINE = 16


class Chunk(NamedTuple):
  """Some lines of a log.

  Attributes:
    position: where the next chunk begins, in whole numbers that JSON takes.
    users: `[lines]` int64, the user of each.
    lines: the items of each (int64), oldest first.
    times: beside `lines.values`, when each was watched; None where the log does not say.
  """

  position: list[int]
  users: np.ndarray
  lines: Rows
  times: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class LineSource:
  """A log that is read a chunk of lines at a time.

  Attributes:
    name: for messages.
    identity: what tells its content from any other's, as JSON.
    nbytes: about what it has on the disk.
    chunks: from a position on, that of an earlier chunk or `[]` for the beginning; and a folder for what is large.
    names: of users and of items whose ids in the log are texts; None where they are integers.
    timed: whether chunks have times.
    whole: reads all of it at once; None where that is what its chunks are together.
    identity_now: what `identity` would be of the log as it is by now; None where it cannot change.
  """

  name: str
  identity: Mapping[str, Any]
  nbytes: int
  chunks: Callable[[list[int], pathlib.Path], Iterator[Chunk]]
  names: Callable[[], tuple[Names | None, Names | None]] = lambda: (None, None)
  timed: bool = False
  whole: Callable[[], Interactions] | None = None
  identity_now: Callable[[], Mapping[str, Any]] | None = None

  @property
  def changed(self) -> bool:
    """Whether the log is another one by now."""
    try:
      return self.identity_now is not None and self.identity_now() != self.identity
    except OSError:
      return True

  def read(self) -> Interactions:
    """All of it, in memory.

    Raises:
      DataError: it cannot be read.
    """
    if self.whole is not None:
      return self.whole()
    # What is large in it needs no folder of its own: that is for logs in no order, which are read at once.
    _, users, lines, times = zip(*self.chunks([], pathlib.Path()))
    user_names, item_names = self.names()
    return Interactions(
      np.concatenate(users), Rows.concatenate(list(lines)), self.name, user_names, item_names,
      np.concatenate(times) if self.timed else None,
    )  # fmt: skip


def of_pairs(path: str | os.PathLike[str]) -> LineSource:
  """A `*_pairs.tsv` or `*_pairs.csv` file, of which `mlrec.data.interactions` says the form.

  Raises:
    OSError: there is none.
  """
  path = pathlib.Path(path)
  identity = _identity(path)

  def of_csv(position: list[int], folder: pathlib.Path) -> Iterator[Chunk]:
    return by_user(iter_csv(path), identity["bytes"] // _BYTES_A_LINE, folder, position)

  def of_tsv(position: list[int], folder: pathlib.Path) -> Iterator[Chunk]:
    del folder
    for users, lines, after in iter_tsv(path, start=(position[0], position[1]) if position else BEGINNING):
      yield Chunk(list(after), users, lines)

  csv = path.suffix == ".csv"
  whole = functools.partial(read_pairs, path)
  return LineSource(
    str(path), identity, identity["bytes"], of_csv if csv else of_tsv, timed=csv, whole=whole,
    identity_now=functools.partial(_identity, path),
  )  # fmt: skip


def of_labelled(path: str | os.PathLike[str]) -> LineSource:
  """A `*.inter` file, of which `mlrec.data.labelled` says the form; its chunks are without labels.

  Raises:
    OSError: there is none.
    DataError: its header is another.
  """
  path = pathlib.Path(path)
  identity = _identity(path)

  def chunks(position: list[int], folder: pathlib.Path) -> Iterator[Chunk]:
    parts = (part[:3] for part in labelled.iterate(path))
    return by_user(parts, identity["bytes"] // _BYTES_A_LINE, folder, position)

  return LineSource(
    str(path), identity, identity["bytes"], chunks, functools.partial(labelled.all_names, path),
    timed=labelled.is_timed(path), whole=functools.partial(labelled.read, path),
    identity_now=functools.partial(_identity, path),
  )  # fmt: skip


def _identity(path: pathlib.Path) -> dict[str, Any]:
  said = path.stat()
  return {"path": str(path.resolve()), "bytes": said.st_size, "modified": said.st_mtime_ns}


def by_user(
  interactions: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
  number: int,
  folder: pathlib.Path,
  position: list[int],
) -> Iterator[Chunk]:
  """Single interactions as lines of users: as `histories_by_time`, in memory that grows with the users alone.

  They are dealt to files by their users, and each of these is sorted.

  Args:
    interactions: `(users, items, times)`, `[n]` int64 each, in the order of the log.
    number: about how many there are.
    folder: for 48 bytes an interaction.
    position: as of `LineSource.chunks`.
  """
  parts = min(max(-(-number // _SORTED), 1), _MOST_PARTS)
  paths = [folder / f"part_{part}" for part in range(parts)]
  place = 0
  with contextlib.ExitStack() as stack:
    opened = [stack.enter_context(path.open("wb")) for path in paths]
    for users, items, times in interactions:
      records = np.empty(len(users), _RECORD)
      records["user"], records["item"], records["time"] = users, items, times
      records["place"] = np.arange(place, place + len(users))
      place += len(users)
      # A multiplication spreads ids that have a factor in common.
      dealt = (users.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) % np.uint64(parts)
      order = np.argsort(dealt, kind="stable")
      ends = np.cumsum(np.bincount(dealt.astype(np.int64), minlength=parts))
      for file, group in zip(opened, np.split(records[order], ends[:-1])):
        file.write(group.tobytes())
  firsts, found, lengths = [], [], []
  with (folder / "sorted_items").open("wb") as items_file, (folder / "sorted_times").open("wb") as times_file:
    for path in paths:
      records = np.fromfile(path, _RECORD)
      path.unlink()
      if not len(records):
        continue
      histories = histories_by_time(records["user"], records["item"], records["time"], str(path))
      _, first = np.unique(records["user"], return_index=True)
      firsts.append(records["place"][np.sort(first)])
      found.append(histories.line_users)
      lengths.append(histories.lines.lengths)
      items_file.write(histories.lines.values.tobytes())
      times_file.write(np.asarray(histories.timestamps, np.int64).tobytes())
  order = np.argsort(np.concatenate(firsts))
  users = np.concatenate(found)[order]
  sorted_items, sorted_times = (
    Rows.from_lengths(np.asarray(np.memmap(folder / name, np.int64, "r")), np.concatenate(lengths))
    for name in ("sorted_items", "sorted_times")
  )
  for start in range(position[0] if position else 0, len(users), _LINES_AT_ONCE):
    part = order[start : start + _LINES_AT_ONCE]
    end = start + len(part)
    yield Chunk([end], users[start:end], sorted_items.take(part), sorted_times.take(part).values)
    mapped.release(sorted_items.values)
    mapped.release(sorted_times.values)
