"""Evaluation: users' targets ranked among all items, on all devices."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec
import numpy as np

from mlrec import metrics
from mlrec.content.base import Content
from mlrec.data.batches import eval_batches
from mlrec.data.batches import EvalBatch
from mlrec.data.batches import Layout
from mlrec.data.pipeline import ahead
from mlrec.data.splits import Split
from mlrec.data.static_shapes import round_up
from mlrec.train.item_content import reading_options
from mlrec.train.sharding import DATA
from mlrec.train.sharding import put
from mlrec.train.sharding import put_content
from mlrec.train.sharding import replicated
from mlrec.train.sharding import Shares
from mlrec.train.summary import Ranked

# Batches of users that may be under way on the devices before what was found of them is looked at.
_BATCHES_IN_FLIGHT = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
  """Ranks and metrics of a model on a split's validation and test targets.

  Attributes:
    graphdef: the model's structure.
    split: users, targets and what is excluded from the ranking.
    layout: how histories are laid out for this model.
    mesh: devices over which users are spread.
    batch_size: users ranked at a time.
    chunk: items scored at a time.
    content: what the item tower reads beside ids; None for nothing.
    item_batch: items encoded at a time where there is content.
    edges: of the buckets of targets, as of `metrics.bucket_metrics`.
    workers: processes that decode content; 0 for threads.
  """

  graphdef: nnx.GraphDef
  split: Split
  layout: Layout
  mesh: Mesh
  batch_size: int
  chunk: int
  content: Content | None = None
  item_batch: int = 64
  edges: tuple[int, ...] = metrics.BUCKETS
  workers: int = 0

  def __call__(self, params: Any, rest: Any, name: str) -> dict[str, float]:
    """Metrics of the parameters on split `name` (`valid` or `test`), as fractions.

    Raises:
      ScoresNotFinite: a score is NaN or infinite.
    """
    return self.figures(self.ranks(params, rest, name), name)

  def figures(self, ranked: Ranked, name: str) -> dict[str, float]:
    """Metrics of what `ranks` found on split `name`, as fractions."""
    counts = self.split.train_counts[self.split.targets(name)]
    return metrics.all_metrics(*ranked, counts, self.split.num_items, self.edges)

  def ranks(self, params: Any, rest: Any, name: str) -> Ranked:
    """The place of the target of each user that split `name` evaluates, and the first places' items.

    A model with a row for each user that it trains on ranks for others by what their histories come to.
    """
    table, users = self.item_table(params, rest), self.encode_users(params, rest)
    trained = self.split.trained
    outputs: list[Any] = []
    # Where all users were trained, which is the rule, nobody is asked whether he was.
    asked = not trained.all()
    for batch in eval_batches(
      self.split, name, self.layout, batch_size=self.batch_size, multiple_of=self.mesh.size * metrics.USER_TILE
    ):
      folds = put(self.mesh, ~trained[batch.users]) if asked else None
      outputs.append(self.rank_batch(params, rest, table, users, put(self.mesh, batch), folds))
      if len(outputs) > _BATCHES_IN_FLIGHT:
        # What is asked of the devices must not be all users.
        outputs[-1 - _BATCHES_IN_FLIGHT] = jax.device_get(outputs[-1 - _BATCHES_IN_FLIGHT])
    ranks, recommended, finite = zip(*jax.device_get(outputs))
    if not all(finite):
      raise metrics.ScoresNotFinite("scores are not finite: a user state or an item vector holds NaN or infinity")
    number = len(self.split.evaluated(name))
    return Ranked(np.concatenate(ranks)[:number], np.concatenate(recommended)[:number])

  def item_table(self, params: Any, rest: Any) -> Any:
    """The vectors `[num_items + 1, D]` of all items, the padding item first, on every device.

    A model that does not score by dot products may have several arrays of `num_items + 1` rows.
    """
    number = self.split.num_items + 1
    if self.content is None:
      return self.encode(params, rest, jnp.arange(number), {})
    size = round_up(min(self.item_batch, number), self.mesh.size)
    make = _ItemChunks(self.content, Shares.of(self.mesh), number, size)

    def place(chunk: _ItemChunk) -> tuple[Array, dict[str, Array]]:
      return put(self.mesh, chunk.items), put_content(self.mesh, chunk.items.shape, chunk.content)

    chunks = ahead(make, -(-number // size), place, **reading_options(self.content, self.workers))
    parts = [self.encode(params, rest, *chunk) for chunk in chunks]
    return jax.tree.map(lambda *cut: self._join(cut)[:number], *parts)

  @functools.cached_property
  def _join(self) -> Callable[..., Array]:
    return jax.jit(jnp.concatenate, out_shardings=replicated(self.mesh))

  @functools.cached_property
  def encode(self) -> Callable[..., Any]:
    def encode(params: Any, rest: Any, items: Array, content: Any) -> Any:
      return nnx.merge(self.graphdef, params, rest, copy=True).item_vectors(items, content)

    return jax.jit(encode, out_shardings=replicated(self.mesh))

  @functools.cached_property
  def encode_users(self) -> Callable[..., Any]:
    def encode(params: Any, rest: Any) -> Any:
      return nnx.merge(self.graphdef, params, rest, copy=True).user_table()

    return jax.jit(encode, out_shardings=replicated(self.mesh))

  @functools.cached_property
  def rank_batch(self) -> Callable[..., tuple[Array, Array, Array]]:
    users, whole = PartitionSpec(DATA), PartitionSpec()

    def rank(
      params: Any, rest: Any, states: Any, table: Any, targets: Array, seen: Array
    ) -> tuple[Array, Array, Array]:
      model = nnx.merge(self.graphdef, params, rest, copy=True)
      score = metrics.dot_scores if model.scores_by_dot else model.score
      ranks, recommended, finite = metrics.rank_and_recommend(
        states, table, targets, seen, chunk=self.chunk, score=score
      )
      return ranks, recommended, jax.lax.pmin(finite.astype(jnp.int32), DATA)

    ranked = jax.shard_map(
      rank, mesh=self.mesh, in_specs=(whole, whole, users, whole, users, users), out_specs=(users, users, whole),
      check_vma=False,
    )  # fmt: skip

    def rank_batch(
      params: Any, rest: Any, table: Any, user_table: Any, batch: EvalBatch, folds: Array | None
    ) -> tuple[Array, Array, Array]:
      model = nnx.merge(self.graphdef, params, rest, copy=True)
      if folds is None:
        states = model.states(table, user_table, batch)
      else:
        states = model.states_or_folded(table, user_table, batch, folds, self.layout.max_length)
      return ranked(params, rest, states, table, batch.targets, batch.seen)

    return jax.jit(rank_batch, out_shardings=replicated(self.mesh))


class _ItemChunk(NamedTuple):
  """Dense ids `[size]`, 0 after the last, and their content by shares."""

  items: np.ndarray
  content: dict[int, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class _ItemChunks:
  """All items from 0 to `number` - 1 in chunks of `size`, by their number; picklable."""

  content: Content
  shares: Shares
  number: int
  size: int

  def __call__(self, chunk: int) -> _ItemChunk:
    items = np.arange(chunk * self.size, (chunk + 1) * self.size)
    items = np.where(items < self.number, items, 0)
    return _ItemChunk(items, self.shares.read(self.content, items))
