"""What the service knows and answers, without the web: questions by original ids in, plain values for JSON out."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import pathlib
from typing import Any
from typing import NamedTuple
import urllib.parse

import numpy as np

from mlrec import metrics
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.inference.catalogue import Catalogue
from mlrec.inference.original_ids import Id
from mlrec.inference.original_ids import OriginalIds
from mlrec.inference.recommender import EVERYTHING
from mlrec.inference.recommender import Filters
from mlrec.inference.recommender import Recommendations
from mlrec.inference.recommender import Recommender
from mlrec.inference.scorers import UNKNOWN
from mlrec.serving.media import Media

# Questions answered by one call. Of so few users all programs have the same rows, however long their histories are.
MOST_AT_ONCE = metrics.USER_TILE // 4
MOST_ITEMS, MOST_HISTORY = 100, 1000
# What is compiled ahead: lengths of answers, and numbers of items that are left out.
_LENGTHS = (16, 128)
_WIDTHS = (128, 1024)
# Items of a history, the newest, among which reasons are sought, and unknown ids that are told.
_REASONS_AMONG, _UNKNOWN_TOLD = 32, 100
# Items whose descriptions are kept.
_KEPT = 1 << 16
_NO_ITEMS = np.empty(0, np.int32)


class NotKnown(Exception):
  """A user or an item that the run does not know.

  Attributes:
    ids: of which it is none.
    one: as it was asked for.
    before: what to say before it.
  """

  def __init__(self, ids: OriginalIds, one: Id, before: str = ""):
    super().__init__(f"{before}there is no {ids.noun} {one!r}")
    self.ids, self.one, self.before = ids, one, before


class NothingKnown(NotKnown):
  """Of several items that were asked for the run knows none."""


class Question(NamedTuple):
  """What is asked of the model.

  Attributes:
    history: dense ids, int32, oldest first; of `similar` the one item.
    user: row in the split, or `UNKNOWN`.
    k: how many items.
    filters: what may be answered, `only` and `exclude` as tuples.
    why: whether reasons are wanted.
    similar: whether neighbours of the item are asked for.
  """

  history: np.ndarray
  user: int
  k: int
  filters: Filters
  why: bool = False
  similar: bool = False


class Service:
  """Answers about one recommender; all but `answer` and `warm` may be called from any thread.

  Attributes:
    recommender: whose items.
    catalogue: their titles and pictures.
    media: their videos, where there are any.
    name: of the run.
  """

  def __init__(self, recommender: Recommender, catalogue: Catalogue, media: Media | None = None):
    self.recommender, self.catalogue, self.media = recommender, catalogue, media
    self.name = recommender.loaded.workdir.path.resolve().name
    self._kept = functools.lru_cache(_KEPT)(self._describe)

  def facts(self) -> dict[str, Any]:
    """The run, its model, and how many users and items it knows."""
    loaded = self.recommender.loaded
    return {
      "run": self.name,
      "model": str(loaded.config.model.name),
      "users": loaded.split.num_users,
      "items": self.recommender.num_items,
    }

  def question(
    self,
    *,
    user: Id | None = None,
    history: Sequence[Id] = (),
    k: int,
    only: Sequence[Id] | None = None,
    exclude: Sequence[Id] = (),
    seen: bool = False,
    why: bool = False,
  ) -> tuple[Question, list[Id]]:
    """The question for items after a history, or for a user, and ids of items in it that are not known.

    Raises:
      NotKnown: there is no such user.
      NothingKnown: all items of the history, or of `only`, are unknown.
    """
    filters, unknown = self._filters(only, exclude, seen)
    if user is None:
      read, lost = self._known(history, "of the history no item is known: ")
      return Question(read, UNKNOWN, k, filters, why), self._told([*lost, *unknown])
    row = int(self.recommender.users.find([user])[0])
    if row < 0:
      raise NotKnown(self.recommender.users, user)
    rows, users = self.recommender.known_users(np.array([row]))
    return Question(rows[0], int(users[0]), k, filters, why), self._told(unknown)

  def similar(
    self, item: Id, *, k: int, only: Sequence[Id] | None = None, exclude: Sequence[Id] = ()
  ) -> tuple[Question, list[Id]]:
    """The question for neighbours of an item, as `question`.

    Raises:
      NotKnown: there is no such item.
      NothingKnown: of `only` no item is known.
    """
    filters, unknown = self._filters(only, exclude, seen=False)
    return Question(np.array([self.dense(item)], np.int32), UNKNOWN, k, filters, similar=True), self._told(unknown)

  def answer(self, questions: Sequence[Question]) -> list[list[dict[str, Any]] | Exception]:
    """Items for each question, best first: those that are alike by one call of the recommender.

    An error of a question, such as filters that leave nothing, is in the place of its answer.
    """
    alike: dict[tuple[Filters, int, bool], list[int]] = {}
    for place, asked in enumerate(questions):
      alike.setdefault((asked.filters, _length(asked.k), asked.similar), []).append(place)
    answers: list[list[dict[str, Any]] | Exception] = [[] for _ in questions]
    for (filters, length, similar), places in alike.items():
      group = [questions[place] for place in places]
      try:
        found = (self._neighbours if similar else self._recommended)(group, length, filters)
        for row, (place, asked) in enumerate(zip(places, group, strict=True)):
          answers[place] = self._shown(asked, found.dense[row], found.scores[row])
      except DataError as error:
        for place in places:
          answers[place] = error
    return answers

  def warm(self, ending: Callable[[], bool] = lambda: False) -> bool:
    """Compiles what questions run, and looks up what they look up, so that the first is answered like any other.

    Args:
      ending: asked between programs whether it is not worth while any more.

    Returns:
      Whether all is compiled.
    """
    self.recommender.loaded.scorer.widths = _WIDTHS
    self.recommender.items.find([0])
    self.recommender.users.find([0])
    self.listed(0, 1)
    item = np.ones(1, np.int32)
    for length in _LENGTHS:
      asked = [Question(item, UNKNOWN, length, EVERYTHING, similar=True)]
      asked += [
        Question(np.repeat(item, width), user, length, EVERYTHING, why=True)
        for width in _WIDTHS
        for user in (UNKNOWN, 0)
      ]
      for question in asked:
        if ending():
          return False
        (answer,) = self.answer([question])
        if isinstance(answer, Exception):
          raise answer
    return True

  def dense(self, item: Id) -> int:
    """The dense id of an item.

    Raises:
      NotKnown: there is no such item.
    """
    found = int(self.recommender.items.find([item])[0])
    if found < 0:
      raise NotKnown(self.recommender.items, item)
    return found

  def key(self, item: Id) -> int:
    """The integer id by which an item's content is kept; raises as `dense`."""
    return int(self.recommender.items.values[self.dense(item)])

  def described(self, dense: int) -> dict[str, Any]:
    """What is shown of an item: id, title, and where its picture and clip are."""
    return dict(self._kept(dense))

  def _describe(self, dense: int) -> dict[str, Any]:
    (item,) = self.recommender.items.original(np.array([dense]))
    key = int(self.recommender.items.values[dense])
    return {
      "id": item,
      "title": self.catalogue.title(key),
      "picture": _url("pictures", item) if self.catalogue.has_picture(key) else None,
      "media": _url("media", item) if self.media is not None and item in self.media else None,
      "moves": self.catalogue.has_frames(key),
    }

  def item(self, item: Id) -> dict[str, Any]:
    """All that is told of one item; reads its frames, to count them.

    Raises:
      NotKnown: there is no such item.
    """
    dense = self.dense(item)
    found = self.described(dense)
    count = len(self.catalogue.frames(self.key(item)))
    frames = [_url(f"frames/{place}", found["id"]) for place in range(count)]
    return found | {"frames": frames, "watched": int(self._counts[dense])}

  def video(self, item: Id) -> tuple[pathlib.Path, str] | None:
    """The file of an item's video and its media type; None where there is none.

    Raises:
      NotKnown: there is no such item.
    """
    known = self.described(self.dense(item))["id"]
    return self.media.find(known) if self.media is not None else None

  def listed(self, first: int, k: int, text: str = "") -> tuple[list[dict[str, Any]], int | None]:
    """Items by how often they were watched, from place `first` on; and where to go on, None at the end.

    Args:
      first: a place among all items, whatever the text.
      k: how many.
      text: that title or id must hold, whatever its case.
    """
    wanted = text.casefold()
    found: list[dict[str, Any]] = []
    for place in range(first, len(self._popular)):
      dense = int(self._popular[place])
      if not wanted or wanted in self._searched(dense):
        if len(found) == k:
          return found, place
        found.append(self.described(dense))
    return found, None

  def _searched(self, dense: int) -> str:
    (item,) = self.recommender.items.original(np.array([dense]))
    return f"{item} {self.catalogue.title(int(self.recommender.items.values[dense]))}".casefold()

  def _recommended(self, group: Sequence[Question], length: int, filters: Filters) -> Recommendations:
    lengths = np.array([len(asked.history) for asked in group])
    rows = Rows.from_lengths(np.concatenate([asked.history for asked in group]).astype(np.int32), lengths)
    users = np.array([asked.user for asked in group])
    return self.recommender.recommend_dense(rows, users, length, filters)

  def _neighbours(self, group: Sequence[Question], length: int, filters: Filters) -> Recommendations:
    items = self.recommender.items.original(np.array([asked.history[0] for asked in group]))
    return self.recommender.similar(items, length, filters)

  def _shown(self, asked: Question, dense: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    there = np.flatnonzero(dense)[: asked.k]
    shown = [
      self.described(one) | {"score": score} for one, score in zip(dense[there].tolist(), scores[there].tolist())
    ]
    if asked.why and shown:
      newest = self.recommender.items.original(asked.history[-_REASONS_AMONG:])
      for one, near in zip(shown, self.recommender.why(newest, [one["id"] for one in shown])):
        one["why"] = [
          {
            "id": other,
            "title": self.catalogue.title(self.key(other)),
            "nearness": nearness,
            "near": self.recommender.is_near(nearness),
          }
          for other, nearness in near
        ]
    return shown

  def _filters(self, only: Sequence[Id] | None, exclude: Sequence[Id], seen: bool) -> tuple[Filters, list[Id]]:
    """Of items that are known, and ids of those that are not."""
    ids, unknown = self.recommender.items, []
    if only is not None:
      found, lost = self._known(only, "of the items that `only` names none is known: ")
      only, unknown = tuple(ids.original(np.unique(found))), lost
    excluded = ids.find(list(exclude)) if exclude else _NO_ITEMS
    unknown = [*unknown, *(one for one, dense in zip(exclude, excluded) if dense < 0)]
    return Filters(only, tuple(ids.original(np.unique(excluded[excluded > 0]))), seen), unknown

  def _known(self, items: Sequence[Id], before: str) -> tuple[np.ndarray, list[Id]]:
    """Dense ids of those that are known, and ids of those that are not."""
    found = self.recommender.items.find(list(items))
    if not (found > 0).any():
      raise NothingKnown(self.recommender.items, items[0], before)
    return found[found > 0].astype(np.int32), [one for one, dense in zip(items, found) if dense < 0]

  def _told(self, unknown: Sequence[Id]) -> list[Id]:
    return list(dict.fromkeys(unknown))[:_UNKNOWN_TOLD]

  @functools.cached_property
  def _counts(self) -> np.ndarray:
    """`[num_items + 1]`: how often each item was watched."""
    return np.bincount(self.recommender.loaded.split.rows.values, minlength=self.recommender.num_items + 1)

  @functools.cached_property
  def _popular(self) -> np.ndarray:
    return 1 + np.argsort(-self._counts[1:], kind="stable")


def _length(k: int) -> int:
  """The number of items that is computed where `k` are asked for: a program serves several."""
  return next((length for length in _LENGTHS if length >= k), k)


def _url(place: str, item: Id) -> str:
  return f"/{place}/{urllib.parse.quote(str(item), safe='', errors='replace')}"
