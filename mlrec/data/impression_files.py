"""The files of the multimodal CTR challenge: their names, and columns of Parquet read with nothing in them believed."""

from collections.abc import Iterator
from collections.abc import Mapping
import os
import pathlib
from typing import Any
from typing import NoReturn

import numpy as np

from mlrec import files
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.registry import closest
from mlrec.registry import near_file

TRAIN_FILE, VALID_FILE, TEST_FILE = "train.parquet", "valid.parquet", "test.parquet"
ITEM_FILE = "item_info.parquet"
ITEM_ID, TAGS, VECTOR = "item_id", "item_tags", "item_emb_d128"
LEVELS = ("likes_level", "views_level")
# What a column may be.
INTEGER, INTEGERS, FLOATS, LABEL = "integers", "lists of integers", "lists of floats", "0 and 1"
_ROWS_AT_ONCE = 1 << 16


def is_folder(source: str | os.PathLike[str]) -> bool:
  """Whether it is the path of a folder of impressions: one that has a `train.parquet`."""
  try:
    return bool(os.fspath(source)) and (pathlib.Path(source).expanduser() / TRAIN_FILE).is_file()
  except (OSError, RuntimeError):
    return False


def folders_in(source: str) -> list[str]:
  """Folders of impressions right in one that is named, such as `MicroLens_1M_x1` in that of the whole download."""
  try:
    folder = pathlib.Path(source).expanduser()
    inside = sorted(folder.iterdir()) if source and folder.is_dir() else []
  except (OSError, RuntimeError):
    return []
  return [str(path) for path in inside if is_folder(path)]


def vectors_of(source: str) -> str:
  """The file that has the vectors of items, where `source` is a folder of impressions; else empty."""
  return os.path.join(source, ITEM_FILE) if is_folder(source) else ""


class Table:
  """A Parquet file whose columns are what they are expected to be.

  Attributes:
    names: of the columns that it has, of those that are known.
  """

  def __init__(self, path: pathlib.Path, required: Mapping[str, str], optional: Mapping[str, str] = {}):
    """Looks at the file's columns; no row is read.

    Args:
      path: of the file.
      required: what columns there must be, and what they hold (`INTEGER`, `INTEGERS`, `FLOATS` or `LABEL`).
      optional: what others there may be.

    Raises:
      DataError: there is no such file, it is none of Parquet, or a column is missing, unknown or of another kind.
    """
    import pyarrow as pa
    import pyarrow.parquet  # not at the head: who reads no such file does without

    self.path, self._kinds = path, {**required, **optional}
    try:
      files.open_regular(path).close()
      with pa.parquet.ParquetFile(path) as file:
        schema, self.num_rows = file.schema_arrow, file.metadata.num_rows
    except FileNotFoundError as error:
      raise DataError(f"{path}: no such file{near_file(path)}") from error
    except (pa.ArrowException, OSError) as error:
      raise DataError(f"{path}: it cannot be read ({str(error).splitlines()[0]})") from error
    for name in schema.names:
      if name not in self._kinds:
        raise DataError(f"{path}: unknown column {name!r}; {closest(name, self._kinds)}")
    for name in required:
      if name not in schema.names:
        raise DataError(f"{path}: there is no column {name!r} among {', '.join(map(repr, schema.names))}")
    for field in schema:
      if not _is(field.type, self._kinds[field.name]):
        raise DataError(f"{path}: column {field.name!r} must hold {self._kinds[field.name]}, not {field.type}")
    self.names = tuple(schema.names)

  def batches(self, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Some rows at a time: of a column of lists `Rows`, of one of lists of floats a matrix, else an array.

    Raises:
      DataError: a value is missing, or the file is damaged; the row is named, from 0.
    """
    import pyarrow as pa
    import pyarrow.parquet

    first = 0
    try:
      with pa.parquet.ParquetFile(self.path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(names)):
          yield {name: self._array(batch.column(name), name, first) for name in names}
          first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
      raise DataError(f"{self.path}: it cannot be read ({str(error).splitlines()[0]})") from error

  def read(self, names: tuple[str, ...]) -> dict[str, Any]:
    """All rows; as of `batches`."""
    parts = list(self.batches(names))
    if not parts:
      raise DataError(f"{self.path}: it has no rows")
    return {name: _joined([part[name] for part in parts], f"{self.path}: column {name!r}") for name in names}

  def refuse(self, row: int, name: str, problem: str) -> NoReturn:
    """Raises a DataError that names a row, from 0, and its column."""
    raise DataError(f"{self.path}: row {row}, {name}: {problem}")

  def _array(self, column: Any, name: str, first: int) -> Any:
    import pyarrow as pa

    kind = self._kinds[name]
    if column.null_count:
      self.refuse(first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))), name, "there is no value")
    if kind in (INTEGER, LABEL):
      values = column.to_numpy(zero_copy_only=False)
      if kind == LABEL:
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if len(wrong):
          self.refuse(first + int(wrong[0]), name, f"{values[wrong[0]]} must be 0 or 1")
      return values.astype(np.int64)
    fixed = pa.types.is_fixed_size_list(column.type)
    lengths = np.full(len(column), column.type.list_size) if fixed else np.diff(column.offsets.to_numpy())
    flat = column.flatten()
    if flat.null_count:
      place = int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False)))
      self.refuse(first + int(np.searchsorted(np.cumsum(lengths), place, side="right")), name, "a value is missing")
    values = flat.to_numpy(zero_copy_only=False)
    if kind == INTEGERS:
      return Rows.from_lengths(values.astype(np.int64), lengths.astype(np.int64))
    if len(set(lengths.tolist())) > 1:
      other = int(np.argmax(lengths != lengths[0]))
      self.refuse(first + other, name, f"{lengths[other]} numbers, and {lengths[0]} in the rows before")
    return values.astype(np.float32).reshape(len(column), -1)


def items(path: pathlib.Path) -> Table:
  """The table of items.

  Raises:
    DataError: as of `Table`.
  """
  return Table(path, {ITEM_ID: INTEGER, TAGS: INTEGERS, VECTOR: FLOATS}, dict.fromkeys(LEVELS, INTEGER))


def _joined(parts: list[Any], what: str) -> Any:
  if isinstance(parts[0], Rows):
    return Rows.concatenate(parts)
  try:
    return np.concatenate(parts)
  except ValueError as error:
    raise DataError(f"{what} has lists of different lengths") from error


def _is(kind: Any, wanted: str) -> bool:
  import pyarrow as pa

  is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
  if wanted in (INTEGERS, FLOATS):
    return is_list and (pa.types.is_integer if wanted == INTEGERS else pa.types.is_floating)(kind.value_type)
  if wanted == LABEL and (pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
    return True
  return pa.types.is_integer(kind)
