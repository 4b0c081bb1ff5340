"""Original ids of users and items, integers or texts, and the dense ids that stand for them."""

from collections.abc import Iterable
from collections.abc import Sequence
import functools
import re

import numpy as np

from mlrec.data.interactions import DataError
from mlrec.data.names import Names
from mlrec.registry import near

# What a user writes: an integer, or a text.
Id = int | str
_SHOWN = 3
# Characters of a text for which others near to it are sought, and among how many.
_READ, _SOUGHT = 200, 10_000


def listed(ids: Iterable[Id], what: str) -> list[Id]:
  """The ids as a list.

  Args:
    ids: several.
    what: of them, for the message.

  Raises:
    DataError: they are a single one, a text, whose letters are no ids, or nothing that has members.
  """
  if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
    raise DataError(f"expected a list of {what}, such as [{ids!r}], not {ids!r}")
  return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


class OriginalIds:
  """Original ids by dense id.

  Attributes:
    noun: what they are of, for messages.
    values: `[n]` int64 ids, or what stands for texts; of items place 0 is the padding's.
    names: the texts, where ids are texts.
  """

  def __init__(self, noun: str, values: np.ndarray, names: Names | None):
    self.noun, self.values, self.names = noun, values, names

  def __repr__(self) -> str:
    return f"<ids of {len(self._order):,} {self.noun}s, {'texts' if self.are_texts else 'integers'}>"

  def find(self, ids: Sequence[Id] | np.ndarray) -> np.ndarray:
    """`[n]` int64 dense ids of original ones, -1 for those that do not exist.

    An integer may be written as text, without zeros or spaces before it: they are part of an id.
    """
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and self.names is None:
      keys = ids.astype(np.int64)
    else:
      keys = np.fromiter((self._key(one) for one in ids), np.int64, len(ids))
    places = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
    return np.where(self._sorted[places] == keys, self._order[places], -1)

  def dense(self, ids: Iterable[Id]) -> np.ndarray:
    """`[n]` int64 dense ids of original ones.

    Raises:
      DataError: they are no list, or one does not exist; some that do are named, those that may be meant if there are
        such.
    """
    wanted = listed(ids, f"{self.noun} ids")
    found = self.find(wanted)
    if (found < 0).any():
      raise DataError(self.unknown(wanted[int(np.argmin(found))]))
    return found

  def original(self, dense: np.ndarray) -> list[Id]:
    """Original ids of dense ones `[n]`."""
    values = self.values[dense]
    return values.tolist() if self.names is None else list(self.names.texts(values))

  def array(self, dense: np.ndarray) -> np.ndarray:
    """The same as an array: int64, or of texts."""
    if self.names is None:
      return self.values[dense]
    distinct, places = np.unique(dense, return_inverse=True)
    return np.array(self.names.texts(self.values[distinct]), object)[places].reshape(np.shape(dense))

  @property
  def are_texts(self) -> bool:
    return self.names is not None

  @functools.cached_property
  def _order(self) -> np.ndarray:
    order = np.argsort(self.values, kind="stable")
    # No user asks for the padding.
    return order[self.values[order] > 0] if self.noun == "item" else order

  @functools.cached_property
  def _sorted(self) -> np.ndarray:
    return self.values[self._order]

  def _key(self, one: Id) -> int:
    """The integer that an original id is, or that stands for it; -1 for none."""
    text = str(one)
    if self.names is not None:
      return self.names.id(text) if text in self.names else -1
    value = _integer(text)
    return value if str(value) == text else -1

  def _meant(self, one: Id) -> list[str]:
    """Ids that one which does not exist may be a slip of; it takes some tenths of a second."""
    if self.names is None:
      return []
    text = str(one)[:_READ]
    # `clip-99` is no slip of `clip-9`: it is another.
    return [
      other for other in near(text, self.names.texts(self._sorted[:_SOUGHT])) if _numbers(other) == _numbers(text)
    ]

  def _some(self, one: Id) -> list[Id]:
    """Some ids that do exist; of integers those beside one that does not."""
    if self.names is not None:
      return self.original(self._order[:_SHOWN])
    place = int(np.searchsorted(self._sorted, _integer(str(one).strip())))
    return self._sorted[max(min(place - 1, len(self._sorted) - _SHOWN), 0) :][:_SHOWN].tolist()

  def nearest(self, one: Id) -> list[Id]:
    """Ids that exist and may be meant by one that does not; where there are none of these, some that exist."""
    return [*self._meant(one)] or self._some(one)

  def unknown(self, one: Id) -> str:
    """What to say of an id that does not exist."""
    one = one.item() if isinstance(one, np.generic) else one
    if meant := self._meant(one):
      return f"there is no {self.noun} {one!r}; did you mean {' or '.join(map(repr, meant))}?"
    return f"there is no {self.noun} {one!r}; some that exist: {', '.join(map(repr, self._some(one)))}"


def _numbers(text: str) -> list[str]:
  return re.findall(r"\d+", text)


def _integer(text: str) -> int:
  """What digits say; -1 for what is no id."""
  return int(text) if text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63 else -1
