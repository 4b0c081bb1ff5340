"""Labels of items: what a file says each of them shows, to pre-train an encoder of their content on."""

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
from typing import Self

import numpy as np

from mlrec.data.interactions import DataError
from mlrec.registry import near_file

# A label that an item does not have.
NONE = -1
_ITEM = "item"
_LARGEST_ID = 2**63 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
  """One class, or none, of each label for each of N items.

  Attributes:
    items: `[N]` int64, original ids, ascending.
    classes: the classes of each of the L labels by its name, in the order of their codes.
    codes: `[N, L]` int32, places among the classes; `NONE` where an item has none.
  """

  items: np.ndarray
  classes: Mapping[str, Sequence[str]]
  codes: np.ndarray

  @classmethod
  def of(
    cls, items: Sequence[int] | np.ndarray, values: Mapping[str, Sequence[str]], *, source: str = "labels"
  ) -> Self:
    """The labels of items.

    Args:
      items: `[N]` original ids, in any order.
      values: `[N]` classes by the name of the label; empty for none.
      source: where they are from, for messages.

    Raises:
      DataError: an item is named twice, there is no label, or one has fewer than two classes.
    """
    ids = np.asarray(items, np.int64)
    order = np.argsort(ids, kind="stable")
    if len(twice := np.flatnonzero(np.diff(ids[order]) == 0)):
      raise DataError(f"{source}: item {ids[order][twice[0]]} is named twice")
    if not values:
      raise DataError(f"{source}: there is no label: expected a column for each beside {_ITEM!r}")
    classes = {name: sorted(set(column) - {""}) for name, column in values.items()}
    for name, found in classes.items():
      if len(found) < 2:
        raise DataError(f"{source}: the label {name!r} has {len(found)} classes, and there is nothing to tell apart")
    places = {name: {one: place for place, one in enumerate(found)} for name, found in classes.items()}
    codes = [[places[name].get(value, NONE) for value in column] for name, column in values.items()]
    return cls(ids[order], classes, np.array(codes, np.int32).reshape(len(classes), len(ids)).T[order])

  @property
  def fingerprint(self) -> str:
    """Sixteen hexadecimal digits of all of it."""
    digest = hashlib.sha256(json.dumps({name: list(found) for name, found in self.classes.items()}).encode())
    digest.update(self.items.astype("<i8").tobytes() + self.codes.astype("<i4").tobytes())
    return digest.hexdigest()[:16]

  def kept(self, items: np.ndarray) -> Self:
    """Those of the items that are among `items` and have a label."""
    keep = np.isin(self.items, items) & (self.codes != NONE).any(axis=1)
    return dataclasses.replace(self, items=self.items[keep], codes=self.codes[keep])


def read_labels(path: str | os.PathLike[str]) -> Labels:
  """Reads a CSV file of labels: a header `item,shape,colour,…`, then a line an item, with empty cells for no class.

  Raises:
    DataError: the file is missing, or a line is malformed (its number is named); or as of `Labels.of`.
  """
  path = pathlib.Path(path).expanduser()
  items: list[int] = []
  columns: dict[str, list[str]] = {}
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file)
      header = [name.strip() for name in next(reader, [])]
      if header[:1] != [_ITEM] or not all(header) or len(set(header)) < len(header):
        raise DataError(f"{path}: line 1 must be a header of distinct names, {_ITEM!r} first, not {header[:8]}")
      columns = {name: [] for name in header[1:]}
      for line in filter(None, reader):
        if len(line) != len(header):
          raise DataError(f"{path}: line {reader.line_num} has {len(line)} cells, and the header has {len(header)}")
        items.append(_id(line[0], f"{path}: line {reader.line_num}"))
        for name, value in zip(columns, line[1:]):
          columns[name].append(value.strip())
  except FileNotFoundError as error:
    raise DataError(f"{path}: there is no such file{near_file(path)}") from error
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise DataError(f"{path} cannot be read as a CSV file of labels: {error}") from error
  return Labels.of(items, columns, source=str(path))


def _id(text: str, place: str) -> int:
  text = text.strip()
  if not (text.isascii() and text.isdecimal() and 0 < int(text[:20]) <= _LARGEST_ID and len(text) < 20):
    raise DataError(f"{place}: an item is a whole number from 1 on, not {text[:40]!r}")
  return int(text)
