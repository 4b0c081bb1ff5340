"""Evaluation: users' targets ranked among all items, on all devices."""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import dataclasses
import functools
import itertools
import math
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
from mlrec import metrics_by_user
from mlrec import rows_in_lines
from mlrec.content.base import Content
from mlrec.data.batches import eval_batches
from mlrec.data.batches import EvalBatch
from mlrec.data.batches import Layout
from mlrec.data.pipeline import ahead
from mlrec.data.splits import Split
from mlrec.data.static_shapes import round_up
from mlrec.machine import in_order
from mlrec.machine import trim_memory
from mlrec.machine import usable_cores
from mlrec.models.layers import variables
from mlrec.models.layers.tables import item_tables
from mlrec.rows_in_lines import RowsInLines
from mlrec.sharding_rules import AXES
from mlrec.sharding_rules import DATA
from mlrec.sharding_rules import MODEL
from mlrec.train.item_content import reading_options
from mlrec.train.sharding import over_items
from mlrec.train.sharding import put
from mlrec.train.sharding import put_content
from mlrec.train.sharding import replicated
from mlrec.train.sharding import rows_over
from mlrec.train.sharding import Shares
from mlrec.train.summary import Ranked

# Batches of users that may be under way on the devices before what was found of them is looked at.
_BATCHES_IN_FLIGHT = 4
# At the most so many are ranked at the same time, where there are as many cores.
_MOST_AT_ONCE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluator:
  """Ranks and metrics of a model on a split's validation and test targets.

  Attributes:
    graphdef: the model's structure.
    split: users, targets and what is excluded from the ranking.
    layout: how histories are laid out for this model.
    mesh: devices over which users are spread, and items over its axis `model`.
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
    return self.figures(self.found(params, rest, name), name)

  def found(self, params: Any, rest: Any, name: str) -> Any:
    """What `figures` are made of on split `name`."""
    return self.ranks(params, rest, name)

  def figures(self, found: Any, name: str) -> dict[str, float]:
    """Metrics of what was `found` on split `name`, as fractions."""
    counts = self.split.train_counts[self.split.targets(name)]
    users = self.split.evaluated(name) if self.split.several else None
    return metrics_by_user.all_metrics(
      found.ranks, found.recommended, counts, self.split.num_items, self.edges, users=users
    )

  def ranks(self, params: Any, rest: Any, name: str) -> Ranked:
    """The place of each target that split `name` evaluates, and the first places' items of its user.

    A model with a row for each user that it trains on ranks for others by what their histories come to.
    """
    table, users = self.laid(params, rest, self.item_table(params, rest)), self.encode_users(params, rest)
    trained = self.split.trained
    # Where all users were trained, which is the rule, nobody is asked whether he was.
    asked = not trained.all()

    def rank(batch: EvalBatch) -> tuple[Array, Array, Array]:
      folds = put(self.mesh, ~trained[batch.users]) if asked else None
      return self.rank_batch(params, rest, table, users, put(self.mesh, batch), folds)

    batches = eval_batches(self.split, name, self.layout, batch_size=self.batch_size, multiple_of=self.users_multiple)
    ranks, recommended, finite = zip(*self._found(rank, batches))
    if not all(finite):
      raise metrics.ScoresNotFinite("scores are not finite: a user state or an item vector holds NaN or infinity")
    number = len(self.split.evaluated(name))
    return Ranked(np.concatenate(ranks)[:number], np.concatenate(recommended)[:number])

  def _found(self, rank: Callable[[Any], Any], batches: Iterator[Any]) -> Iterator[Any]:
    """What `rank` gives of each batch, on the host; of those that are under way there are not so many as all."""
    if self.mesh.size == 1 and self.mesh.devices.flat[0].platform == "cpu":
      # A CPU does what one thread asks for one after another, and few of its operations on several cores.
      ranked = lambda batch: jax.device_get(rank(batch))  # noqa: E731
      if not self._compiled:
        # By the first batch alone.
        yield from map(ranked, itertools.islice(batches, 1))
        trim_memory()
        self._compiled.append(True)
      yield from in_order(ranked, batches, min(usable_cores(), _MOST_AT_ONCE), ahead=2)
      return
    under_way: collections.deque[Any] = collections.deque()
    for batch in batches:
      under_way.append(rank(batch))
      if len(under_way) > _BATCHES_IN_FLIGHT:
        yield jax.device_get(under_way.popleft())
    yield from map(jax.device_get, under_way)

  def item_table(self, params: Any, rest: Any) -> Any:
    """The vectors `[rows, D]` of all items, the padding item first, cut over the axis `model`.

    A model that does not score by dot products may have several arrays of so many rows.
    """
    if self.content is None:
      return self.encode_all(params, rest)
    number = self.split.num_items + 1
    size = round_up(min(self.item_batch, number), self.mesh.size)
    make = _ItemChunks(self.content, Shares.of(self.mesh), number, size)

    def place(chunk: _ItemChunk) -> tuple[Array, dict[str, Array]]:
      return put(self.mesh, chunk.items), put_content(self.mesh, chunk.items.shape, chunk.content)

    chunks = ahead(make, -(-number // size), place, **reading_options(self.content, self.workers))
    table: Any = None
    for n, chunk in enumerate(chunks):
      vectors = self.encode(params, rest, *chunk)
      if table is None:
        table = self._room(vectors)
      table = self._fill(table, vectors, n * size)
    return table

  def laid(self, params: Any, rest: Any, table: Any) -> Any:
    """A table of `item_table` as `rank_batch` reads it: in lines, if it is narrow and the platform has such.

    One that is cut over devices stays as it is, as it does in training: each has a part.
    """
    lanes = rows_in_lines.lanes_of(self.mesh)
    narrow = isinstance(table, Array) and table.ndim == 2 and rows_in_lines.several_in(table.shape[1], lanes)
    if not narrow or self.mesh.shape[MODEL] > 1 or not nnx.merge(self.graphdef, params, rest, copy=True).reads_lines:
      return table
    return RowsInLines(rows_in_lines.laid(table, lanes), table.shape[1])

  @property
  def users_multiple(self) -> int:
    """The users of a batch are a multiple of it: whole tiles on each device."""
    return math.lcm(self.mesh.shape[DATA] * metrics.USER_TILE, self.mesh.size)

  @property
  def rows(self) -> int:
    """Of arrays with a row for each item: `num_items + 1`, and, if they are cut, some that are nobody's."""
    number = self.split.num_items + 1
    return rows_over(self.mesh, (MODEL,), number) if self.mesh.shape[MODEL] > 1 else number

  @functools.cached_property
  def _compiled(self) -> list[bool]:
    """Holds something once users have been ranked."""
    return []

  @functools.cached_property
  def _room(self) -> Callable[[Any], Any]:
    def room(vectors: Any) -> Any:
      """A table of zeros for vectors of that kind."""
      return jax.tree.map(lambda x: jnp.zeros((self.rows, *x.shape[1:]), x.dtype), vectors)

    return jax.jit(room, out_shardings=over_items(self.mesh))

  @functools.cached_property
  def _fill(self) -> Callable[..., Any]:
    def fill(table: Any, vectors: Any, first: Array) -> Any:
      def one(table: Array, new: Array) -> Array:
        # The last chunk's filler is dropped.
        return table.at[first + jnp.arange(len(new))].set(new, mode="drop", unique_indices=True)

      return jax.tree.map(one, table, vectors)

    return jax.jit(fill, donate_argnums=0, out_shardings=over_items(self.mesh))

  @functools.cached_property
  def encode_all(self) -> Callable[..., Any]:
    """Compiles `(params, rest) -> table` of a model that reads nothing of items."""

    def encode(params: Any, rest: Any) -> Any:
      model = nnx.merge(self.graphdef, params, rest, copy=True)
      for _, table in item_tables(model):
        # All of its rows, in their order: a table that is cut stays where it is.
        table.gathered = table.embedding.shape[0] == self.rows
      return model.item_vectors(jnp.arange(self.rows), {})

    return jax.jit(encode, out_shardings=over_items(self.mesh))

  @functools.cached_property
  def encode(self) -> Callable[..., Any]:
    """Compiles `(params, rest, items [U], content) -> vectors [U, D]`."""

    def encode(params: Any, rest: Any, items: Array, content: Any) -> Any:
      return nnx.merge(self.graphdef, params, rest, copy=True).item_vectors(items, content)

    return jax.jit(encode, out_shardings=replicated(self.mesh))

  @functools.cached_property
  def encode_users(self) -> Callable[..., Any]:
    def encode(params: Any, rest: Any) -> Any:
      return nnx.merge(self.graphdef, params, rest, copy=True).user_table()

    # Rows of users that are cut stay where they are.
    return jax.jit(encode)

  @functools.cached_property
  def rank_batch(self) -> Callable[..., tuple[Array, Array, Array]]:
    users, items, whole = PartitionSpec(DATA), PartitionSpec(MODEL), PartitionSpec()
    cut = self.mesh.shape[MODEL] > 1

    def rank(
      params: Any, rest: Any, states: Any, table: Any, targets: Array, seen: Array
    ) -> tuple[Array, Array, Array]:
      model = nnx.merge(self.graphdef, params, rest, copy=True)
      score = metrics.dot_scores if model.scores_by_dot else model.score
      ranks, recommended, finite = metrics.rank_and_recommend(
        states, table, targets, seen, chunk=self.chunk, score=score, num_rows=self.split.num_items + 1,
        axis=MODEL if cut else None,
      )  # fmt: skip
      return ranks, recommended, jax.lax.pmin(finite.astype(jnp.int32), AXES)

    ranked = jax.shard_map(
      rank, mesh=self.mesh, in_specs=(whole, whole, users, items, users, users), out_specs=(users, users, whole),
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
      return ranked(_without_tables(params), rest, states, table, batch.targets, batch.seen)

    return jax.jit(rank_batch, out_shardings=replicated(self.mesh))


def _without_tables(params: Any) -> Any:
  """The parameters that a score may need, whole on each device: not the rows of items and users."""
  tables = variables.row_owners(params)
  empty = lambda path, x: x[:0] if variables.name_of(path) in tables else x  # noqa: E731
  return jax.tree_util.tree_map_with_path(empty, params)


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
