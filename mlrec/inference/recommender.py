"""A trained recommender in use: `Recommender.load(workdir)`."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any
from typing import Self

from absl import logging
import numpy as np

from mlrec import metrics
from mlrec import metrics_on_host
from mlrec.config import ConfigError
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.data.names import Names
from mlrec.inference import loading
from mlrec.inference.loading import Loaded
from mlrec.inference.original_ids import Id
from mlrec.inference.original_ids import listed
from mlrec.inference.original_ids import OriginalIds
from mlrec.inference.scorers import FittedScorer
from mlrec.inference.scorers import UNKNOWN

# Users whose recommendations exist at once where there are many.
_AT_ONCE = 1 << 14
# Items whose similarities to all others exist at once.
_ITEMS_AT_ONCE = 256
# What is shown of recommendations where they are looked at.
_ROWS_SHOWN, _ITEMS_SHOWN = 3, 3
# Items whose vectors have no greater cosine are about at right angles, or opposite: that is not near, even if it is the
# nearest that a history has.
_NEAR = 0.05


@dataclasses.dataclass(frozen=True)
class Recommendations:
  """Items for users, or beside items, best first.

  Attributes:
    dense: `[B, K]` int32 dense ids, 0 where there are too few.
    scores: `[B, K]` float32, -inf there; of one model they compare, of two they do not.
    ids: of the items.
  """

  dense: np.ndarray
  scores: np.ndarray
  ids: OriginalIds

  def __repr__(self) -> str:
    rows = [self._shown(row) for row in range(min(len(self), _ROWS_SHOWN))]
    rows += [f"… {len(self) - len(rows):,} more"] if len(rows) < len(self) else []
    return f"<recommendations, {len(self):,} rows: {'; '.join(rows)}>"

  def _shown(self, row: int) -> str:
    """The first items of a row, with their scores."""
    found = [f"{item!r} ({score:.4g})" for item, score in self[row]]
    return ", ".join([*found[:_ITEMS_SHOWN], *(["…"] if len(found) > _ITEMS_SHOWN else [])]) or "none"

  def __len__(self) -> int:
    return len(self.dense)

  def __getitem__(self, row: int) -> list[tuple[Id, float]]:
    """`(original id, score)` of a row's items."""
    dense = self.dense[row]
    found = dense[dense > 0]
    return list(zip(self.ids.original(found), self.scores[row][dense > 0].tolist()))

  def __iter__(self) -> Iterator[list[tuple[Id, float]]]:
    return (self[row] for row in range(len(self)))

  @property
  def items(self) -> list[list[Id]]:
    """Original ids of each row's items."""
    return [[item for item, _ in row] for row in self]


@dataclasses.dataclass(frozen=True)
class Filters:
  """Which items may be recommended, by original id.

  Attributes:
    only: none but these; None for all.
    exclude: not these.
    seen: whether items of the user's own history may be recommended again.

  Raises:
    DataError: `only` or `exclude` is no list of ids, or `seen` neither true nor false.
  """

  only: Iterable[Id] | None = None
  exclude: Iterable[Id] = ()
  seen: bool = False

  def __post_init__(self) -> None:
    for name in ("only", "exclude"):
      ids = getattr(self, name)
      if ids is not None:
        # Kept, so that what can be gone through once serves for each question.
        object.__setattr__(self, name, tuple(listed(ids, f"item ids as {name} of Filters")))
    if not isinstance(self.seen, bool | np.bool):
      raise DataError(f"seen of Filters must be True or False, not {self.seen!r}")


EVERYTHING = Filters()


class Recommender:
  """The best parameters of a run, for any histories of its items.

  Attributes:
    loaded: the run.
    items: original ids of its items.
    users: original ids of its users.
  """

  def __init__(self, loaded: Loaded):
    self.loaded = loaded
    split = loaded.split
    self.items = OriginalIds("item", split.item_ids, split.item_names)
    self.users = OriginalIds("user", split.users, split.user_names)

  def __repr__(self) -> str:
    loaded = self.loaded
    return (
      f"<Recommender of {loaded.workdir}: {loaded.config.model.name!r}, {self.num_items:,} items, "
      f"{loaded.split.num_users:,} users>"
    )

  @classmethod
  def load(cls, workdir: str | os.PathLike[str], *, places: Mapping[str, str] = {}, new_items: bool = False) -> Self:
    """The recommender of a workdir; the log that it was trained on need not be there.

    Vectors of items that had to be encoded from their content are kept in the workdir: the content is read once.

    Args:
      workdir: of `python -m mlrec.main`; of several seeds, the one that validated best is taken.
      places: where content lies now, by key of `config.data`: `content`, `videos`, `features`, `codes`,
        `data_dir`, `features_dir`.
      new_items: also takes the items that the content has and training had not: towers of content encode them, a fused
        ID is the learned absence.

    Raises:
      ConfigError: there is no such run, or it cannot do what is asked.
      DataError: what it keeps, or the content, cannot be read.
      CheckpointError: its checkpoints cannot be read.
    """
    return cls(loading.load(pathlib.Path(workdir).expanduser(), places=places, new_items=new_items))

  @property
  def num_items(self) -> int:
    """Items that can be recommended."""
    return self.loaded.split.num_items

  @property
  def item_vectors(self) -> np.ndarray:
    """`[num_items, D]` float32 in the order of `item_ids`; a user's scores are their dot products with its state.

    Raises:
      ConfigError: the model has none: it does not score by dot products.
    """
    return self._vectors("no item vectors")[1:]

  @property
  def item_ids(self) -> list[Id]:
    """Original ids, one for each of `item_vectors`."""
    return self.items.original(np.arange(1, self.num_items + 1))

  def recommend(self, histories: Sequence[Iterable[Id]], k: int = 10, filters: Filters = EVERYTHING) -> Recommendations:
    """The best items after histories, of users known or not.

    Of each, the newest `config.data.max_length` items are read, and all are left out of the answer. Items that the run
    does not know are passed over, with a warning.

    Args:
      histories: original ids of items, oldest first.
      k: how many items.
      filters: what may be recommended.

    Raises:
      DataError: of a history no item is known, or a filter names an item that is not.
    """
    # What has no members is none of several histories either.
    whole = [histories] if isinstance(histories, str | bytes) or not isinstance(histories, Iterable) else [*histories]
    if any(isinstance(history, str | bytes) or not isinstance(history, Iterable) for history in whole):
      raise DataError("histories must be lists of ids, one for each user: recommend([[3, 4]]), not recommend([3, 4])")
    rows = [listed(history, "item ids") for history in whole]
    lengths = np.array([len(row) for row in rows], np.int64)
    return self.recommend_rows(list(itertools.chain.from_iterable(rows)), lengths, k, filters)

  def recommend_rows(
    self, items: Sequence[Id] | np.ndarray, lengths: np.ndarray, k: int = 10, filters: Filters = EVERYTHING
  ) -> Recommendations:
    """As `recommend`, for histories that lie end to end in `items`, each of one of `lengths [B]`."""
    rows = self.known_items(items, lengths)
    if not rows.lengths.all():
      row = int(np.argmin(rows.lengths))
      first = int(lengths[:row].sum())
      reason = self.items.unknown(items[first]) if lengths[row] else "it is empty"
      raise DataError(f"history {row + 1} of {len(rows)} has no item that the run knows: {reason}")
    warn_of_unknown(rows, lengths)
    return self.recommend_dense(rows, np.full(len(rows), UNKNOWN), k, filters)

  def known_items(self, items: Sequence[Id] | np.ndarray, lengths: np.ndarray) -> Rows:
    """Dense ids (int32) of histories that lie end to end in `items`; those that are not known are left out."""
    found = self.items.find(items)
    rows = Rows.from_lengths(found, lengths).where(found >= 0)
    return Rows(rows.values.astype(np.int32), rows.offsets)

  def known_users(self, rows: np.ndarray) -> tuple[Rows, np.ndarray]:
    """What the run knows of users, by their rows in the split, -1 for nobody: their items, and for which it has a row.

    Returns:
      Dense ids, oldest first, none for nobody; and `[B]`, the row, or `UNKNOWN` of users whom training has not seen.
    """
    split = self.loaded.split
    known = np.maximum(rows, 0)
    there = rows >= 0
    items = split.rows.take(known)
    # Of users whom a split by time has kept from training the model knows no more than of others.
    trained = there & split.trained[known]
    return items.where(np.repeat(there, items.lengths)), np.where(trained, known, UNKNOWN)

  def recommend_users(
    self, users: Iterable[Id] | None = None, k: int = 10, filters: Filters = EVERYTHING
  ) -> Recommendations:
    """The best items for users of the run, after all that it knows of them.

    Args:
      users: original ids; None for all, in the order of `users.values`.
      k: how many items.
      filters: what may be recommended.

    Raises:
      DataError: a user is not known, or an item of a filter is not.
    """
    rows = self.users.dense(users) if users is not None else np.arange(self.loaded.split.num_users)
    return self.recommend_dense(*self.known_users(rows), k, filters)

  def recommend_dense(
    self, rows: Rows, users: np.ndarray, k: int = 10, filters: Filters = EVERYTHING
  ) -> Recommendations:
    """The best items by dense ids, for whoever has looked up original ones.

    Args:
      rows: of at least an item each, oldest first.
      users: `[B]` int, each one's row in the split, or `UNKNOWN` (`mlrec.inference.scorers`) for a history of anybody.
      k: how many items.
      filters: what may be recommended.

    Raises:
      ConfigError: `k` is no integer, or less than 1.
      DataError: an item of a filter is not known, or no item is left.
    """
    candidates = self._candidates(filters)
    k = min(_number("k", k), self.num_items)
    scores, found = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int32)
    inputs = rows.last(self.loaded.scorer.max_length)
    nothing = Rows.from_lengths(np.empty(0, np.int32), np.zeros(len(rows), np.int64))
    excluded = nothing if filters.seen else _distinct(rows, self.num_items)
    for first in range(0, len(rows), _AT_ONCE):
      part = np.arange(first, min(first + _AT_ONCE, len(rows)))
      scores[part], found[part] = self.loaded.scorer.best(
        inputs.take(part), users[part], excluded.take(part), candidates, k
      )
    return Recommendations(found, scores, self.items)

  def similar(self, items: Iterable[Id], k: int = 10, filters: Filters = EVERYTHING) -> Recommendations:
    """The nearest neighbours of items: by the cosine of their vectors, or, of models without, for a history of one.

    Args:
      items: original ids.
      k: how many neighbours.
      filters: which may be neighbours; an item is none of its own.
    """
    dense = self.items.dense(items)
    own = Rows.from_lengths(dense.astype(np.int32), np.ones(len(dense), np.int64))
    if self.loaded.scorer.vectors is None:
      return self.recommend_dense(own, np.full(len(dense), UNKNOWN), k, dataclasses.replace(filters, seen=False))
    candidates, k = self._candidates(filters), min(_number("k", k), self.num_items)
    best, found = np.empty((len(dense), k), np.float32), np.empty((len(dense), k), np.int32)
    for first in range(0, len(dense), _ITEMS_AT_ONCE):
      part = dense[first : first + _ITEMS_AT_ONCE]
      scores = self._unit_vectors[part] @ self._unit_vectors.T
      scores[:, ~candidates] = -np.inf
      scores[np.arange(len(part)), part] = -np.inf
      best[first : first + len(part)], found[first : first + len(part)] = metrics_on_host.best_of_scores(scores, k)
    return Recommendations(found, best, self.items)

  def why(self, history: Iterable[Id], items: Sequence[Id], most: int = 2) -> list[list[tuple[Id, float]]]:
    """For each of some recommended items, the items of a history that are nearest to it.

    Args:
      history: original ids, oldest first.
      items: original ids.
      most: how many items of the history each is given.

    Returns:
      Of each item `(original id, nearness)`, nearest first: the cosine of the two vectors, or, of models without, the
      item's score after a history of that one item.
    """
    most = _number("most", most)
    read = np.unique(self.items.find(listed(history, "item ids")))
    read = read[read > 0]
    wanted = self.items.dense(items)
    if self.loaded.scorer.vectors is None:
      alone = Rows.from_lengths(read.astype(np.int32), np.ones(len(read), np.int64))
      nearness = self.loaded.scorer.scores(alone)[:, wanted].T
    else:
      nearness = self._unit_vectors[wanted] @ self._unit_vectors[read].T
    order = np.argsort(-nearness, axis=1, kind="stable")[:, :most]
    return [
      list(zip(self.items.original(read[places]), nearness[row, places].tolist())) for row, places in enumerate(order)
    ]

  def is_near(self, nearness: float) -> bool:
    """Whether an item of such a nearness, as `why` has it, may be called near."""
    if self.loaded.scorer.vectors is not None:
      return nearness > _NEAR
    # Scores of fitted models are 0 where items have nothing to do with each other; others have a level of their own.
    return nearness > 0 or not isinstance(self.loaded.scorer, FittedScorer)

  def evaluate(self, interactions: Interactions) -> dict[str, float]:
    """Metrics of the last item of each user of a log, after the items before it, among all items.

    Items that the run does not know are left out of histories; users of whom less than an item and a target is left are
    not counted. A user of the run, by original id, is the one that it knows.

    Args:
      interactions: under original ids, such as those of the days after training (`mlrec.data.read_pairs`).

    Returns:
      As of `mlrec.metrics.all_metrics`, and `users`, how many were counted.

    Raises:
      DataError: nobody is left.
    """
    if not isinstance(interactions, Interactions):
      raise DataError(
        f"expected interactions, such as those that mlrec.data.read_pairs returns, not {type(interactions).__name__}"
      )
    whom, rows = self._known_rows(interactions)
    counted = rows.lengths >= 2
    if not counted.any():
      raise DataError(f"{interactions.source}: no user has two items that the run knows")
    whom, rows = whom[counted], rows.take(counted)
    targets = rows.values[rows.offsets[1:] - 1]
    before = rows.last(int(rows.lengths.max()), before=1)
    inputs = before.last(self.loaded.scorer.max_length)
    ranks, recommended = self.loaded.scorer.ranks(inputs, whom, before, targets)
    counts = self.loaded.split.train_counts[targets]
    found = metrics.all_metrics(ranks, recommended, counts, self.num_items, self.loaded.config.eval.buckets)
    return {"users": float(len(rows)), **found}

  def _known_rows(self, interactions: Interactions) -> tuple[np.ndarray, Rows]:
    """Of each user of a log its row in the split, or `UNKNOWN`, and the dense ids of the items that the run knows."""

    def texts(ids: np.ndarray, names: Names | None) -> Any:
      return ids if names is None else names.texts(ids)

    _, whom = self.known_users(self.users.find(texts(interactions.users, interactions.user_names)))
    histories = interactions.histories
    return whom, self.known_items(texts(histories.values, interactions.item_names), histories.lengths)

  def history(self, user: Id) -> list[Id]:
    """What the run knows that a user watched, oldest first.

    Raises:
      DataError: the user is not known.
    """
    (row,) = self.users.dense([user])
    return self.items.original(self.loaded.split.rows[int(row)])

  def encode_items(self, items: Iterable[Id]) -> np.ndarray:
    """Vectors `[n, D]` float32 of items, those of new ones by their content (`load(…, new_items=True)`)."""
    return self._vectors("no item vectors")[self.items.dense(items)]

  def _candidates(self, filters: Filters) -> np.ndarray:
    """`[num_items + 1]` bool."""
    if not isinstance(filters, Filters):
      raise DataError(f"filters must be a mlrec.Filters, such as mlrec.Filters(exclude=[3]), not {filters!r}")
    allowed = np.ones(self.num_items + 1, bool)
    if filters.only is not None:
      allowed[:] = False
      allowed[self.items.dense(filters.only)] = True
    allowed[self.items.dense(filters.exclude)] = False
    allowed[0] = False
    if not allowed.any():
      raise DataError("the filters leave no item to recommend")
    return allowed

  def _vectors(self, what: str) -> np.ndarray:
    vectors = self.loaded.scorer.vectors
    if vectors is None:
      raise ConfigError(
        f"config.model.name = {self.loaded.config.model.name!r} has {what}: it does not score by dot products"
      )
    return vectors

  @functools.cached_property
  def _unit_vectors(self) -> np.ndarray:
    vectors = self._vectors("no item vectors")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _distinct(rows: Rows, num_items: int) -> Rows:
  """The rows, where one is longer than all `num_items` are many: without the values that a row has twice."""
  if int(rows.lengths.max(initial=0)) <= num_items:
    return rows
  which = np.repeat(np.arange(len(rows)), rows.lengths)
  row, values = np.divmod(np.unique(which * (num_items + 1) + rows.values), num_items + 1)
  return Rows.from_lengths(values.astype(np.int32), np.bincount(row, minlength=len(rows)))


def _number(name: str, value: int) -> int:
  """The value, which must be an integer of at least 1."""
  if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
    raise ConfigError(f"{name} = {value!r}: expected an integer of at least 1")
  return int(value)


def warn_of_unknown(rows: Rows, lengths: np.ndarray) -> None:
  """Logs how many items of histories, of `lengths [B]`, are not among those that are known, `rows`."""
  given = int(lengths.sum())
  if lost := given - len(rows.values):
    logging.warning("%d of %d items of the histories are not known, and passed over.", lost, given)
