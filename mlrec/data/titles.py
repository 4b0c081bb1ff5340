"""Titles of items, out of a prepared data set or a file of the release."""

from collections.abc import Mapping
import hashlib
import os
import pathlib

import numpy as np

from mlrec.data import microlens
from mlrec.data.interactions import DataError

_PREPARED = "microlens/"
_FORMS = "a prepared data set, such as microlens/50k-items, or the path of a *_titles.csv file"


class Titles:
  """Titles by original id.

  Attributes:
    source: where they are from, for messages.
    items: `[titles]` int64, ascending: original ids of the items that have one. White space alone is none.
    fingerprint: sixteen hexadecimal digits of ids and titles.
  """

  def __init__(self, source: str, titles: Mapping[int, str]):
    """`titles` may be empty ones.

    Raises:
      DataError: all of them are empty.
    """
    self.source = source
    self._titles = {item: titles[item] for item in sorted(titles) if titles[item].strip()}
    if not self._titles:
      raise DataError(f"{source}: none of its {len(titles):,} items has a title")
    self.items = np.fromiter(self._titles, np.int64, len(self._titles))
    digest = hashlib.sha256(self.items.astype("<i8").tobytes())
    for title in self._titles.values():
      text = title.encode(errors="surrogatepass")
      digest.update(len(text).to_bytes(8, "little") + text)
    self.fingerprint = digest.hexdigest()[:16]

  def __len__(self) -> int:
    return len(self._titles)

  def read(self, ids: np.ndarray) -> list[str]:
    """The titles of items, in the order of their original ids.

    Raises:
      DataError: an item has none.
    """
    try:
      return [self._titles[item] for item in np.asarray(ids).reshape(-1).tolist()]
    except KeyError as error:
      near = self.items[np.argmin(np.abs(self.items - error.args[0]))]
      raise DataError(f"{self.source}: item {error.args[0]} has no title; the nearest that has is {near}") from error


def open_titles(source: str, data_dir: str | os.PathLike = "") -> Titles:
  """The titles that `config.data.content` names.

  Args:
    source: a TFDS name, `microlens/…-items`, or the path of a file of the release, `*.csv`.
    data_dir: where prepared data sets lie; empty for the default place.

  Raises:
    DataError: there are none, or they are malformed.
  """
  path = pathlib.Path(source).expanduser()
  if path.suffix == ".csv":
    return Titles(source, microlens.read_title_file(path))
  if source.startswith(_PREPARED):
    return Titles(source, microlens.read_titles(source, os.fspath(data_dir)))
  raise DataError(f"config.data.content = {source!r}: expected {_FORMS}")
