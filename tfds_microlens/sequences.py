"""Interactions out of prepared data: the same, row for row, as the pairs file that it was made of.

`…-interactions` has them one a record. The splits of `…-sequences` hold one row a user, but the MicroLens protocol also
counts a line that a later one of the same user replaces: so their metadata keeps all lines of such users, with their
places.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import pathlib

import numpy as np
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.proto import tf_example_pb2

from mlrec.data.interactions import histories_by_time
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.data.lines import by_user
from mlrec.data.lines import Chunk
from mlrec.data.lines import LineSource
from tfds_microlens.errors import PrepareError
from tfds_microlens.prepared import Prepared
from tfds_microlens.shards import Shards

MIN_LENGTH = 3  # an item each to train, to validate and to test
# What the metadata of `…-interactions` says of timestamps: their unit, or that they are none.
TIMED, PLACED = "milliseconds", "place in the sequence"
_READ_AT_ONCE = 1 << 16
# In the metadata of `…-sequences`, all lines of the users who have several.
PLACES, USERS, ITEMS = "repeated_places", "repeated_users", "repeated_items"


def read_interactions(builder: dataset_builder.DatasetBuilder) -> Interactions:
  """The interactions of a prepared `…-sequences` builder.

  Returns:
    Every line of the pairs file with at least three items, in file order: `leave_one_out` of it, with a `min_length`
    of 3 or more, equals `leave_one_out` of the file.

  Raises:
    PrepareError: the builder is none of `microlens/…-sequences`, is not prepared, or a file of it is damaged.
  """
  if not _name(builder).endswith("-sequences"):
    raise PrepareError(f"{_name(builder)}: interactions are read from one of microlens/…-sequences")
  return lines(builder).read()


def timed_lines(builder: dataset_builder.DatasetBuilder) -> LineSource:
  """The lines of a prepared `…-interactions` builder, with timestamps where the file it was made of had them.

  They are what `read_pairs` gives of the file.

  Raises:
    PrepareError: it is not prepared, or a file of it is damaged, which may show only when it is read.
  """
  prepared = Prepared(builder)
  records = prepared.records("train", whole=True)
  timed = builder.info.metadata["timestamps"] == TIMED

  def chunks(position: list[int], folder: pathlib.Path) -> Iterator[Chunk]:
    if timed:
      columns = ((users, items, times) for users, items, times in _columns(records))
      yield from by_user(columns, len(records), folder, position)
      return
    # Times are places in lines then. A line goes on until the next place 0: a chunk's last one waits for the next.
    start = position[0] if position else 0
    rest = np.empty((3, 0), np.int64)
    for more in _columns(records, start):
      whole = np.concatenate([rest, more], axis=1)
      last = int(np.flatnonzero(whole[2] == 0)[-1])
      rest = whole[:, last:]
      if last:
        start += last
        yield _line_chunk(start, whole[:, :last])
    yield _line_chunk(start + rest.shape[1], rest)

  def by_time() -> Interactions:
    users, items, times = (np.concatenate(column) for column in zip(*_columns(records)))
    return histories_by_time(users, items, times, _name(builder))

  whole = by_time if timed else None
  return LineSource(_name(builder), *prepared.identity(), chunks, timed=timed, whole=whole)


def _line_chunk(position: int, columns: np.ndarray) -> Chunk:
  """Lines of which `columns [3, n]` are the users, the items and the places."""
  starts = np.flatnonzero(columns[2] == 0)
  return Chunk(
    [position], columns[0, starts], Rows.from_lengths(columns[1], np.diff(np.append(starts, columns.shape[1])))
  )


def _columns(records: Shards, start: int = 0) -> Iterator[np.ndarray]:
  """`[3, n]` int64, users, items and times of `…-interactions` from a record on, some at a time."""
  for first in range(start, len(records), _READ_AT_ONCE):
    chunk = records.read(range(first, min(first + _READ_AT_ONCE, len(records))))
    columns = np.empty((3, len(chunk)), np.int64)
    for row, record in enumerate(chunk):
      feature = tf_example_pb2.Example.FromString(record).features.feature
      columns[:, row] = [feature[key].int64_list.value[0] for key in ("user", "item", "timestamp")]
    yield columns


def lines(builder: dataset_builder.DatasetBuilder) -> LineSource:
  """The lines of a prepared `…-sequences` builder: what `read_interactions` gives.

  Raises:
    PrepareError: it is not prepared, or a file of it is damaged, which may show only when it is read.
  """
  prepared = Prepared(builder)
  records = prepared.records("test", whole=True)
  repeated = {key: builder.info.metadata[key] for key in (PLACES, USERS, ITEMS)}

  def chunks(position: list[int], folder: pathlib.Path) -> Iterator[Chunk]:
    del folder
    # Records read, and lines given.
    start, line = position or (0, 0)
    for users, rows in _chunks(records, start):
      start += len(users)
      ends = start == len(records)
      users, rows = _with_lines_between(users, rows, repeated, line, ends=ends)
      line += len(users)
      yield Chunk([start, line], users, rows)

  return LineSource(_name(builder), *prepared.identity(), chunks)


def _name(builder: dataset_builder.DatasetBuilder) -> str:
  return f"{builder.name}/{builder.builder_config_name or builder.info.config_name}"


def _with_lines_between(
  users: np.ndarray, rows: Rows, repeated: Mapping[str, list], line: int, *, ends: bool
) -> tuple[np.ndarray, Rows]:
  """Of some records those of users with one line, and between them the lines of the others that come before the next.

  Args:
    users: `[n]` int64 of the records.
    rows: their histories.
    repeated: of all lines of users who have several the places among the lines, the users and the items.
    line: lines that come before.
    ends: whether these records are the last; then all lines that are left come, too.
  """
  places, several = np.asarray(repeated[PLACES], np.int64), np.asarray(repeated[USERS], np.int64)
  single = np.flatnonzero(~np.isin(users, several))
  first = int(np.searchsorted(places, line))
  # A line that is kept apart is the next one where as many have come before it as its place says.
  before = places[first:] - np.arange(len(places) - first) - line
  between = np.arange(first, len(places)) if ends else first + np.flatnonzero(before <= len(single))
  if not len(between):
    return users[single], rows.take(single)
  order = np.argsort(np.concatenate([np.arange(len(single)), before[between - first] - 0.5]), kind="stable")
  whole = Rows.concatenate([rows.take(single), Rows.from_lists([repeated[ITEMS][place] for place in between])])
  return np.concatenate([users[single], several[between]])[order], whole.take(order)


def _chunks(records: Shards, start: int) -> Iterator[tuple[np.ndarray, Rows]]:
  """`(users, histories)` of the test split, their targets put back to the ends, from a record on, some at a time."""
  for first in range(start, len(records), _READ_AT_ONCE):
    chunk = records.read(range(first, min(first + _READ_AT_ONCE, len(records))))
    users, lengths = np.empty(len(chunk), np.int64), np.empty(len(chunk), np.int64)
    values: list[int] = []
    for row, record in enumerate(chunk):
      feature = tf_example_pb2.Example.FromString(record).features.feature
      items = feature["items"].int64_list.value
      users[row] = feature["user"].int64_list.value[0]
      lengths[row] = len(items) + 1
      values.extend(items)
      values.append(feature["target"].int64_list.value[0])
    yield users, Rows.from_lengths(np.array(values, np.int64), lengths)
