"""Recommendations for many users: a table of users or histories in, a table of items out."""

from collections.abc import Iterator
import pathlib
from typing import Any
from typing import NamedTuple

from absl import logging
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from mlrec import files
from mlrec import terminal
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.inference.original_ids import OriginalIds
from mlrec.inference.recommender import EVERYTHING
from mlrec.inference.recommender import Filters
from mlrec.inference.recommender import Recommendations
from mlrec.inference.recommender import Recommender
from mlrec.inference.recommender import warn_of_unknown
from mlrec.inference.scorers import UNKNOWN

USER, HISTORY = "user", "history"
_SUFFIXES = (".parquet", ".csv")
_ROWS_AT_ONCE = 1 << 14
# Characters of a cell that a message shows.
_SHOWN = 40
# Arrow parses CSV in blocks, and a row must lie within two: a history of a million items has some 8 MiB.
_BLOCK_BYTES = 1 << 24


# How Arrow keeps a list, and an id; a column in which all is missing has a type of its own.
_LISTS = (
  pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
  pa.types.is_large_list_view,
)  # fmt: skip
_IDS = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_null)


def recommend(
  recommender: Recommender, source: pathlib.Path, target: pathlib.Path, *, k: int = 10, filters: Filters = EVERYTHING
) -> tuple[int, int]:
  """Recommends for each row of a table, some thousand rows at a time.

  A row with a `history` (a list of original ids, oldest first; in CSV separated by commas, or, where there is none, by
  spaces, unless the run's ids are texts and the whole is one) is answered by it; in a table without that column `user`
  must be one of the run's. Rows that cannot be answered are left out, with a warning. The result has the columns `user`
  (where there is one, else `row`, from 0, as messages count them), `rank` (from 1), `item` and `score`; it is written
  whole or not at all.

  Args:
    recommender: whose items.
    source: `.parquet` or `.csv`.
    target: likewise.
    k: how many items a row.
    filters: what may be recommended.

  Returns:
    The number of rows that were answered, and of items that were written.

  Raises:
    DataError: the table cannot be read, has neither column, or no row of it can be answered.
    OSError: the result cannot be written.
  """
  for path in (source, target):
    if path.suffix not in _SUFFIXES:
      raise DataError(f"{path}: expected a file that ends in {' or '.join(_SUFFIXES)}")
  if target.exists() and (target.samefile(source) if source.exists() else False):
    raise DataError(f"{target}: the result would take the place of the table that is read: name another file")
  if target.exists() and not target.is_file():
    raise DataError(f"{target}: expected the name of a file, and it is something else")
  if not target.parent.is_dir():
    raise DataError(f"{target}: there is no folder {target.parent}; make it first")
  read, lost, answered, items, first_lost = 0, 0, 0, 0, ""
  with files.replacing(target) as temporary:
    writer: Any = None
    try:
      for batch in _batches(source):
        asked = _asked(recommender, source, batch)
        kept = np.flatnonzero(asked.rows.lengths)
        if asked.reason and not first_lost:
          first_lost = f"row {read + int(np.argmin(asked.rows.lengths))}, from 0: {asked.reason}"
        lost += batch.num_rows - len(kept)
        if USER in batch.schema.names:
          label, whom = USER, _decoded(batch.column(USER)).take(pa.array(kept))
        else:
          label, whom = "row", pa.array(read + kept)
        read += batch.num_rows
        if not len(kept):
          continue
        rows = asked.rows.take(kept)
        warn_of_unknown(rows, asked.given[kept])
        found = recommender.recommend_dense(rows, asked.users[kept], k, filters)
        table = _table(label, whom, found)
        answered, items = answered + len(kept), items + table.num_rows
        if writer is None:
          write = pa.parquet.ParquetWriter if target.suffix == ".parquet" else pa.csv.CSVWriter
          writer = write(temporary, table.schema)
        writer.write_table(table)
    finally:
      if writer is not None:
        writer.close()
    if not read:
      raise DataError(f"{source}: it has no rows")
    if not answered:
      which = f"none of its {read:,} rows can" if read > 1 else "its only row cannot"
      raise DataError(f"{source}: {which} be answered ({first_lost})")
  if lost:
    logging.warning("%d of %d rows cannot be answered and are left out (%s).", lost, read, first_lost)
  return answered, items


def _batches(source: pathlib.Path) -> Iterator[pa.RecordBatch]:
  try:
    files.open_regular(source).close()
    if source.suffix == ".parquet":
      with pa.parquet.ParquetFile(source) as file:
        yield from file.iter_batches(_ROWS_AT_ONCE)
    else:
      # Ids are what is written: "007" is no 7.
      as_texts = pa.csv.ConvertOptions(column_types={USER: pa.string(), HISTORY: pa.string()})
      blocks = pa.csv.ReadOptions(block_size=_BLOCK_BYTES)
      quoted = pa.csv.ParseOptions(newlines_in_values=True)
      with pa.csv.open_csv(source, blocks, quoted, as_texts) as reader:
        for block in reader:
          yield from (block.slice(first, _ROWS_AT_ONCE) for first in range(0, block.num_rows, _ROWS_AT_ONCE))
  except FileNotFoundError as error:
    raise DataError(f"{source}: no such file") from error
  except (pa.ArrowException, OSError) as error:
    if "straddling" in str(error):
      raise DataError(
        f"{source}: a row has more than {_BLOCK_BYTES / 2**20:g} MiB; in a .parquet file, as a list, it may"
      ) from error
    raise DataError(f"{source}: it cannot be read ({str(error).splitlines()[0]})") from error


class _Asked(NamedTuple):
  """What a part of a table asks.

  Attributes:
    rows: dense ids of the items that each row has watched; one of none cannot be answered.
    given: `[B]` how many items each row names; as many as in `rows` where it names a user.
    users: `[B]` each one's row in the split, or `UNKNOWN`.
    reason: why the first row that cannot be answered cannot; empty where there is none.
  """

  rows: Rows
  given: np.ndarray
  users: np.ndarray
  reason: str


def _asked(recommender: Recommender, source: pathlib.Path, batch: pa.RecordBatch) -> _Asked:
  names = batch.schema.names
  twice = [name for name in (USER, HISTORY) if names.count(name) > 1]
  if twice or not {USER, HISTORY} & set(names):
    what = f"one column {twice[0]!r}" if twice else f"a column {USER!r} or {HISTORY!r}"
    raise DataError(f"{source}: expected {what}, and its columns are {', '.join(map(repr, names)) or 'none'}")
  if USER in names and pa.types.is_nested(batch.column(USER).type):
    raise DataError(f"{source}: the column {USER!r} holds {batch.column(USER).type}, and single ids are expected")
  if HISTORY in names:
    items, lengths, texts = _histories(batch.column(HISTORY), source, recommender.items)
    rows = recommender.known_items(items, lengths)
    reason = ""
    if not rows.lengths.all():
      row = int(np.argmin(rows.lengths))
      first = int(lengths[:row].sum())
      reason = recommender.items.unknown(items[first]) if lengths[row] else "its history is empty"
      if lengths[row] and texts is not None:
        reason = f"{_how_read(texts[row], recommender.items)}; {reason}"
    return _Asked(rows, lengths, np.full(len(rows), UNKNOWN), reason)
  ids = _plain(batch.column(USER), f"{source}: the column {USER!r}")
  found = recommender.users.find(ids)
  reason = recommender.users.unknown(ids[int(np.argmin(found))]) if (found < 0).any() else ""
  rows, users = recommender.known_users(found)
  return _Asked(rows, rows.lengths, users, reason)


def _table(label: str, whom: pa.Array, found: Recommendations) -> pa.Table:
  there = found.dense > 0
  rows, places = np.nonzero(there)
  return pa.table({
    label: whom.take(pa.array(rows)),
    "rank": pa.array(places + 1, pa.int32()),
    "item": pa.array(found.ids.array(found.dense[there])),
    "score": pa.array(found.scores[there], pa.float32()),
  })  # fmt: skip


def _histories(column: pa.Array, source: pathlib.Path, ids: OriginalIds) -> tuple[Any, np.ndarray, list[str] | None]:
  """Items end to end, the number of each row's, and the texts that held them; None where lists did."""
  named = f"{source}: the column {HISTORY!r}"
  column = _decoded(column)
  if any(is_list(column.type) for is_list in _LISTS):
    lengths = np.asarray(pa.compute.list_value_length(column).fill_null(0), np.int64)
    return _plain(pa.compute.list_flatten(column), f"{named}, in its lists,"), lengths, None
  texts = [str(text) for text in _plain(column, named)]
  listed = [_split(text, ids) for text in texts]
  return [item for row in listed for item in row], np.array([len(row) for row in listed], np.int64), texts


def _split(text: str, ids: OriginalIds) -> list[str]:
  """Ids in a cell, which may hold spaces where commas are between them, or where the whole is one id."""
  if "," in text:
    return [one.strip() for one in text.split(",") if one.strip()]
  parts = text.split()
  # Texts may have spaces in them, integers have none.
  whole = text.strip() if ids.are_texts and len(parts) > 1 else ""
  return [whole] if whole and (ids.find([whole]) > 0).all() else parts


def _how_read(text: str, ids: OriginalIds) -> str:
  """How `_split` has read a cell that names no item."""
  shown = repr(terminal.shortened(text, _SHOWN))
  if "," in text:
    return f"its history {shown} is split at commas"
  if len(text.split()) == 1:
    return f"its history {shown} is one id"
  return f"its history {shown} is split at spaces" + (", as the whole is no id" if ids.are_texts else "")


def _decoded(column: pa.Array) -> pa.Array:
  """A column without what says how its values are kept, but not what they are."""
  if isinstance(column, pa.ExtensionArray):
    column = column.storage
  if pa.types.is_dictionary(column.type):
    column = column.dictionary_decode()
  # Of views Arrow takes no rows.
  return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def _plain(column: pa.Array, named: str) -> Any:
  """Integers as an array, texts as a list, in which what is missing is empty.

  Raises:
    DataError: the column holds anything else.
  """
  column = _decoded(column)
  if pa.types.is_integer(column.type) and not column.null_count:
    return column.to_numpy(zero_copy_only=False)
  if not any(is_id(column.type) for is_id in _IDS):
    raise DataError(f"{named} holds {column.type}, and ids are expected: integers or texts")
  return ["" if value is None else value for value in column.to_pylist()]
