"""Original ids that are texts, and the integers that stand for them."""

from collections.abc import Iterable
from collections.abc import Mapping
import functools
from typing import Any
from typing import Self

import numpy as np

from mlrec.data.interactions import DataError

_PARTS = ("ids", "text", "ends")


class Names:
  """Texts by integer id.

  Attributes:
    ids: `[n]` int64, ascending, each once.
  """

  def __init__(self, ids: np.ndarray, text: np.ndarray, ends: np.ndarray):
    """`text` is all names' UTF-8, uint8, in the order of `ids`, and `ends [n]` int64 where each one's ends.

    Raises:
      DataError: the arrays do not belong together.
    """
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if len(ids) != len(ends) or (ids[1:] <= ids[:-1]).any() or (ends < starts).any():
      raise DataError("names of ids: expected ascending ids and an end of a text for each")
    if text.dtype != np.uint8 or (len(ends) and ends[-1] != len(text)) or (not len(ends) and len(text)):
      raise DataError("names of ids: the texts are not as long as their ends say")
    self.ids, self._text, self._ends = ids.astype(np.int64), text, ends.astype(np.int64)

  @classmethod
  def of(cls, ids: np.ndarray, texts: Iterable[str]) -> Self:
    """The names `texts` of `ids [n]`, in any order.

    Raises:
      DataError: an id occurs twice.
    """
    order = np.argsort(ids, kind="stable")
    listed = list(texts)
    coded = [listed[place].encode(errors="surrogatepass") for place in order]
    ends = np.cumsum([len(text) for text in coded], dtype=np.int64)
    return cls(np.asarray(ids, np.int64)[order], np.frombuffer(b"".join(coded), np.uint8), ends)

  def __len__(self) -> int:
    return len(self.ids)

  def texts(self, ids: np.ndarray) -> list[str]:
    """The names of `ids [n]`.

    Raises:
      KeyError: one has none.
    """
    places = np.searchsorted(self.ids, ids).clip(max=max(len(self.ids) - 1, 0))
    if len(ids) and (not len(self) or (self.ids[places] != ids).any()):
      raise KeyError(ids[0] if not len(self) else ids[np.argmax(self.ids[places] != ids)])
    data = self._text.tobytes() if len(places) > 1000 else self._text
    return [bytes(data[self._start(place) : self._ends[place]]).decode(errors="surrogatepass") for place in places]

  def __contains__(self, text: str) -> bool:
    return text in self._by_text

  def id(self, text: str) -> int:
    """The id of a name.

    Raises:
      KeyError: there is no such name.
    """
    return self._by_text[text]

  def only(self, ids: np.ndarray) -> Self:
    """Those of `ids`, which all have a name."""
    ids = np.unique(ids)
    return type(self).of(ids, self.texts(ids))

  def joined(self, other: Self) -> Self:
    """These and those of `other`, of which ids that have a name here keep it."""
    more = np.setdiff1d(other.ids, self.ids)
    return type(self).of(
      np.concatenate([self.ids, more]), [*self.texts(self.ids), *other.texts(more)]
    )  # fmt: skip

  def arrays(self, prefix: str) -> dict[str, np.ndarray]:
    """What `from_arrays` takes, under names that begin with `prefix`."""
    return {f"{prefix}{name}": part for name, part in zip(_PARTS, (self.ids, self._text, self._ends))}

  @classmethod
  def from_arrays(cls, arrays: Mapping[str, Any], prefix: str) -> Self | None:
    """The names that `arrays` gave; None where there are none under that `prefix`.

    Raises:
      DataError: they are damaged.
    """
    found = [arrays[f"{prefix}{name}"] for name in _PARTS if f"{prefix}{name}" in arrays]
    if not found:
      return None
    if len(found) != len(_PARTS):
      raise DataError(f"names of ids: of {[prefix + name for name in _PARTS]} some are missing")
    return cls(*found)

  def _start(self, place: int) -> int:
    return int(self._ends[place - 1]) if place else 0

  @functools.cached_property
  def _by_text(self) -> dict[str, int]:
    return dict(zip(self.texts(self.ids), self.ids.tolist()))
