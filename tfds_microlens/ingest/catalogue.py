"""What a table says of the items of a log: titles, and where their media lie."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

import numpy as np

from mlrec.data.interactions import DataError
from tfds_microlens.ingest import columns as columns_lib
from tfds_microlens.ingest import tables
from tfds_microlens.ingest.columns import ITEM
from tfds_microlens.ingest.columns import TITLE
from tfds_microlens.ingest.ids import IdTable
from tfds_microlens.ingest.settings import Settings
from tfds_microlens.ingest.tables import Table

KINDS = ("cover", "audio", "video")


@dataclasses.dataclass
class Catalogue:
  """What was read.

  Attributes:
    titles: by the code of an item.
    paths: by kind (`cover`, `audio`, `video`), of the kinds that have a column, files by the code of an item.
    rows: of the table.
    others: rows of items that are in no interaction, which are left out.
    again: rows of an item that an earlier one names; the later counts.
    without_id: rows without an id.
  """

  titles: dict[int, str] = dataclasses.field(default_factory=dict)
  paths: dict[str, dict[int, pathlib.Path]] = dataclasses.field(default_factory=dict)
  rows: int = 0
  others: int = 0
  again: int = 0
  without_id: int = 0


def read(
  settings: Settings, items: IdTable, is_kept: np.ndarray, log_column: str, say: Callable[[str], None]
) -> Catalogue:
  """Reads the table of items that `settings` name; an empty catalogue if they name none.

  Args:
    settings: of the table and its columns.
    items: of the log.
    is_kept: `[items]` bool, which of them are left.
    log_column: what the log calls items, which is looked for first.
    say: prints a line.

  Raises:
    DataError: the table cannot be read, or names none of the items.
    PrepareError: which column is the id is not said, or one is named that is not there.
  """
  import pyarrow

  found = Catalogue()
  if not settings.items:
    return found
  table = Table(
    settings.items, header=settings.items_header, separator=settings.items_separator, encoding=settings.encoding,
    words=settings.words, of="items_",
  )  # fmt: skip
  used = _columns(settings, table, log_column)
  say(f"{table.name}: {table.form}; {tables.described(used)}")
  base = pathlib.Path(settings.media).expanduser() if settings.media else table.path.parent
  found.paths = {kind: {} for kind in KINDS if kind in used}
  seen = np.zeros(len(items), bool)
  for chunk in table.rows(list(used.values())):
    ids = tables.as_texts_or_integers(chunk[used[ITEM]], f"{table.name}: column {used[ITEM]!r}")
    missing = tables.is_missing(ids)
    codes = np.full(len(ids), -1, np.int64)
    codes[~missing] = items.find(ids.filter(pyarrow.array(~missing)))
    of_log = codes >= 0
    of_log[of_log] = is_kept[codes[of_log]]
    found.rows += len(ids)
    found.without_id += int(missing.sum())
    found.others += int((~of_log & ~missing).sum())
    places = np.flatnonzero(of_log)
    texts = {role: _texts(chunk[column]) for role, column in used.items() if role != ITEM}
    for place, code in zip(places.tolist(), codes[places].tolist()):
      found.again += bool(seen[code])
      seen[code] = True
      if TITLE in texts:
        found.titles[code] = texts[TITLE][place]
      for kind, paths in found.paths.items():
        if texts[kind][place].strip():
          paths[code] = (base / texts[kind][place]).expanduser()
  if not seen.any():
    shown = ", ".join(map(repr, items.originals(np.flatnonzero(is_kept)[:3])))
    raise DataError(
      f"{table.name}: none of its {found.rows:,} rows names an item of the log in the column {used[ITEM]!r}; ids of "
      f"the log are such as {shown}"
    )
  say(f"{int(seen.sum()):,} of {int(is_kept.sum()):,} items are in it; {found.others:,} others are in no interaction")
  return found


def _columns(settings: Settings, table: Table, log_column: str) -> dict[str, str]:
  """Columns by role: `item`, and those of `title`, `cover`, `audio` and `video` that there are."""
  item = settings.items_id
  if not item:
    item = log_column if table.columns.count(log_column) == 1 else columns_lib.usual(table, ITEM)
    item = item or ("id" if "id" in table.columns else "")
  options = {ITEM: "items_id", TITLE: "title"} | {kind: f"{kind}_path" for kind in KINDS}
  found = {role: getattr(settings, option) for role, option in options.items()} | {ITEM: item}
  found[TITLE] = found[TITLE] or columns_lib.usual(table, TITLE, list(found.values()))
  columns_lib.check(
    table, {options[role]: column for role, column in found.items() if column},
    {} if item else {options[ITEM]: ITEM}, words=settings.words,
  )  # fmt: skip
  return {role: column for role, column in found.items() if column}


def _texts(values: Any) -> list[str]:
  return ["" if value is None else str(value) for value in values.to_pylist()]
