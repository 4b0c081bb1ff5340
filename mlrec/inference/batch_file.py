"""Recommendations for many users: a table of users or histories in, a table of items out."""

from collections.abc import Iterator
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from mlrec import files
from mlrec.data.interactions import DataError
from mlrec.inference.recommender import EVERYTHING
from mlrec.inference.recommender import Filters
from mlrec.inference.recommender import Recommendations
from mlrec.inference.recommender import Recommender
from mlrec.registry import closest

USER, HISTORY = "user", "history"
_SUFFIXES = (".parquet", ".csv")
_ROWS_AT_ONCE = 1 << 14


def recommend(
  recommender: Recommender, source: pathlib.Path, target: pathlib.Path, *, k: int = 10, filters: Filters = EVERYTHING
) -> int:
  """Recommends for each row of a table, some thousand rows at a time.

  A row with a `history` (a list of original ids, oldest first; in CSV separated by spaces) is answered by it; without
  one its `user` must be one of the run's. The result has the columns `user` (where there is one, else `row`, from 0),
  `rank` (from 1), `item` and `score`; it is written whole or not at all.

  Args:
    recommender: whose items.
    source: `.parquet` or `.csv`.
    target: likewise.
    k: how many items a row.
    filters: what may be recommended.

  Returns:
    The number of rows.

  Raises:
    DataError: the table cannot be read, has neither column, or names nobody and nothing that the run knows.
    OSError: the result cannot be written.
  """
  for path in (source, target):
    if path.suffix not in _SUFFIXES:
      raise DataError(f"{path}: expected a file that ends in {' or '.join(_SUFFIXES)}")
  done = 0
  with files.replacing(target) as temporary:
    writer: Any = None
    try:
      for batch in _batches(source):
        table = _answers(recommender, source, batch, done, k, filters)
        if writer is None:
          write = pa.parquet.ParquetWriter if target.suffix == ".parquet" else pa.csv.CSVWriter
          writer = write(temporary, table.schema)
        writer.write_table(table)
        done += batch.num_rows
    finally:
      if writer is not None:
        writer.close()
    if not done:
      raise DataError(f"{source}: it has no rows")
  return done


def _batches(source: pathlib.Path) -> Iterator[pa.RecordBatch]:
  try:
    files.open_regular(source).close()
    if source.suffix == ".parquet":
      with pa.parquet.ParquetFile(source) as file:
        yield from file.iter_batches(_ROWS_AT_ONCE)
    else:
      with pa.csv.open_csv(source) as reader:
        yield from reader
  except FileNotFoundError as error:
    raise DataError(f"{source}: no such file") from error
  except (pa.ArrowException, OSError) as error:
    raise DataError(f"{source}: it cannot be read ({str(error).splitlines()[0]})") from error


def _answers(
  recommender: Recommender, source: pathlib.Path, batch: pa.RecordBatch, first: int, k: int, filters: Filters
) -> pa.Table:
  names = batch.schema.names
  if HISTORY in names:
    items, lengths = _histories(batch.column(HISTORY), source)
    found = recommender.recommend_rows(items, lengths, k, filters)
  elif USER in names:
    found = recommender.recommend_users(_plain(batch.column(USER)), k, filters)
  else:
    near = closest(USER, names) if names else "it has none"
    raise DataError(f"{source}: expected a column {USER!r} or {HISTORY!r}, and there are {names}: {near}")
  label, whom = (USER, batch.column(USER)) if USER in names else ("row", pa.array(range(first, first + len(found))))
  return _table(label, whom, found)


def _table(label: str, whom: pa.Array, found: Recommendations) -> pa.Table:
  there = found.dense > 0
  rows, places = np.nonzero(there)
  return pa.table({
    label: whom.take(pa.array(rows)),
    "rank": pa.array(places + 1, pa.int32()),
    "item": pa.array(found.ids.array(found.dense[there])),
    "score": pa.array(found.scores[there], pa.float32()),
  })  # fmt: skip


def _histories(column: pa.Array, source: pathlib.Path) -> tuple[Any, np.ndarray]:
  """Items end to end, and the number of each row's."""
  if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
    lengths = np.asarray(column.value_lengths().fill_null(0), np.int64)
    return _plain(column.flatten()), lengths
  if pa.types.is_string(column.type) or pa.types.is_integer(column.type):
    listed = [str(text).split() if text is not None else [] for text in column.to_pylist()]
    return [item for row in listed for item in row], np.array([len(row) for row in listed], np.int64)
  raise DataError(f"{source}: the column {HISTORY!r} holds {column.type}, and lists of ids are expected")


def _plain(column: pa.Array) -> Any:
  """Integers as an array, texts as a list."""
  if pa.types.is_integer(column.type) and not column.null_count:
    return column.to_numpy(zero_copy_only=False)
  return ["" if value is None else value for value in column.to_pylist()]
