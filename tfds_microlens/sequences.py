"""Interactions out of prepared data: the same, row for row, as the pairs file that it was made of.

`…-interactions` has them one a record. The splits of `…-sequences` hold one row a user, but the MicroLens protocol also
counts a line that a later one of the same user replaces: so their metadata keeps all lines of such users, with their
places.
"""

import numpy as np
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.proto import tf_example_pb2

from mlrec.data.interactions import histories_by_time
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from tfds_microlens.errors import PrepareError
from tfds_microlens.prepared import Prepared
from tfds_microlens.shards import Shards

MIN_LENGTH = 3  # an item each to train, to validate and to test
# What the metadata of `…-interactions` says of timestamps: their unit, or that they are none.
TIMED, PLACED = "milliseconds", "place in the sequence"
_READ_AT_ONCE = 1 << 16
_PLACES, _USERS, _ITEMS = "repeated_places", "repeated_users", "repeated_items"


def read_interactions(builder: dataset_builder.DatasetBuilder) -> Interactions:
  """The interactions of a prepared `…-sequences` builder.

  Returns:
    Every line of the pairs file with at least three items, in file order: `leave_one_out` of it, with a `min_length`
    of 3 or more, equals `leave_one_out` of the file.

  Raises:
    PrepareError: the builder is none of `microlens/…-sequences`, is not prepared, or a file of it is damaged.
  """
  name = f"{builder.name}/{builder.builder_config_name or builder.info.config_name}"
  if not name.endswith("-sequences"):
    raise PrepareError(f"{name}: interactions are read from one of microlens/…-sequences")
  prepared = Prepared(builder)
  users, rows = _read_rows(prepared.records("test", whole=True))
  metadata = builder.info.metadata
  return with_repeats(users, rows, {key: metadata[key] for key in (_PLACES, _USERS, _ITEMS)}, source=name)


def read_timed_interactions(builder: dataset_builder.DatasetBuilder) -> Interactions:
  """The interactions of a prepared `…-interactions` builder, with timestamps where the file it was made of had them.

  Returns:
    What `read_pairs` gives of the file.

  Raises:
    PrepareError: it is not prepared, or a file of it is damaged.
  """
  name = f"{builder.name}/{builder.builder_config_name or builder.info.config_name}"
  records = Prepared(builder).records("train", whole=True)
  columns = np.empty((3, len(records)), np.int64)
  for start in range(0, len(records), _READ_AT_ONCE):
    chunk = records.read(range(start, min(start + _READ_AT_ONCE, len(records))))
    for row, record in enumerate(chunk, start):
      feature = tf_example_pb2.Example.FromString(record).features.feature
      columns[:, row] = [feature[key].int64_list.value[0] for key in ("user", "item", "timestamp")]
  users, items, times = columns
  if builder.info.metadata["timestamps"] == TIMED:
    return histories_by_time(users, items, times, name)
  # Of a file without timestamps they are places in its lines.
  starts = np.flatnonzero(times == 0)
  return Interactions(users[starts], Rows.from_lengths(items, np.diff(np.append(starts, len(items)))), name)


def without_short_lines(interactions: Interactions) -> Interactions:
  """Only the lines that can be split; its `users` and `histories` are what the splits hold."""
  long_enough = interactions.lines.lengths >= MIN_LENGTH
  return Interactions(interactions.line_users[long_enough], interactions.lines.take(long_enough), interactions.source)


def of_first_users(interactions: Interactions, count: int) -> Interactions:
  """Only the lines of the first `count` users."""
  if count >= len(interactions.users):
    return interactions
  kept = np.isin(interactions.line_users, interactions.users[:count])
  return Interactions(interactions.line_users[kept], interactions.lines.take(kept), interactions.source)


def repeats(interactions: Interactions) -> dict[str, list]:
  """All lines of the users who have several, as JSON: their places among the lines, users, items."""
  _, code, counts = np.unique(interactions.line_users, return_inverse=True, return_counts=True)
  places = np.flatnonzero(counts[code] > 1)
  return {
    _PLACES: places.tolist(),
    _USERS: interactions.line_users[places].tolist(),
    _ITEMS: [interactions.lines[int(place)].tolist() for place in places],
  }


def with_repeats(users: np.ndarray, rows: Rows, repeated: dict[str, list], source: str) -> Interactions:
  """The inverse of `repeats`: puts the lines it kept back to their places.

  Args:
    users: `[users]` int64, each user once, in the order of their first lines.
    rows: the history of each of `users`.
    repeated: what `repeats` gave.
    source: for messages.
  """
  places = np.asarray(repeated[_PLACES], np.int64)
  if not places.size:
    return Interactions(users, rows, source)
  repeated_users = np.asarray(repeated[_USERS], np.int64)
  single = np.flatnonzero(~np.isin(users, repeated_users))
  everything = Rows.concatenate([rows.take(single), Rows.from_lists(repeated[_ITEMS])])
  everyone = np.concatenate([users[single], repeated_users])
  others = np.setdiff1d(np.arange(len(everyone)), places)
  order = np.argsort(np.concatenate([others, places]))
  return Interactions(everyone[order], everything.take(order), source)


def _read_rows(records: Shards) -> tuple[np.ndarray, Rows]:
  """`(users, histories)` of the test split, its targets put back to the ends."""
  users = np.empty(len(records), np.int64)
  lengths = np.empty(len(records), np.int64)
  parts = []
  for start in range(0, len(records), _READ_AT_ONCE):
    values: list[int] = []
    chunk = records.read(range(start, min(start + _READ_AT_ONCE, len(records))))
    for row, record in enumerate(chunk, start):
      feature = tf_example_pb2.Example.FromString(record).features.feature
      items = feature["items"].int64_list.value
      users[row] = feature["user"].int64_list.value[0]
      lengths[row] = len(items) + 1
      values.extend(items)
      values.append(feature["target"].int64_list.value[0])
    parts.append(np.array(values, np.int64))
  return users, Rows.from_lengths(np.concatenate(parts), lengths)
