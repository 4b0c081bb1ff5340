"""Full-ranking metrics: exact ranks without a sort, and the figures made of them. Pure functions of arrays.

The rank of a target is 1 + the candidates that score higher + the other candidates tied with it, so that a model whose
scores have collapsed earns nothing. Candidates are all items less those the user has seen (Krichene and Rendle, KDD
2020, on why the ranking must not be sampled).
"""

from collections.abc import Callable
from collections.abc import Iterator
import functools
from typing import Any

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.rows_in_lines import rows_of
from mlrec.rows_in_lines import RowsInLines

# Scores are computed in tiles of one fixed shape, whatever the chunk, the batch or the device count: a float32 matrix
# product of another shape may differ in its last bit, which would move a rank.
ITEM_TILE = 512
USER_TILE = 128
# The rank of a target that no list can hold: it is among the items excluded from the ranking.
MISS = np.iinfo(np.int32).max
# Places at which hit rate and NDCG are reported, as in the published tables.
CUTOFFS = (10, 20)
# Items recommended to a user where coverage is measured.
LIST_LENGTH = 10
# Buckets of targets by training count: cold, then those with at most so many, then more (upper ends inclusive).
BUCKETS = (5, 20, 50)
# Neighbours whose maximum stands for them while the best items are sought; ITEM_TILE is a power of it.
_FAN = 8
# The list is sought once, among the blocks of so many neighbours with the highest maxima. Of a catalogue of more rows
# their scores are computed again, and not kept: 128 users' scores of these are 32 MiB.
_BLOCK, _MANY_ROWS = 16, 1 << 16
# Items of a chunk at the most where lists are sought: what a core's cache holds of their scores.
_CACHED = 1024


class ScoresNotFinite(ValueError):
  """A model scores NaN or infinity, of which no ranking can be made."""


def target_ranks(states: Array, items: Array, *, targets: Array, seen: Array, chunk: int = 8192) -> Array:
  """The place of each user's target in the full ranking, counted in chunks of the item axis.

  Args:
    states: `[B, D]` user states.
    items: `[N + 1, D]` item vectors; row 0 is the padding and never a candidate.
    targets: `[B]` int in 1..N.
    seen: `[B, H]` int, items excluded from the user's ranking; 0 is filler, repeats count once.
    chunk: items scored at once, rounded up to whole tiles; the result does not depend on it.

  Returns:
    int32 `[B]`, 1 for the best place; `MISS` where the target is among the seen items.

  Raises:
    ScoresNotFinite: a score is NaN or infinite.
    ValueError: a target is no item.
  """
  if chunk < 1:
    raise ValueError(f"chunk must be at least 1, not {chunk}")
  targets = jnp.asarray(targets, jnp.int32)
  if targets.size and not 1 <= int(targets.min()) <= int(targets.max()) < items.shape[0]:
    raise ValueError(f"targets must be items 1 to {items.shape[0] - 1}")
  if not targets.size:
    return jnp.zeros(0, jnp.int32)
  seen = jnp.asarray(seen, jnp.int32)
  ranks, _, finite = rank_and_recommend(states, items, targets, seen, chunk=chunk, length=0)
  if not bool(finite):
    raise ScoresNotFinite(
      "scores are not finite: a user state or an item vector holds NaN or infinity, or is too large"
    )
  return ranks


def dot_scores(states: Array, items: Array) -> Array:
  """Scores `[T, B]` of items `[T, D]` for user states `[B, D]`: their dot products in float32."""
  return items.astype(jnp.float32) @ states.astype(jnp.float32).T


@functools.partial(jax.jit, static_argnames=("chunk", "length", "score", "num_rows", "axis"))
def rank_and_recommend(
  states: Any,
  items: Any,
  targets: Array,
  seen: Array,
  *,
  chunk: int,
  length: int = LIST_LENGTH,
  score: Callable[[Any, Any], Array] = dot_scores,
  num_rows: int | None = None,
  axis: str | None = None,
) -> tuple[Array, Array, Array]:
  """Ranks and recommendations in one pass over the scores, for use inside `jit`.

  Args:
    states: as for `target_ranks`, as are `items`, `targets`, `seen` and `chunk`; with another `score` whatever that
      takes, arrays `[B, ...]` of users and `[N + 1, ...]` of items. Items may lie in lines (`RowsInLines`).
    targets: `[B]`.
    seen: `[B, H]`.
    chunk: items scored at once; where there are lists, 1,024 at the most.
    length: how many items to recommend; 0 for none.
    score: `(states of USER_TILE users, ITEM_TILE items) -> [ITEM_TILE, USER_TILE]` float32.
    num_rows: N + 1 where `items` has rows beyond, which are no candidates.
    axis: within `jax.shard_map`, the axis of the mesh over which `items` is cut; the users are the same along it.

  Returns:
    The ranks, int32 `[B]`; the best items, best first, int32 `[B, length]` (0 where there are too few); and a bool that
    is false if any score may not be finite (those of the padding item do not count where there is another `score`), of
    which each device knows about its own items.
  """
  width = items.width if isinstance(items, RowsInLines) else None
  array = jax.tree.leaves(items)[0]
  in_line = array.shape[1] // width if width else 1
  num_users, rows_here = targets.shape[0], array.shape[0] * in_line
  num_rows = rows_here if num_rows is None else num_rows
  first_row = jax.lax.axis_index(axis) * rows_here if axis else 0
  exist = jnp.clip(num_rows - first_row, 0, rows_here)
  kept = rows_here <= _MANY_ROWS
  chunk = -(-min(chunk, rows_here, _CACHED if length else chunk) // ITEM_TILE) * ITEM_TILE
  chunks = -(-rows_here // chunk)
  # Dot products are bounded by norms; of other scores each is looked at.
  bounded = score is dot_scores
  finite = _dot_scores_are_finite(states, items) if bounded else jnp.asarray(True)

  def in_chunks(x: Array) -> Array:
    x = jnp.pad(x, ((0, (chunks * chunk - rows_here) // in_line),) + ((0, 0),) * (x.ndim - 1))
    return x.reshape(chunks, chunk // ITEM_TILE, ITEM_TILE // in_line, *x.shape[1:])

  def tiles_of(chunk_items: Any) -> Iterator[Any]:
    for n in range(chunk // ITEM_TILE):
      tile = jax.tree.map(lambda x, n=n: x[n], chunk_items)
      yield tile.lines.reshape(ITEM_TILE, width) if width else tile

  table = jax.tree.map(in_chunks, items)
  columns = jnp.arange(USER_TILE)

  def rank_tile(tile: tuple[Any, Any, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    states, own, targets, seen, real = tile
    # A tile of the users' targets gives each target's score by the arithmetic that scores it as a candidate.
    own_items = jax.tree.map(lambda x: jnp.zeros((ITEM_TILE, *x.shape[1:]), x.dtype).at[:USER_TILE].set(x), own)
    threshold = jnp.diagonal(score(states, own_items))
    # From here on an item is its row on this device, of those that are elsewhere a negative one.
    here = lambda ids: jnp.where(ids - first_row < exist, ids - first_row, -1)  # noqa: E731
    targets, excluded = here(targets), here(jnp.concatenate([seen, jnp.zeros_like(targets)[:, None]], axis=1))

    def one_chunk(carry: Any, part: tuple[Array, Any]) -> tuple[Any, Any]:
      count, finite = carry
      first, chunk_items = part
      scores = jnp.concatenate([score(states, tile_items) for tile_items in tiles_of(chunk_items)])
      exists = (first + jnp.arange(chunk) < exist)[:, None]
      if not bounded:
        # Of the padding item, and of no-one, a score need not exist: a cosine divides by their norm.
        candidate = exists & (first_row + first + jnp.arange(chunk) != 0)[:, None]
        finite &= jnp.all(jnp.isfinite(scores) | ~candidate | ~real)
      scores = scores.at[_inside(excluded - first, chunk), columns[:, None]].set(-jnp.inf, mode="drop")
      count += jnp.sum((scores >= threshold) & exists, axis=0, dtype=jnp.int32)
      # The target is no rival of its own: it is left out by its index, whatever the last bit of its score.
      own = scores.at[_inside(targets - first, chunk), columns].get(mode="fill", fill_value=-jnp.inf)
      count -= (own >= threshold).astype(jnp.int32)
      maxima = _maxima(jnp.where(exists, scores, -jnp.inf), _BLOCK) if length else None
      return (count, finite), (maxima, scores if length and kept else None)

    start = jnp.zeros(USER_TILE, jnp.int32), jnp.asarray(True)
    (count, finite), (maxima, scores) = jax.lax.scan(one_chunk, start, (jnp.arange(chunks) * chunk, table))
    best_scores, recommended = jnp.zeros((0, USER_TILE)), jnp.zeros((0, USER_TILE), jnp.int32)
    if length:
      blocks = _places_of_best(maxima.reshape(-1, USER_TILE), length)
      if kept:
        best_scores, recommended = _best_of_kept(scores.reshape(-1, USER_TILE), exist, blocks, length)
      else:
        best_scores, recommended = _best_of_blocks(states, items, exist, blocks, excluded, length, score)
    recommended = jnp.where(best_scores > -jnp.inf, first_row + recommended, 0)
    return count, best_scores.T, recommended.T, finite

  tiles = -(-num_users // USER_TILE)
  real = jnp.ones(num_users, bool)

  def tiled(x: Array) -> Array:
    x = jnp.pad(x, ((0, tiles * USER_TILE - num_users),) + ((0, 0),) * (x.ndim - 1))
    return x.reshape(tiles, USER_TILE, *x.shape[1:])

  own = _rows(items, targets, first_row, rows_here, axis)
  counts, scores, recommended, each_finite = jax.lax.map(
    rank_tile, jax.tree.map(tiled, (states, own, targets, seen, real))
  )
  counts = counts.reshape(-1)[:num_users]
  scores, recommended = (x.reshape(tiles * USER_TILE, length)[:num_users] for x in (scores, recommended))
  if axis:
    counts = jax.lax.psum(counts, axis)
    # In the order of the devices, so that of equal scores the lowest id's comes first.
    scores, recommended = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (scores, recommended))
    best, places = _largest(scores.T, length)
    recommended = jnp.where(best > -jnp.inf, jnp.take_along_axis(recommended.T, places, axis=0), 0).T
  ranks = jnp.where(jnp.any(seen == targets[:, None], axis=1), MISS, 1 + counts)
  return ranks, recommended, finite & jnp.all(each_finite)


@functools.partial(jax.jit, static_argnames=("chunk", "length", "score"))
def best_items(
  states: Any,
  items: Any,
  excluded: Array,
  candidates: Array,
  *,
  chunk: int,
  length: int,
  score: Callable[[Any, Any], Array] = dot_scores,
) -> tuple[Array, Array]:
  """The items of the highest scores, in one pass over the item axis, for use inside `jit`.

  Args:
    states: as for `rank_and_recommend`, as are `items`, `chunk` and `score`.
    items: arrays `[N + 1, ...]`.
    excluded: `[B, H]` int, items that are not for this user; 0 is filler.
    candidates: `[N + 1]` bool, items that are for anybody; the padding item is for nobody.
    chunk: items scored at once.
    length: how many items.
    score: as for `rank_and_recommend`.

  Returns:
    `[B, length]` float32 scores, highest first and of equal ones the lowest id's, -inf where there are too few; and
    their items, int32, 0 there.
  """
  num_users, num_rows = excluded.shape[0], candidates.shape[0]
  chunk = -(-min(chunk, num_rows) // ITEM_TILE) * ITEM_TILE
  chunks = -(-num_rows // chunk)

  def in_chunks(x: Array) -> Array:
    x = jnp.pad(x, ((0, chunks * chunk - num_rows),) + ((0, 0),) * (x.ndim - 1))
    return x.reshape(chunks, chunk // ITEM_TILE, ITEM_TILE, *x.shape[1:])

  table = jax.tree.map(in_chunks, items)
  allowed = in_chunks(candidates.at[0].set(False))
  columns = jnp.arange(USER_TILE)

  def best_of_tile(tile: tuple[Any, Array]) -> tuple[Array, Array]:
    states, excluded = tile

    def one_chunk(best: tuple[Array, Array], part: tuple[Array, Any, Array]) -> tuple[Any, None]:
      first, chunk_items, allowed = part
      # By the arithmetic of the ranking: what it places first comes first here.
      tiles = [jax.tree.map(lambda x, n=n: x[n], chunk_items) for n in range(chunk // ITEM_TILE)]
      scores = jnp.concatenate([score(states, tile_items) for tile_items in tiles])
      scores = jnp.where(allowed.reshape(-1, 1), scores, -jnp.inf)
      scores = scores.at[_inside(excluded - first, chunk), columns[:, None]].set(-jnp.inf, mode="drop")
      return _merge_best(best, scores, first, length), None

    start = jnp.full((length, USER_TILE), -jnp.inf), jnp.zeros((length, USER_TILE), jnp.int32)
    (scores, found), _ = jax.lax.scan(one_chunk, start, (jnp.arange(chunks) * chunk, table, allowed))
    return scores.T, found.T

  tiles = -(-num_users // USER_TILE)

  def tiled(x: Array) -> Array:
    x = jnp.pad(x, ((0, tiles * USER_TILE - num_users),) + ((0, 0),) * (x.ndim - 1))
    return x.reshape(tiles, USER_TILE, *x.shape[1:])

  scores, found = jax.lax.map(best_of_tile, jax.tree.map(tiled, (states, excluded)))
  return scores.reshape(-1, length)[:num_users], found.reshape(-1, length)[:num_users]


def _inside(places: Array, size: int) -> Array:
  """Places within 0..size - 1; all others far outside, where a scatter or gather drops them."""
  return jnp.where((places >= 0) & (places < size), places, size)


def _rows(items: Any, rows: Array, first_row: Array | int, rows_here: int, axis: str | None) -> Any:
  """Rows of `items`, of which this device has `rows_here` from `first_row` on, if they are cut over an axis."""
  found = _read(items, rows - first_row)
  if axis is None:
    return found
  mine = (rows >= first_row) & (rows < first_row + rows_here)
  # But for one device's, all are zeros, which change nothing.
  return jax.lax.psum(jax.tree.map(lambda x: jnp.where(mine.reshape(-1, *[1] * (x.ndim - 1)), x, 0), found), axis)


def _read(items: Any, rows: Array) -> Any:
  """Rows of arrays, each as of `rows_of`."""
  return jax.tree.map(lambda x: rows_of(x, rows), items, is_leaf=lambda x: isinstance(x, RowsInLines))


def _merge_best(best: tuple[Array, Array], scores: Array, first: Array, length: int) -> tuple[Array, Array]:
  """The best `length` of those so far and of a chunk's `scores [chunk, USER_TILE]`."""
  users = jnp.arange(USER_TILE)
  places = _places_of_best(scores, length)
  all_scores = jnp.concatenate([best[0], scores[places, users]])
  all_ids = jnp.concatenate([best[1], first + places])
  top_scores, chosen = _largest(all_scores, length)
  return top_scores, jnp.where(top_scores > -jnp.inf, all_ids[chosen, users], 0)


def _places_of_best(scores: Array, length: int) -> Array:
  """`[length, USER_TILE]`: the places of the highest of each column of `scores [M, USER_TILE]`, highest first.

  A pyramid of maxima over `_FAN` neighbours leads to them: at each level the best lie below the `length` highest.
  """
  levels = [scores]
  while levels[-1].shape[0] > _FAN * _FAN and levels[-1].shape[0] % _FAN == 0:
    levels.append(_maxima(levels[-1], _FAN))
  users = jnp.arange(USER_TILE)
  _, places = _largest(levels.pop(), length)
  while levels:
    level = levels.pop()
    # Ascending: of equal values the first is chosen.
    places = jnp.sort(places, axis=0)
    below = (places[:, None] * _FAN + jnp.arange(_FAN)[:, None]).reshape(-1, USER_TILE)
    _, chosen = _largest(level[below, users], length)
    places = below[chosen, users]
  return places


def _maxima(scores: Array, size: int) -> Array:
  """`[M / size, USER_TILE]`: the highest of each `size` neighbours in a column of `scores [M, USER_TILE]`."""
  parts = scores.reshape(-1, size, USER_TILE)
  # Maxima of slices, not a reduction: a CPU then compares whole vectors.
  return functools.reduce(jnp.maximum, [parts[:, n] for n in range(size)])


def _best_of_kept(scores: Array, exist: Array, blocks: Array, length: int) -> tuple[Array, Array]:
  """As `_best_of_blocks`, of `scores [R, USER_TILE]`, -inf where a row is not for that user."""
  users = jnp.arange(USER_TILE)
  rows = (jnp.sort(blocks, axis=0)[:, None] * _BLOCK + jnp.arange(_BLOCK)[:, None]).reshape(-1, USER_TILE)
  best, places = _largest(jnp.where(rows < exist, scores[rows, users], -jnp.inf), length)
  return best, jnp.where(best > -jnp.inf, rows[places, users], 0)


def _best_of_blocks(
  states: Any, items: Any, exist: Array, blocks: Array, excluded: Array, length: int,
  score: Callable[[Any, Any], Array],
) -> tuple[Array, Array]:  # fmt: skip
  """`[length, USER_TILE]` each: the highest scores of rows of some blocks of neighbours, and the rows.

  They are -inf and 0 where none is left.

  Args:
    states: of the users of a tile.
    items: `[R, ...]`, or in lines.
    exist: how many of its rows are items.
    blocks: `[length, USER_TILE]` for each user the blocks of `_BLOCK` items of the highest maxima, the first of equal
      ones: whatever is among the best lies in them.
    excluded: `[USER_TILE, H]`, rows that are not for this user.
    length: how many items.
    score: as for `rank_and_recommend`.
  """
  # By ascending ids, so that of equal scores the lowest id's comes first.
  ids = (jnp.sort(blocks, axis=0).T[:, :, None] * _BLOCK + jnp.arange(_BLOCK)).reshape(-1)
  tiles = ids.reshape(-1, ITEM_TILE)
  users = (jnp.arange(len(ids)) // (length * _BLOCK)).reshape(tiles.shape)

  def scores_of_tile(tile: tuple[Array, Array]) -> Array:
    ids, users = tile
    # By the arithmetic that has ranked them.
    scores = score(states, _read(items, ids))
    return scores[jnp.arange(ITEM_TILE), users]

  scores = jax.lax.map(scores_of_tile, (tiles, users)).reshape(USER_TILE, -1)
  ids = ids.reshape(USER_TILE, -1)
  allowed = (ids < exist) & ~(ids[:, :, None] == excluded[:, None, :]).any(-1)
  best, places = _largest(jnp.where(allowed, scores, -jnp.inf).T, length)
  return best, jnp.where(best > -jnp.inf, jnp.take_along_axis(ids.T, places, axis=0), 0)


def _largest(values: Array, count: int) -> tuple[Array, Array]:
  """The `count` largest of each column of `values [M, T]` and their places, largest first, `[count, T]` each.

  Taken one by one: on a CPU that is far cheaper than a sort of short columns side by side. Places differ from one
  another also where values are -inf.
  """
  places = jnp.arange(values.shape[0])[:, None]

  def take(carry: tuple[Array, Array], _: None) -> tuple[Any, Any]:
    values, free = carry
    top = jnp.max(values, axis=0)
    place = jnp.min(jnp.where((values == top) & free, places, values.shape[0] - 1), axis=0)
    taken = places == place
    return (jnp.where(taken, -jnp.inf, values), free & ~taken), (top, place)

  _, (tops, where) = jax.lax.scan(take, (values, jnp.ones(values.shape, bool)), length=count)
  return tops, where


def _dot_scores_are_finite(states: Array, items: Array | RowsInLines) -> Array:
  # By Cauchy-Schwarz no score, nor any partial sum of one, passes the product of the largest norms.
  return jnp.isfinite(_largest_norm(states) * _largest_norm(items))


def _largest_norm(vectors: Array | RowsInLines) -> Array:
  """Of the rows of a table."""
  if isinstance(vectors, RowsInLines):
    columns = jnp.split(vectors.lines, vectors.lines.shape[1] // vectors.width, axis=1)
    return jnp.stack([_largest_norm(column) for column in columns]).max()
  return jnp.linalg.norm(vectors.astype(jnp.float32), axis=-1).max()


def hit_rate(ranks: Array | np.ndarray, k: int) -> Array | np.floating:
  """The share of targets within the first `k` places (HR@k; scalar)."""
  return (ranks <= k).mean()


def ndcg(ranks: Array | np.ndarray, k: int) -> Array | np.floating:
  """Mean of 1 / log2(rank + 1) over targets within the first `k` places, 0 for the others (NDCG@k; scalar)."""
  xp = _namespace(ranks)
  gain = 1.0 / xp.log2(ranks.astype(xp.float32) + 1.0)
  return xp.where(ranks <= k, gain, 0.0).mean()


def mean_reciprocal_rank(ranks: Array | np.ndarray) -> Array | np.floating:
  """Mean of 1 / rank over the full ranking (MRR; scalar)."""
  return (1.0 / ranks.astype(_namespace(ranks).float32)).mean()


def all_metrics(
  ranks: np.ndarray, recommended: np.ndarray, target_counts: np.ndarray, num_items: int,
  edges: tuple[int, ...] = BUCKETS,
) -> dict[str, float]:  # fmt: skip
  """All that is reported of an evaluation, as fractions.

  Args:
    ranks: int32 `[B]`.
    recommended: `[B, LIST_LENGTH]` first places' items.
    target_counts: `[B]`, training interactions of each target.
    num_items: items that exist.
    edges: of the buckets, as of `bucket_metrics`.
  """
  figures = ranking_metrics(ranks)
  figures[f"coverage@{LIST_LENGTH}"] = coverage(recommended, num_items)
  return figures | bucket_metrics(ranks, target_counts, edges)


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
  """HR and NDCG at `CUTOFFS`, and MRR, of ranks `[B]`."""
  figures = {}
  for k in CUTOFFS:
    figures[f"hr@{k}"] = float(hit_rate(ranks, k))
    figures[f"ndcg@{k}"] = float(ndcg(ranks, k))
  return figures | {"mrr": float(mean_reciprocal_rank(ranks))}


def bucket_metrics(ranks: np.ndarray, counts: np.ndarray, edges: tuple[int, ...] = BUCKETS) -> dict[str, float]:
  """HR@10, NDCG@10 and the number of targets by how often the target occurs in training.

  Args:
    ranks: int32 `[B]`.
    counts: `[B]`, training interactions of each target; 0 is a cold item.
    edges: inclusive upper ends of the buckets after that of the cold; one more bucket holds the rest.

  Returns:
    `cold/…` for count 0 and `count_1-5/…`, …, `count_51+/…` for the others; a bucket without targets has only its size.
  """
  figures = {}
  edges = (0, *edges)
  place = np.searchsorted(np.asarray(edges), counts, side="left")
  for bucket in range(len(edges) + 1):
    low = edges[bucket - 1] + 1 if bucket else 0
    name = "cold" if not bucket else f"count_{low}-{edges[bucket]}" if bucket < len(edges) else f"count_{low}+"
    inside = ranks[place == bucket]
    figures[f"{name}/targets"] = float(len(inside))
    if len(inside):
      figures[f"{name}/hr@10"] = float(hit_rate(inside, 10))
      figures[f"{name}/ndcg@10"] = float(ndcg(inside, 10))
  return figures


def coverage(recommended: np.ndarray, num_items: int) -> float:
  """The share of `num_items` items that some list of `recommended [B, K]` holds (0 is no item)."""
  return len(np.setdiff1d(recommended, [0])) / num_items


def _namespace(x: Array | np.ndarray) -> Any:
  return np if isinstance(x, np.ndarray) else jnp
