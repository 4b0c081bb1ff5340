"""The bipartite graph of training interactions: sums over neighbours, attention, and their gradients.

Users and items are its nodes, and each training interaction is an edge (one that a row holds twice is two). Edges are
index arrays in the order of their targets; no matrix of users by items exists. A sum over neighbours is linear in the
nodes' vectors, and its transpose is the sum along the same edges turned round: gradients are such sums as well, also in
the order of their targets, not scatters in any order.

Sums have two forms. The default gathers the sources' vectors and adds them by `jax.ops.segment_sum` over sorted
segments. On a CPU that writes and reads `[edges, D]` numbers, which takes far longer than the sum: a loop over edges
that adds a row to a row is compiled to vector arithmetic in place there. On MicroLens-50k's 239,511 edges at D = 64,
one of two cores (`benchmarks/graph_sums.py`): 5 ms by the loop, 60 by segments, 40 or more by neighbours padded to
powers of two, 200 by differences of running sums, which lose digits besides. Of `jax.experimental.sparse`, BCSR's
product equals the loop, but its gradients are scatters and take 1.3 to 3 times as long as ours; BCOO's product
takes 40 ms or more. On a GPU a loop over edges would be one launch an edge.
"""

from collections.abc import Callable
import functools
from typing import Any
from typing import NamedTuple

from einops import rearrange
from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.layers.platforms import by_platform
from mlrec.models.layers.variables import DataArray

# Partial sums of a dot product that are kept apart, so that a CPU adds whole vectors.
_LANES = 16


class Edges(NamedTuple):
  """E edges in one direction, in the order of their targets.

  Attributes:
    sources: `[E]` int32.
    targets: `[E]` int32, ascending.
    places: `[E]` int32, where each edge stands among the same edges turned round.
  """

  sources: Array
  targets: Array
  places: Array


class Graph(nnx.Module):
  """Users 0 to `num_users` - 1, items 0 to `num_items` (0, the padding, has no edge), and an edge an interaction.

  What is said of edges, `[E]`, is in the order of users or of items; `by_item` turns the first into the second.
  """

  def __init__(self, degrees: np.ndarray, items: np.ndarray, num_items: int):
    """The edges of users' rows.

    Args:
      degrees: `[num_users]` int, the length of each user's row.
      items: `[E]` int, the rows end to end: items 1 to `num_items`.
      num_items: items that exist, padding not counted.

    Raises:
      ValueError: the rows do not fit, hold nothing, or hold another item.
    """
    degrees, items = np.asarray(degrees), np.asarray(items)
    if degrees.sum() != len(items):
      raise ValueError(f"a graph of users with {degrees.sum()} items in all was given {len(items)}")
    if not items.size:
      raise ValueError("there is no training interaction to make a graph of")
    if not 1 <= items.min() <= items.max() <= num_items:
      raise ValueError(f"training rows must hold items 1 to {num_items}, not {items.min()} to {items.max()}")
    self.num_users, self.num_items = len(degrees), num_items
    users = np.repeat(np.arange(self.num_users, dtype=np.int32), degrees)
    order = np.argsort(items, kind="stable").astype(np.int32)
    places = np.empty_like(order)
    places[order] = np.arange(len(order), dtype=np.int32)
    self._users, self._items = _data(users), _data(items.astype(np.int32))
    self._item_users, self._item_items = _data(users[order]), _data(items[order].astype(np.int32))
    self._order, self._places = _data(order), _data(places)
    self._user_degrees = _data(degrees.astype(np.float32))
    self._item_degrees = _data(np.bincount(items, minlength=num_items + 1).astype(np.float32))

  @property
  def user_degrees(self) -> Array:
    """`[num_users]` float32: each user's edges."""
    return self._user_degrees[...]

  @property
  def item_degrees(self) -> Array:
    """`[num_items + 1]` float32: each item's edges."""
    return self._item_degrees[...]

  def to_users(self, items: Array, weights: Array | None = None) -> Array:
    """Each user's sum `[num_users, D]` of its items' vectors `[num_items + 1, D]`.

    Args:
      items: float32.
      weights: `[E]` float32, a factor for each edge, in the order of users; None for 1.
    """
    return self._sum(self.edges_to_users, self.edges_to_items, items, weights, self.num_users)

  def to_items(self, users: Array, weights: Array | None = None) -> Array:
    """Each item's sum `[num_items + 1, D]` of its users' vectors `[num_users, D]`; `weights` in the order of items."""
    return self._sum(self.edges_to_items, self.edges_to_users, users, weights, self.num_items + 1)

  def dots(self, users: Array, items: Array) -> Array:
    """The dot product of each edge's two ends, `[E]` float32 in the order of users.

    Args:
      users: `[num_users, D]` float32.
      items: `[num_items + 1, D]` float32.
    """
    return _dots(self.edges_to_users, self.edges_to_items, items, users)

  def by_item(self, values: Array) -> Array:
    """`values [E]` in the order of users, put in the order of items."""
    return values[self._order[...]]

  def softmax_by_user(self, scores: Array) -> Array:
    """The softmax of `scores [E]`, in the order of users, over each user's edges."""
    return _softmax(scores, self._users[...], self.num_users)

  def softmax_by_item(self, scores: Array) -> Array:
    """The softmax of `scores [E]`, in the order of items, over each item's edges."""
    return _softmax(scores, self._item_items[...], self.num_items + 1)

  def at_users(self, users: Array) -> Array:
    """Of values `[num_users]` that of each edge's user, `[E]` in the order of items."""
    return users[self._item_users[...]]

  def at_items(self, items: Array) -> Array:
    """Of values `[num_items + 1]` that of each edge's item, `[E]` in the order of users."""
    return items[self._items[...]]

  @property
  def edges_to_users(self) -> Edges:
    """The edges from items to users."""
    return Edges(self._items[...], self._users[...], self._places[...])

  @property
  def edges_to_items(self) -> Edges:
    """The edges from users to items."""
    return Edges(self._item_users[...], self._item_items[...], self._order[...])

  def _sum(self, edges: Edges, back: Edges, x: Array, weights: Array | None, size: int) -> Array:
    if weights is None:
      return _plain_sum(size, x.shape[0], edges, back, x)
    return _weighted_sum(size, x.shape[0], edges, back, x, weights)


def _data(array: np.ndarray) -> DataArray:
  return DataArray(jnp.asarray(array))


# What a sum keeps for its gradient: edges, the same from their other ends, and its two arrays.
_Saved = tuple[Edges, Edges, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _plain_sum(size: int, num_sources: int, edges: Edges, back: Edges, x: Array) -> Array:
  """`[size, D]`: the sum over each target's edges of its sources' rows of `x [num_sources, D]`."""
  return sum_by_target(edges, x, None, size)


def _plain_sum_forward(
  size: int, num_sources: int, edges: Edges, back: Edges, x: Array
) -> tuple[Array, tuple[Edges, Edges]]:
  return _plain_sum(size, num_sources, edges, back, x), (edges, back)


def _plain_sum_backward(
  size: int, num_sources: int, saved: tuple[Edges, Edges], gradient: Array
) -> tuple[None, None, Array]:
  edges, back = saved
  return None, None, _plain_sum(num_sources, size, back, edges, gradient)


_plain_sum.defvjp(_plain_sum_forward, _plain_sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _weighted_sum(size: int, num_sources: int, edges: Edges, back: Edges, x: Array, weights: Array) -> Array:
  """As `_plain_sum`, each edge times its weight."""
  return sum_by_target(edges, x, weights, size)


def _weighted_sum_forward(
  size: int, num_sources: int, edges: Edges, back: Edges, x: Array, weights: Array
) -> tuple[Array, _Saved]:
  return _weighted_sum(size, num_sources, edges, back, x, weights), (edges, back, x, weights)


def _weighted_sum_backward(
  size: int, num_sources: int, saved: _Saved, gradient: Array
) -> tuple[None, None, Array, Array]:
  edges, back, x, weights = saved
  to_sources = _weighted_sum(num_sources, size, back, edges, gradient, weights[back.places])
  return None, None, to_sources, _dots(edges, back, x, gradient)


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


@jax.custom_vjp
def _dots(edges: Edges, back: Edges, x: Array, y: Array) -> Array:
  """`[E]`: each edge's dot product of its source's row of `x` and its target's of `y`."""
  return dot_by_edge(edges, x, y)


def _dots_forward(edges: Edges, back: Edges, x: Array, y: Array) -> tuple[Array, _Saved]:
  return _dots(edges, back, x, y), (edges, back, x, y)


def _dots_backward(saved: _Saved, gradient: Array) -> tuple[None, None, Array, Array]:
  edges, back, x, y = saved
  to_targets = _weighted_sum(y.shape[0], x.shape[0], edges, back, x, gradient)
  to_sources = _weighted_sum(x.shape[0], y.shape[0], back, edges, y, gradient[back.places])
  return None, None, to_sources, to_targets


_dots.defvjp(_dots_forward, _dots_backward)


def sum_by_target(edges: Edges, x: Array, weights: Array | None, size: int, *, loop: bool | None = None) -> Array:
  """Sums over edges, without a gradient of their own.

  Args:
    edges: from rows of `x` to rows of the result.
    x: `[S, D]` float32.
    weights: `[E]` float32, or None for 1.
    size: rows of the result.
    loop: whether by a loop over edges; None for on a CPU only.

  Returns:
    `[size, D]` float32; a row without edges is 0.
  """

  def by_loop(edges: Edges, x: Array, weights: Array | None) -> Array:
    def add(n: Array, total: Array) -> Array:
      row = x[edges.sources[n]]
      row = row if weights is None else weights[n] * row
      return total.at[edges.targets[n]].add(row, mode="promise_in_bounds")

    return jax.lax.fori_loop(0, edges.sources.shape[0], add, jnp.zeros((size, x.shape[1]), x.dtype))

  def by_segment(edges: Edges, x: Array, weights: Array | None) -> Array:
    rows = x[edges.sources]
    rows = rows if weights is None else weights[:, None] * rows
    return jax.ops.segment_sum(rows, edges.targets, size, indices_are_sorted=True)

  return _either(by_loop, by_segment, loop, edges, x, weights)


def dot_by_edge(edges: Edges, x: Array, y: Array, *, loop: bool | None = None) -> Array:
  """Dot products `[E]` of sources' rows of `x [S, D]` and targets' of `y [T, D]`; `loop` as for `sum_by_target`."""

  def by_loop(edges: Edges, x: Array, y: Array) -> Array:
    lanes = _LANES if x.shape[1] % _LANES == 0 else 1

    def put(n: Array, out: Array) -> Array:
      product = x[edges.sources[n]] * y[edges.targets[n]]
      return out.at[n].set(rearrange(product, "(part lane) -> part lane", lane=lanes).sum(0), mode="promise_in_bounds")

    number = edges.sources.shape[0]
    return jax.lax.fori_loop(0, number, put, jnp.zeros((number, lanes), x.dtype)).sum(-1)

  def by_gather(edges: Edges, x: Array, y: Array) -> Array:
    return jnp.sum(x[edges.sources] * y[edges.targets], axis=-1)

  return _either(by_loop, by_gather, loop, edges, x, y)


def _either(by_loop: Callable[..., Array], by_array: Callable[..., Array], loop: bool | None, *arguments: Any) -> Array:
  if loop is None:
    return by_platform(*arguments, cpu=by_loop, default=by_array)
  return (by_loop if loop else by_array)(*arguments)


def _softmax(scores: Array, segments: Array, size: int) -> Array:
  """The softmax of `scores [E]` within runs of equal `segments [E]`, which ascend."""
  highest = jax.ops.segment_max(jax.lax.stop_gradient(scores), segments, size, indices_are_sorted=True)
  raised = jnp.exp(scores - highest[segments])
  total = jax.ops.segment_sum(raised, segments, size, indices_are_sorted=True)
  return raised / total[segments]
