"""Tables in files of several forms, read as streams of a few columns: delimited text, JSON lines and Parquet."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import io
import os
import pathlib
from typing import Any

from mlrec import terminal
from mlrec.data.interactions import DataError
from tfds_microlens.ingest.wording import NEUTRAL
from tfds_microlens.ingest.wording import Wording

# Of text at a time, and of Parquet's rows: what is held in memory, whatever the length of the file.
_BLOCK_BYTES = 1 << 22
_BLOCK_ROWS = 1 << 16
_HEAD_BYTES = 1 << 16
_SEPARATORS = ("\t", ",", ";", "|")
_SEPARATOR_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
_COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bz2"), (b"\x04\x22\x4d\x18", "lz4"))
_PARQUET = b"PAR1"


class Table:
  """A file of rows, whose form is told by what it begins with.

  Attributes:
    path: of the file.
    name: what messages call it.
    columns: their names, in the order of the file; of a file without a header "1", "2", and so on.
    form: what it is, in words.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    *,
    header: bool = True,
    separator: str = "",
    encoding: str = "utf-8",
    words: Wording = NEUTRAL,
    of: str = "",
  ):
    """Reads the beginning of the file.

    Args:
      path: delimited text, JSON lines or Parquet; the first two also compressed by gzip, zstd, bzip2 or LZ4.
      header: whether the first row of delimited text names the columns.
      separator: of delimited text; empty for a tab, a comma, a semicolon or a bar, by the first line.
      encoding: of delimited text.
      words: of whoever asks, for messages.
      of: what precedes the names of the settings of this table, for messages: `items_` for that of the items.

    Raises:
      DataError: the file is missing, empty or of another form, or what looks like data is in the place of its header.
    """
    self.path = pathlib.Path(path).expanduser()
    self.name = (not of and words.log) or str(self.path)
    self._words, self._of = words, of
    self._header, self._separator, self._encoding = header, separator, encoding
    if not self.path.is_file():
      raise DataError(f"{self.name}: {'not a file' if self.path.exists() else 'no such file'}")
    with self._told():
      start = self.path.open("rb").read(len(_PARQUET))
      self._compression = next((name for magic, name in _COMPRESSIONS if start.startswith(magic)), None)
      self.columns, form = self._parquet() if start == _PARQUET else self._text()
    self.form = form + (f", {self._compression}" if self._compression else "")

  def rows(self, wanted: Sequence[str], *, floats: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Chunks of rows: a `pyarrow.Array` for each of the `wanted` columns, of the same length.

    Columns of delimited text are strings, in which nothing stands for a missing value but the empty one. Others are of
    the file's own types; of JSON those of its first block, or strings where `texts` names them.

    Raises:
      DataError: a row is malformed.
    """
    wanted = list(dict.fromkeys(wanted))
    with self._told():
      for batch in self._batches(wanted, floats):
        if len(batch):
          yield {name: batch.column(name) for name in wanted}

  @property
  def without_header(self) -> str:
    """How to say that what was taken for names of columns are data; empty where it cannot be."""
    is_text = self.form.startswith("text") and self._header
    return self._words.switch(f"{self._of}header", "{}") if is_text else ""

  def _batches(self, wanted: list[str], floats: Sequence[str]) -> Iterator[Any]:
    if self.form.startswith("Parquet"):
      import pyarrow.parquet

      with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False) as file:
        yield from file.iter_batches(_BLOCK_ROWS, columns=wanted, use_threads=False)
    elif self.form.startswith("JSON"):
      with self._opened() as stream:
        yield from self._json(stream, self._json_types(wanted, floats))
    elif self.columns:
      yield from self._delimited(wanted)

  def _text(self) -> tuple[list[str], str]:
    with self._opened() as stream:
      head = stream.read(_HEAD_BYTES) or b""
    if not head.strip():
      raise DataError(f"{self.name}: the file is empty")
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
      with self._opened() as stream:
        self._schema = self._json_reader(stream).schema
      return list(self._schema.names), "JSON lines"
    if head.lstrip().startswith(b"[{"):
      raise DataError(f"{self.name}: a JSON list; expected JSON lines, an object a line")
    first = next(filter(str.strip, head.decode(self._encoding, "replace").splitlines())).lstrip("\ufeff")
    if not self._separator:
      counts = {separator: first.count(separator) for separator in _SEPARATORS}
      self._separator = max(_SEPARATORS, key=lambda separator: counts[separator])
    fields = self._fields(first)
    if self._header and all(_is_number(field) for field in fields):
      raise DataError(
        f"{self.name}: its first line, {first[:60]!r}, looks like data and not like the names of "
        "columns" + self._words.switch(f"{self._of}header", "; {} names them 1, 2, 3, …")
      )
    columns = fields if self._header else [str(place + 1) for place in range(len(fields))]
    between = _SEPARATOR_NAMES.get(self._separator, repr(self._separator))
    return columns, f"text separated by {between}" + ("" if self._header else ", without a header")

  def _fields(self, first: str) -> list[str]:
    """The fields of the first line, quoted or not."""
    import pyarrow.csv

    options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
    parsed = pyarrow.csv.read_csv(
      io.BytesIO(first.encode() + b"\n"), options, pyarrow.csv.ParseOptions(delimiter=self._separator),
      pyarrow.csv.ConvertOptions(
        column_types={f"f{place}": pyarrow.string() for place in range(first.count(self._separator) + 1)}
      ),
    )  # fmt: skip
    return [column[0].as_py() for column in parsed.columns]

  def _delimited(self, wanted: list[str]) -> Iterator[Any]:
    import pyarrow.csv

    # Names of our own: the header is the first row, and may name a column twice.
    places = {name: f"f{self.columns.index(name)}" for name in wanted}
    with self._opened() as stream:
      try:
        reader = pyarrow.csv.open_csv(
          stream,
          pyarrow.csv.ReadOptions(
            block_size=_BLOCK_BYTES, encoding=self._encoding, autogenerate_column_names=True, use_threads=False,
            skip_rows_after_names=int(self._header),
          ),
          pyarrow.csv.ParseOptions(delimiter=self._separator, newlines_in_values=True),
          pyarrow.csv.ConvertOptions(
            include_columns=list(places.values()),
            column_types=dict.fromkeys(places.values(), pyarrow.string()),
          ),
        )  # fmt: skip
      except pyarrow.ArrowInvalid as error:
        if "Empty CSV" in str(error):
          return
        raise
      for batch in reader:
        yield batch.rename_columns(wanted)

  def _json_types(self, wanted: list[str], floats: Sequence[str]) -> Any:
    import pyarrow

    fields = []
    for name in wanted:
      kind = self._schema.field(name).type
      # What looks like a date is a text like any other until its column says what it is.
      if pyarrow.types.is_timestamp(kind) or pyarrow.types.is_null(kind):
        kind = pyarrow.string()
      elif pyarrow.types.is_integer(kind) and name in floats:
        kind = pyarrow.float64()
      fields.append((name, kind))
    return pyarrow.schema(fields)

  def _json(self, stream: Any, schema: Any) -> Iterator[Any]:
    import pyarrow.json

    yield from self._json_reader(
      stream, pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    )

  def _json_reader(self, stream: Any, options: Any = None) -> Any:
    import pyarrow.json

    read = pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    return pyarrow.json.open_json(stream, read, options)

  def _parquet(self) -> tuple[list[str], str]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(self.path) as file:
      return list(file.schema_arrow.names), "Parquet"

  def _opened(self) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(self.path), compression=self._compression)

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    """Turns what pyarrow finds wrong into a DataError of one line."""
    import pyarrow

    try:
      yield
    except (pyarrow.ArrowException, OSError, EOFError, UnicodeError, LookupError) as error:
      text = str(error).replace(str(self.path), self.name)
      hint = ""
      if "UTF8" in text:
        hint = self._words.hint("encoding", "latin-1", "; {} reads Western European text that is not UTF-8")
      elif "changed from" in text:
        hint = "; values of a column of JSON are all numbers or all texts"
      raise DataError(f"{self.name}: cannot be read: {terminal.shortened(text, 300)}{hint}") from error


def is_missing(values: Any) -> Any:
  """`[n]` bool, NumPy: where an array has no value, or an empty text."""
  import pyarrow
  import pyarrow.compute

  found = values.is_null().to_numpy(zero_copy_only=False)
  if pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type):
    found = found | pyarrow.compute.equal(values.fill_null(""), "").to_numpy(zero_copy_only=False)
  return found


def as_texts_or_integers(values: Any, what: str) -> Any:
  """A column of ids as a `pyarrow.Array` of strings or of int64, missing ones null or empty.

  Whole numbers that are stored as floats, as they are where a column has gaps, are integers.

  Args:
    values: of any type.
    what: it is, for messages.

  Raises:
    DataError: it is of a type that no ids have.
  """
  import pyarrow
  import pyarrow.compute

  types, kind = pyarrow.types, values.type
  if types.is_dictionary(kind):
    values = values.dictionary_decode()
    kind = values.type
  try:
    if types.is_floating(kind):  # of which some libraries have NaN stand for none
      values = pyarrow.compute.if_else(pyarrow.compute.is_nan(values), pyarrow.scalar(None, kind), values)
    if types.is_uint64(kind):  # some of which no int64 holds
      return values.cast(pyarrow.string())
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
      return values.cast(pyarrow.int64())
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind):
      return values.cast(pyarrow.string())
  except pyarrow.ArrowException as error:
    raise DataError(f"{what}: expected integers or texts: {terminal.shortened(str(error), 200)}") from error
  raise DataError(f"{what} is of the type {kind}; expected integers or texts")


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def described(names: Mapping[str, str]) -> str:
  """`user from 'uid', item from 'vid'`."""
  return ", ".join(f"{role} from {name!r}" for role, name in names.items())
