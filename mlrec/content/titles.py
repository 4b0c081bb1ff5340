"""Titles of items, out of a prepared data set or a file of the release, as the token ids that text encoders read."""

from collections.abc import Mapping
import hashlib
import os
import pathlib
from typing import Self

from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.content import modalities
from mlrec.content import tokenizer as tokenizers
from mlrec.content.base import Need
from mlrec.content.base import Source
from mlrec.content.tokenizer import Tokenizer
from mlrec.data import ingested
from mlrec.data.interactions import DataError
from mlrec.registry import OptionError

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
      raise DataError(
        f"{self.source}: item {error.args[0]} is none of the {len(self.items):,} items that have a title"
      ) from error


@modalities.register("title")
class TitleTokens(Source):
  """Token ids of titles, all made at once and kept.

  Attributes:
    source: where the titles are from, for messages.
    length: L, of the arrays read: what was asked for, or less where no title needs as much.
    vocabulary: the tokenizer's.
  """

  key = "content"
  noun = "title"
  example = "microlens/50k-items, or a file, such as MicroLens-50k_titles.csv"
  in_memory = True

  def __init__(self, titles: Titles, tokenizer: Tokenizer, length: int):
    """`length`: the most tokens of a title, special ones included."""
    ids, lengths = tokenizer(titles.read(titles.items), length)
    tokenized = lengths > 0
    if not tokenized.any():
      raise DataError(f"{titles.source}: no title has a token of {tokenizer.path}")
    self.source, self.vocabulary = titles.source, tokenizer.vocabulary
    self.items, self._lengths = titles.items[tokenized], lengths[tokenized]
    self.length = int(self._lengths.max())
    # Half the memory of a million titles.
    smallest = np.uint16 if tokenizer.vocabulary <= 1 << 16 else np.int32
    self._ids = ids[tokenized, : self.length].astype(smallest)
    digest = hashlib.sha256(self.items.astype("<i8").tobytes() + self._lengths.astype("<i4").tobytes())
    digest.update(self._ids.astype("<i4").tobytes())
    self.fingerprint = digest.hexdigest()[:16]

  @classmethod
  def from_config(
    cls,
    data: ConfigDict,
    *,
    encoder: str,
    vocabulary: int,
    length: int,
    tokenizer: str = "",
    weights: str = "",
    lower: bool | None = None,
    bare: bool = False,
  ) -> Self:
    """The titles that `config.data.content` names, as tokens of an encoder.

    Args:
      data: `config.data`.
      encoder: its name, for messages.
      vocabulary: how many token ids it knows.
      length: the most tokens of a title.
      tokenizer: a file or folder; empty for what lies beside the weights.
      weights: the encoder's file; empty for a random start.
      lower: as of `Tokenizer`.
      bare: likewise.

    Raises:
      ConfigError: no titles are named, or the tokenizer is not the encoder's.
      OptionError: there is no tokenizer.
      DataError: titles or tokenizer cannot be read.
    """
    source = cls.named(data)
    if not tokenizer and not weights:
      raise OptionError("tokenizer", f"is empty, and {encoder!r} has no file of weights that one could lie beside")
    found = Tokenizer(tokenizer or tokenizers.beside(weights), lower=lower, bare=bare)
    if found.vocabulary > vocabulary:
      raise ConfigError(
        f"{found.path} has {found.vocabulary:,} tokens, and the encoder {encoder!r} knows {vocabulary:,}: they do not "
        "belong together"
      )
    return cls(open_titles(source, data.data_dir, named=f"config.data.{cls.key}"), found, length)

  def __len__(self) -> int:
    return len(self.items)

  def given(self, need: Need) -> Need:
    return Need((2, self.length), "int32")

  def read(self, ids: np.ndarray) -> np.ndarray:
    """Titles of items by original id, `[n]`, as `[n, 2, L]` int32: token ids, zeros after the last, and their mask.

    Raises:
      DataError: an item has no title.
    """
    ids = np.asarray(ids, np.int64).reshape(-1)
    rows = np.searchsorted(self.items, ids).clip(max=len(self.items) - 1)
    if not (known := self.items[rows] == ids).all():
      raise DataError(
        f"{self.source}: item {ids[~known][0]} is none of the {len(self.items):,} items that have a title"
      )
    mask = np.arange(self.length) < self._lengths[rows, None]
    return np.stack([self._ids[rows], mask], axis=1, dtype=np.int32, casting="unsafe")


def open_titles(source: str, data_dir: str | os.PathLike = "", *, named: str = "config.data.content") -> Titles:
  """The titles that a config names.

  Args:
    source: a TFDS name, `microlens/…-items`, the path of a file of the release, `*.csv`, or that of a folder that
      `mlrec.ingest` has made.
    data_dir: where prepared data sets lie; empty for the default place.
    named: what says it, for messages.

  Raises:
    DataError: there are none, or they are malformed.
  """
  # It brings in TFDS.
  from tfds_microlens import reading

  path = pathlib.Path(source).expanduser()
  try:
    if path.suffix == ".csv" and not path.is_dir():
      return Titles(source, reading.read_title_file(path))
    if source.startswith(_PREPARED) or ingested.is_ingested(source):
      return Titles(source, reading.read_titles(source, os.fspath(data_dir)))
  except DataError as error:
    raise DataError(f"{named}: {error}") from error
  raise DataError(f"{named} = {source!r}: expected {_FORMS}")
