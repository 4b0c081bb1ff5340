"""The trie of items' codes: what may follow what, and likelihoods of all of its leaves from scores of its edges."""

from collections.abc import Sequence
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.layers.variables import DataArray


class Edge(NamedTuple):
  """Edges `[...]` of the trie, each told by an item below it and the level of the code that it stands for."""

  item: Array
  level: Array


class CodeTrie(nnx.Module):
  """Items as leaves of a tree whose edges are codes: the children of a node are the codes that may follow its prefix.

  A distribution over the children of each node is one over items, as in a hierarchical softmax (Morin and Bengio,
  AISTATS 2005): the probabilities of all items sum to 1, since no other tuple has any. Where a node has one child, its
  code is certain. So only *branchings*, nodes of two children or more, have edges here. They are numbered from 1 by
  how many children they have, in classes of 2, of 3 to 4, of 5 to 8, and so on, of which each is a matrix: sums over
  children are then sums over an axis. 0 stands for no branching.

  Attributes:
    sizes: how many codes there are to choose from at each level.
    num_branchings: how many there are.
  """

  def __init__(self, codes: np.ndarray):
    """Plans the trie, on the host.

    Args:
      codes: `[num_items + 1, levels]` int, from 0 on, no row twice; row 0, the padding item's, does not count.

    Raises:
      ValueError: two items have the same codes.
    """
    items = np.asarray(codes[1:], np.int64)
    number, levels = items.shape
    self.sizes = tuple((items.max(0) + 1).tolist())
    nodes = np.zeros(number, np.int64)
    branchings = np.zeros((number + 1, levels), np.int64)
    found: list[_Level] = []
    for level, size in enumerate(self.sizes):
      keys, firsts, below = np.unique(nodes * size + items[:, level], return_index=True, return_inverse=True)
      parents = keys // size
      children = np.bincount(parents)
      found.append(_Level(parents, children, firsts + 1, keys % size))
      branchings[1:, level] = np.where(children[nodes] > 1, nodes + 1, 0)
      nodes = below.ravel()
    if len(found[-1].parents) < number:
      raise ValueError("two items have the same codes")
    self._number(found, branchings)
    self._widths = tuple(int(level.children.max()) for level in found)
    self._nodes = nnx.List([
      nnx.Dict({
        "first": DataArray(jnp.asarray(np.cumsum(level.children) - level.children, jnp.int32)),
        "children": DataArray(jnp.asarray(level.children, jnp.int32)),
        "items": DataArray(jnp.asarray(level.items, jnp.int32)),
      })
      for level in found
    ])  # fmt: skip

  def _number(self, found: Sequence["_Level"], branchings: np.ndarray) -> None:
    """Numbers the branchings, and lays their edges out."""
    levels = range(len(found))
    children = np.concatenate([level.children for level in found])
    starts = np.cumsum([0] + [len(level.children) for level in found])
    # The class of each node; those of one child come first, and drop out.
    classes = np.ceil(np.log2(children)).astype(np.int64)
    order = np.argsort(classes, kind="stable")
    order = order[classes[order] > 0]
    numbers = np.zeros(len(children), np.int64)
    numbers[order] = np.arange(1, len(order) + 1)
    self.num_branchings = len(order)
    for level in levels:
      nodes = branchings[:, level]
      nodes[nodes > 0] = numbers[starts[level] + nodes[nodes > 0] - 1]
    self._branchings = DataArray(jnp.asarray(branchings, jnp.int32))
    # Which items, and codes of which level, the children of each branching are, 0 where a class has room for more.
    counts = np.bincount(classes[order], minlength=1)
    self._classes = tuple((int(count), 1 << one) for one, count in enumerate(counts) if one and count)
    widths = np.repeat([width for _, width in self._classes], [count for count, _ in self._classes]).astype(np.int64)
    places = np.cumsum(widths) - widths
    edge_items, edge_levels = np.zeros((2, widths.sum()), np.int64)
    allowed = np.zeros((len(order) + 1, max(self.sizes)), bool)
    for level, one in enumerate(found):
      parents = numbers[starts[level] + one.parents]
      real = parents > 0
      at = places[parents[real] - 1] + (np.arange(len(one.parents)) - np.searchsorted(one.parents, one.parents))[real]
      edge_items[at], edge_levels[at] = one.items[real], level
      allowed[parents[real], one.codes[real]] = True
    self._edge_items, self._edge_levels = (DataArray(jnp.asarray(x, jnp.int32)) for x in (edge_items, edge_levels))
    # A bit for each code: of a million items their bytes would fill memory.
    self._allowed = DataArray(jnp.asarray(np.packbits(allowed, axis=1)))

  @property
  def levels(self) -> int:
    """Codes of an item."""
    return len(self.sizes)

  @property
  def edges(self) -> Edge:
    """All edges of branchings, `[E]`, as `normalisers` takes their scores; item 0 where there is none."""
    return Edge(self._edge_items[...], self._edge_levels[...])

  def branchings(self, items: Array) -> Array:
    """`[..., levels]` int32: for each code of `items [...]` the branching it is chosen at, 0 where it is certain."""
    return jnp.take(self._branchings[...], items, axis=0, mode="clip")

  def allowed(self, branchings: Array, level: int) -> Array:
    """`[..., sizes[level]]` bool: the codes of a level that may be chosen at `branchings [...]`; none at 0."""
    packed = self._allowed[...][branchings]
    bits = (packed[..., None] >> (7 - jnp.arange(8, dtype=jnp.uint8))) & 1
    return bits.reshape(*packed.shape[:-1], -1)[..., : self.sizes[level]].astype(bool)

  def normalisers(self, scores: Array) -> Array:
    """The logarithm of the sum of exp of each branching's edges.

    Args:
      scores: `[E, B]` float32, of `edges`; what there is where there is no edge does not matter.

    Returns:
      `[num_branchings + 1, B]`; 0 for no branching.
    """
    scores = jnp.where(self._edge_items[...][:, None] > 0, scores, -jnp.inf)
    found, start = [jnp.zeros((1, scores.shape[1]))], 0
    for count, width in self._classes:
      end = start + count * width
      found.append(jax.nn.logsumexp(scores[start:end].reshape(count, width, -1), axis=1))
      start = end
    return jnp.concatenate(found)

  def root(self, number: int) -> Array:
    """The node that no code leads to, `[number]` int32."""
    return jnp.zeros(number, jnp.int32)

  def items(self, level: int) -> Array:
    """An item below each node that the code of a level leads to, `[nodes]` int32."""
    return self._nodes[level]["items"][...]

  def children(self, nodes: Array, level: int) -> tuple[Array, Array, Array]:
    """What may follow prefixes of `level` codes.

    Args:
      nodes: `[...]` int, nodes of so many codes.
      level: of the next code.

    Returns:
      Nodes of one code more, `[..., most children]` int32; of each an item below it, which of a node of all codes is
      its item; and whether it exists.
    """
    here = self._nodes[level]
    place = jnp.arange(self._widths[level])
    below = here["first"][...][nodes][..., None] + place
    there = place < here["children"][...][nodes][..., None]
    return below, jnp.take(here["items"][...], below, mode="clip"), there


class _Level(NamedTuple):
  """Edges of a level, by parent and code: their `parents [n]`, an item below each, and their codes; and `children`,
  how many there are of each parent.
  """

  parents: np.ndarray
  children: np.ndarray
  items: np.ndarray
  codes: np.ndarray
