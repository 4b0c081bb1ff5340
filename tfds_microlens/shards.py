"""The records of a split, by place, out of ArrayRecord files that are compared with their digests on first use."""

import bisect
from collections.abc import Sequence
import itertools
import threading
from typing import Any

from array_record.python import array_record_module
import tensorflow_datasets.public_api as tfds

from tfds_microlens.digests import Digests
from tfds_microlens.digests import Place

_OPTIONS = "readahead_buffer_size:0"
_BUFFER_BYTES = 1 << 15


class Shards:
  """The records of a split; may be read from several threads."""

  def __init__(self, place: Place, digests: Digests, info: tfds.core.DatasetInfo, split: str, *, whole: bool = False):
    """Opens nothing yet.

    Args:
      place: of the data set.
      digests: its recorded digests.
      info: of the prepared data set.
      split: its name.
      whole: whether shards are compared byte for byte, and not by their ends alone: for those who read all records.

    Raises:
      DamagedError: the data set has no such split, or is stored in another format.
    """
    if split not in info.splits:
      raise place.damaged("dataset_info.json", f"it has no split {split}")
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
      raise place.damaged("dataset_info.json", f"expected the file format array_record, not {info.file_format}")
    found = info.splits[split]
    self._place, self._digests, self._whole = place, digests, whole
    self._names = [path.name for path in found.filepaths]
    self._lengths = found.shard_lengths
    self._ends = list(itertools.accumulate(self._lengths))
    self._readers: list[Any] = [None] * len(self._names)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self._ends[-1]

  def read(self, places: Sequence[int]) -> list[bytes]:
    """The records at `places`, each from 0 to `len(self) - 1`, in that order.

    Raises:
      DamagedError: a shard is not what was written.
    """
    of_shard: dict[int, list[int]] = {}
    for row, place in enumerate(places):
      of_shard.setdefault(bisect.bisect_right(self._ends, place), []).append(row)
    records = [b""] * len(places)
    for shard, rows in of_shard.items():
      first = self._ends[shard] - self._lengths[shard]
      for row, record in zip(rows, self._read(shard, [places[row] - first for row in rows]), strict=True):
        records[row] = record
    return records

  def _read(self, shard: int, positions: list[int]) -> list[bytes]:
    reader = self._reader(shard)
    try:
      return reader.read(positions)
    except Exception as error:  # of several types, out of its C++
      raise self._place.damaged(self._names[shard], f"a record cannot be read ({_reason(error)})") from error

  def _reader(self, shard: int) -> Any:
    if self._readers[shard] is None:
      with self._lock:
        if self._readers[shard] is None:
          self._readers[shard] = self._opened(shard)
    return self._readers[shard]

  def _opened(self, shard: int) -> Any:
    name = self._names[shard]
    self._digests.check(name, whole=self._whole)
    try:
      reader = array_record_module.ArrayRecordReader(
        str(self._place.folder / name), options=_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
      )
      count = reader.num_records()
    except Exception as error:
      raise self._place.damaged(name, f"cannot be opened ({_reason(error)})") from error
    if count != self._lengths[shard]:
      raise self._place.damaged(name, f"expected {self._lengths[shard]:,} records, found {count:,}")
    return reader


def _reason(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:120]
