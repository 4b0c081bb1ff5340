"""How a workdir's model scores items for histories: one that was trained, or one that is computed at once."""

import abc
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import functools
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec import metrics
from mlrec import metrics_on_host
from mlrec.data.batches import EvalBatch
from mlrec.data.batches import History
from mlrec.data.batches import laid_out
from mlrec.data.batches import Layout
from mlrec.data.interactions import Rows
from mlrec.data.static_shapes import round_up
from mlrec.models.recommenders.recommender import FittedRecommender
from mlrec.runs.fitted import in_chunks

# Users scored at a time: a tile where there are few, and as many as fill all cores where there are many.
_FEW, _MANY = metrics.USER_TILE, 2048
# Items that may be left out of a ranking while many users are scored at a time: their array holds so many of each.
_WIDE = 1 << 15
_CHUNK = 4096
# Of a user who was not in training.
UNKNOWN = -1


class Scorer(abc.ABC):
  """Scores by dense ids.

  Attributes:
    vectors: `[num_items + 1, D]` float32 whose dot products with user states are the scores, the padding item first;
      None where the model has none.
    max_length: items of a history that are read, the newest.
    widths: of arrays of items that are left out, ascending: a program for each is compiled where they do. Otherwise
      there is one for each power of two, and who asks for few users at a time would wait for one after the other.
  """

  widths: Sequence[int] = ()
  vectors: np.ndarray | None = None
  max_length: int

  @abc.abstractmethod
  def best(
    self, histories: Rows, users: np.ndarray, excluded: Rows, candidates: np.ndarray, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """The best items for users.

    Args:
      histories: dense ids, oldest first, at least one and at most `max_length` each.
      users: `[B]` int, their rows in the split, or `UNKNOWN`.
      excluded: dense ids that are not for the user.
      candidates: `[num_items + 1]` bool, items that are for anybody.
      length: how many.

    Returns:
      `[B, length]` float32 scores, highest first and -inf where there are too few; and dense ids, int32, 0 there.
    """

  @abc.abstractmethod
  def ranks(self, histories: Rows, users: np.ndarray, seen: Rows, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of items that users went on to.

    Args:
      histories: as of `best`, as are `users`.
      users: `[B]`.
      seen: dense ids left out of a user's ranking.
      targets: `[B]` dense ids.

    Returns:
      Ranks, int32 `[B]`, and the first places' items, int32 `[B, LIST_LENGTH]`, as of `metrics.rank_and_recommend`.

    Raises:
      ScoresNotFinite: a score is NaN or infinite.
    """

  @abc.abstractmethod
  def scores(self, histories: Rows) -> np.ndarray:
    """`[B, num_items + 1]` float32 for few histories of users who were not in training; column 0 means nothing."""


class FittedScorer(Scorer):
  """Of a model that is computed at once."""

  def __init__(self, model: FittedRecommender, *, num_items: int, max_length: int):
    """`model` is fitted."""
    self._model, self._num_items, self.max_length = model, num_items, max_length

  def best(
    self, histories: Rows, users: np.ndarray, excluded: Rows, candidates: np.ndarray, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    out_of_question = ~candidates
    out_of_question[0] = True

    def best_of_part(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      # Fitted models know no users: rows of the split stand for nobody.
      scores = self._model.scores(histories.take(part), np.maximum(users[part], 0))
      metrics_on_host.require_finite(scores[:, 1:])
      scores[:, out_of_question] = -np.inf
      left_out = excluded.take(part)
      scores[np.repeat(np.arange(len(part)), left_out.lengths), left_out.values] = -np.inf
      return metrics_on_host.best_of_scores(scores, length)

    return in_chunks(best_of_part, len(users), self._num_items)

  def ranks(self, histories: Rows, users: np.ndarray, seen: Rows, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    width = int(seen.lengths.max(initial=0))

    def rank(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      scores = self._model.scores(histories.take(part), np.maximum(users[part], 0))
      return metrics_on_host.rank_scores(scores, targets[part], seen.take(part).padded(width))

    return in_chunks(rank, len(users), self._num_items)

  def scores(self, histories: Rows) -> np.ndarray:
    return self._model.scores(histories, np.zeros(len(histories), np.int64))


class TrainedScorer(Scorer):
  """Of a model that was trained; compiled once for few users, and once for many."""

  def __init__(
    self, graphdef: nnx.GraphDef, params: Any, rest: Any, table: Any, *, num_items: int, max_length: int
  ):  # fmt: skip
    """Takes a model apart into structure, parameters and other variables.

    Args:
      graphdef: of the model, as are `params` and `rest`.
      params: trained.
      rest: the other variables.
      table: `item_vectors` of all items.
      num_items: items that exist, padding not counted.
      max_length: as of `Scorer`.
    """
    self._graphdef, self._params, self._rest, self._table = graphdef, params, rest, table
    self.num_items, self.max_length = num_items, max_length
    model: Any = nnx.merge(graphdef, params, rest, copy=True)
    self._layout = Layout.of(max_length, packed=not model.reads_padding)
    self._by_user, self._by_dot = model.by_user, model.scores_by_dot
    if self._by_dot:
      self.vectors = np.asarray(table, np.float32)

  def best(
    self, histories: Rows, users: np.ndarray, excluded: Rows, candidates: np.ndarray, length: int
  ) -> tuple[np.ndarray, np.ndarray]:
    allowed = jnp.asarray(candidates)
    found = []
    for part, folds, batch in self._batches(histories, users, excluded):
      best = self._best(self._params, self._rest, self._table, self._user_table, batch, allowed, folds, length=length)
      found.append((part, best))
    scores, items = np.empty((len(users), length), np.float32), np.empty((len(users), length), np.int32)
    for part, (best_scores, best_found, finite) in found:
      if not bool(finite):
        raise metrics.ScoresNotFinite("scores are not finite: a user state or an item vector holds NaN or infinity")
      scores[part], items[part] = np.asarray(best_scores)[: len(part)], np.asarray(best_found)[: len(part)]
    return scores, items

  def ranks(self, histories: Rows, users: np.ndarray, seen: Rows, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ranks = np.empty(len(users), np.int32)
    recommended = np.empty((len(users), metrics.LIST_LENGTH), np.int32)
    for part, folds, batch in self._batches(histories, users, seen):
      wanted = np.pad(targets[part], (0, len(batch.targets) - len(part)), constant_values=1).astype(np.int32)
      found, best, finite = self._ranks(
        self._params, self._rest, self._table, self._user_table, batch._replace(targets=wanted), folds
      )
      if not bool(finite):
        raise metrics.ScoresNotFinite("scores are not finite: a user state or an item vector holds NaN or infinity")
      ranks[part], recommended[part] = np.asarray(found)[: len(part)], np.asarray(best)[: len(part)]
    return ranks, recommended

  def scores(self, histories: Rows) -> np.ndarray:
    nobody = Rows.from_lengths(np.empty(0, np.int32), np.zeros(len(histories), np.int64))
    users = np.full(len(histories), UNKNOWN)
    out = np.empty((len(histories), self.num_items + 1), np.float32)
    for part, folds, batch in self._batches(histories, users, nobody):
      found = self._scores(self._params, self._rest, self._table, self._user_table, batch, folds)
      out[part] = np.asarray(found)[:, : len(part)].T
    return out

  def pair_scores(self, histories: Rows, items: np.ndarray) -> np.ndarray:
    """`[B, K]` float32: what a ranker scores the items `items [B, K]` (dense ids) after histories, as of `best`.

    Raises:
      ScoresNotFinite: a score is NaN or infinite.
    """
    out = np.empty(items.shape, np.float32)
    size = _FEW if len(items) <= _FEW else _MANY
    for first in range(0, len(items), size):
      part = np.arange(first, min(first + size, len(items)))
      filler = ((0, size - len(part)), (0, 0))
      read = np.pad(histories.take(part).padded(self.max_length), filler).astype(np.int32)
      found = self._pairs(self._params, self._rest, self._table, read, np.pad(items[part], filler).astype(np.int32))
      out[part] = np.asarray(found)[: len(part)]
    metrics_on_host.require_finite(out)
    return out

  def user_encoder(self) -> Callable[[Array, Array], Array]:
    """A pure function from `vectors [n, D]` of items, the padding item first, and histories `[b, max_length]` int32 of
    places among them, newest last and filled with 0 on the left, to states `[b, D]`.

    A model with a row a user gives what its histories come to (`Recommender.folded`).
    """
    model = self._merged(self._params, self._rest)

    def encode(vectors: Array, history: Array) -> Array:
      row = history[None]
      if self._by_user:
        return model.folded(vectors, row)[0]
      positions = jnp.arange(self.max_length, dtype=jnp.int32)[None]
      nobody, last = jnp.zeros(1, jnp.int32), jnp.full(1, self.max_length - 1, jnp.int32)
      read = History(row, positions, (row != 0).astype(jnp.int32))
      return model.states(vectors, (), EvalBatch(read, last, nobody, nobody[:, None], nobody))[0]

    # One by one: the models' own axes are numbers then, also where that of the users is a symbol.
    return jax.vmap(encode, in_axes=(None, 0))

  def _batches(
    self, histories: Rows, users: np.ndarray, excluded: Rows
  ) -> Iterator[tuple[np.ndarray, np.ndarray, EvalBatch]]:
    """Places of users, `[size]` who of the batch was not trained, and the batch of them."""
    most = int(excluded.lengths.max(initial=0))
    width = next((width for width in self.widths if width >= most), None) or _bucket(most, 16)
    size = _FEW if len(users) <= _FEW or width > _WIDE else _MANY
    for first in range(0, len(users), size):
      part = np.arange(first, min(first + size, len(users)))
      batch_histories = histories.take(part)
      rows = self._layout.place(batch_histories.lengths)[2]
      history, last = laid_out(batch_histories, self._layout, round_up(rows, size // 4))
      filler = ((0, size - len(part)),)
      left_out = excluded.take(part).padded(width).astype(np.int32)
      batch = EvalBatch(
        history,
        np.pad(last, filler).astype(np.int32),
        np.ones(size, np.int32),
        np.pad(left_out, (*filler, (0, 0))),
        np.pad(np.maximum(users[part], 0), filler).astype(np.int32),
      )
      yield part, np.pad(users[part] == UNKNOWN, filler), batch

  @functools.cached_property
  def _user_table(self) -> Any:
    encode = jax.jit(lambda params, rest: self._merged(params, rest).user_table())
    return encode(self._params, self._rest)

  def _merged(self, params: Any, rest: Any) -> Any:
    return nnx.merge(self._graphdef, params, rest, copy=True)

  @functools.cached_property
  def _best(self) -> Callable[..., tuple[Array, Array, Array]]:
    @functools.partial(jax.jit, static_argnames="length")
    def best(
      params: Any,
      rest: Any,
      table: Any,
      user_table: Any,
      batch: EvalBatch,
      candidates: Array,
      folds: Array,
      length: int,
    ) -> tuple[Array, Array, Array]:
      model = self._merged(params, rest)
      states = model.states_or_folded(table, user_table, batch, folds, self.max_length)
      score = metrics.dot_scores if self._by_dot else model.score
      scores, items = metrics.best_items(
        states, table, batch.seen, candidates, chunk=_CHUNK, length=length, score=score
      )  # fmt: skip
      return scores, items, ~jnp.any(jnp.isnan(scores) | jnp.isposinf(scores))

    return best

  @functools.cached_property
  def _ranks(self) -> Callable[..., tuple[Array, Array, Array]]:
    @jax.jit
    def ranks(
      params: Any, rest: Any, table: Any, user_table: Any, batch: EvalBatch, folds: Array
    ) -> tuple[Array, Array, Array]:
      model = self._merged(params, rest)
      states = model.states_or_folded(table, user_table, batch, folds, self.max_length)
      score = metrics.dot_scores if self._by_dot else model.score
      return metrics.rank_and_recommend(states, table, batch.targets, batch.seen, chunk=_CHUNK, score=score)

    return ranks

  @functools.cached_property
  def _pairs(self) -> Callable[..., Array]:
    @jax.jit
    def pairs(params: Any, rest: Any, table: Any, histories: Array, items: Array) -> Array:
      model = self._merged(params, rest)

      # User by user: with all that is between, the pairs of all would not fit memory.
      def of_user(one: tuple[Array, Array]) -> Array:
        history, shown = one
        return model.logits(model.read(table, history[None]), table[shown][None])[0]

      return jax.lax.map(of_user, (histories, items))

    return pairs

  @functools.cached_property
  def _scores(self) -> Callable[..., Array]:
    @jax.jit
    def scores(params: Any, rest: Any, table: Any, user_table: Any, batch: EvalBatch, folds: Array) -> Array:
      model = self._merged(params, rest)
      states = model.states_or_folded(table, user_table, batch, folds, self.max_length)
      return metrics.dot_scores(states, table) if self._by_dot else model.score(states, table)

    return scores


def _bucket(size: int, least: int) -> int:
  """The next power of two, so that few programs serve all sizes."""
  while least < size:
    least *= 2
  return least
