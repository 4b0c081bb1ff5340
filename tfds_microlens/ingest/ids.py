"""Original ids of any kind to dense codes, in the order in which a log first names them."""

import hashlib
from typing import Any

import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.names import Names

_INTEGER = "^[1-9][0-9]{0,18}$"
# Recent ids are merged with the others once they are as many, or a quarter of them.
_FEW = 1 << 16
# Codes are int32.
_MOST = 2**31 - 2
UNKNOWN = -1


class IdTable:
  """Codes 0, 1, … of ids, in the order of their first appearance.

  Ids are integers as long as all of them are positive ones that an int64 holds, written without zeros before them;
  with the first that is not, all of them are texts: "7" and "007" are two.
  """

  def __init__(self) -> None:
    self._integers: _Integers | None = _Integers()
    self._texts: dict[str, int] = {}

  def __len__(self) -> int:
    return len(self._texts) if self._integers is None else len(self._integers)

  @property
  def are_texts(self) -> bool:
    return self._integers is None

  def codes(self, values: Any) -> np.ndarray:
    """`[n]` int32: the codes of ids, new ones included.

    Args:
      values: `pyarrow.Array` of int64 or strings, without nulls.

    Raises:
      DataError: there are more ids than codes.
    """
    integers = None if self.are_texts else _as_integers(values)
    if self._integers is not None and integers is not None:
      found = self._integers.codes(integers)
    else:
      if self._integers is not None:
        self._texts = {str(value): code for code, value in enumerate(self._integers.in_order().tolist())}
        self._integers = None
      texts, places = _encoded(values)
      coded = [self._texts.setdefault(text, len(self._texts)) for text in texts]
      found = np.array(coded, np.int64)[places]
    if len(self) > _MOST:
      raise DataError(f"there are more than {_MOST:,} ids")
    return found.astype(np.int32)

  def find(self, values: Any) -> np.ndarray:
    """`[n]` int64: the codes of ids, -1 for those that are not known.

    Args:
      values: as of `codes`.
    """
    if self._integers is None:
      texts, places = _encoded(values)
      return np.array([self._texts.get(text, UNKNOWN) for text in texts], np.int64)[places]
    integers = _as_integers(values)
    if integers is not None:
      return self._integers.find(integers)
    texts, places = _encoded(values)
    known = [int(text) if text.isascii() and text.isdigit() and text[:1] != "0" else 0 for text in texts]
    found = np.array([value if value < 2**63 else 0 for value in known], np.int64)
    return self._integers.find(found)[places]

  def ids(self, codes: np.ndarray) -> np.ndarray:
    """`[n]` int64: the integers that stand for codes: the ids themselves, or, of texts, digests of them.

    A text has the same integer in every log, so that a run on the next one goes on with its row.

    Raises:
      DataError: two texts have the same digest.
    """
    if self._integers is not None:
      return self._integers.in_order()[codes]
    digests = np.fromiter(map(_digest, self._texts), np.int64, len(self._texts))
    distinct, first = np.unique(digests, return_index=True)
    if len(distinct) < len(digests):
      texts = list(self._texts)
      one = int(np.setdiff1d(np.arange(len(digests)), first)[0])
      other = int(np.flatnonzero(digests == digests[one])[0])
      raise DataError(
        f"the ids {texts[other]!r} and {texts[one]!r} have the same digest of 63 bits: rename one of them"
      )
    return digests[codes]

  def originals(self, codes: np.ndarray) -> list[str]:
    """The ids of codes as texts."""
    if self._integers is not None:
      return [str(value) for value in self._integers.in_order()[codes].tolist()]
    texts = list(self._texts)
    return [texts[code] for code in codes.tolist()]

  def names(self, codes: np.ndarray) -> Names | None:
    """The texts that `ids` of codes stand for; None where ids are integers."""
    return Names.of(self.ids(codes), self.originals(codes)) if self.are_texts else None


def _digest(text: str) -> int:
  """A positive integer of 63 bits."""
  digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
  return int.from_bytes(digest, "little") >> 1 or 1


class _Integers:
  """Codes of integers: sorted arrays, of which the smaller takes what is new."""

  def __init__(self) -> None:
    self._old = self._recent = (np.empty(0, np.int64), np.empty(0, np.int64))

  def __len__(self) -> int:
    return len(self._old[0]) + len(self._recent[0])

  def codes(self, values: np.ndarray) -> np.ndarray:
    distinct, first, places = np.unique(values, return_index=True, return_inverse=True)
    found = self.find(distinct)
    new = np.flatnonzero(found == UNKNOWN)
    new = new[np.argsort(first[new])]
    found[new] = len(self) + np.arange(len(new))
    new.sort()
    self._recent = _merged(self._recent, (distinct[new], found[new]))
    if len(self._recent[0]) > max(_FEW, len(self._old[0]) // 4):
      self._old, self._recent = _merged(self._old, self._recent), (np.empty(0, np.int64), np.empty(0, np.int64))
    return found[places]

  def find(self, values: np.ndarray) -> np.ndarray:
    found = np.full(len(values), UNKNOWN, np.int64)
    for known, codes in (self._old, self._recent):
      if len(known):
        places = np.searchsorted(known, values).clip(max=len(known) - 1)
        found = np.where(known[places] == values, codes[places], found)
    return found

  def in_order(self) -> np.ndarray:
    values, codes = _merged(self._old, self._recent)
    out = np.empty_like(values)
    out[codes] = values
    return out


def _merged(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> Any:
  values = np.concatenate([first[0], second[0]])
  order = np.argsort(values, kind="stable")
  return values[order], np.concatenate([first[1], second[1]])[order]


def _as_integers(values: Any) -> np.ndarray | None:
  """`[n]` int64; None unless all of them are ids that stay integers."""
  import pyarrow
  import pyarrow.compute

  if not pyarrow.types.is_integer(values.type):
    if not pyarrow.compute.all(pyarrow.compute.match_substring_regex(values, _INTEGER), min_count=0).as_py():
      return None
    try:
      values = values.cast(pyarrow.int64())
    except pyarrow.ArrowInvalid:  # beyond 64 bits
      return None
  integers = values.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
  return integers if (integers > 0).all() else None


def _encoded(values: Any) -> tuple[list[str], np.ndarray]:
  """The distinct texts of ids, in the order of their first appearance, and the place of each value among them."""
  import pyarrow

  encoded = values.cast(pyarrow.string()).dictionary_encode()
  return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
