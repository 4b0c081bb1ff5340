"""Generative retrieval: the next item's codes, one after another (TIGER, arXiv 2305.05065)."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.data.batches import Batch
from mlrec.data.batches import EvalBatch
from mlrec.data.batches import History
from mlrec.models.layers.code_embedding import CodeEmbedding
from mlrec.models.layers.code_trie import CodeTrie
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import MLP
from mlrec.models.layers.variables import DataArray
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import choose
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.models.registry import USER_ENCODER
from mlrec.registry import at_least
from mlrec.registry import closest
from mlrec.registry import OptionError
from mlrec.registry import options_of

# What a history is read as: a token for each code of each item, or one for each item.
CODES, ITEMS = "codes", "items"
_TOKENS = (CODES, ITEMS)
_EPSILON = 1e-6
# Of the vectors of items at the start.
_DEVIATION = 0.25


class Coded(NamedTuple):
  """Items as a user's state scores them: log p(item) = vector · state + bias - the sum of its branchings' normalisers.

  Attributes:
    vector: `[U, D]` float32.
    bias: `[U]` float32.
    branchings: `[U, levels]` int32, of `CodeTrie`.
  """

  vector: Array
  bias: Array
  branchings: Array


class Reader(NamedTuple):
  """Users as they score items.

  Attributes:
    state: `[B, D]` float32.
    normalisers: `[B, num_branchings + 1]` float32, of `CodeTrie.normalisers`.
  """

  state: Array
  normalisers: Array


class Edges(NamedTuple):
  """What `CodeTrie.edges` are scored by: `vector [E, D]` and `bias [E]`, float32."""

  vector: Array
  bias: Array


@models.register("tiger", kind=RECOMMENDER)
class TIGER(Recommender):
  """A transformer reads the codes of a history, a decoder predicts those of the next item (sections 3.1 and 3.2).

  Of a user's state s, and a prefix c_1 to c_(l-1) of codes, the decoder's state is h = a(prefix) * (W_l s) + b(prefix),
  where a and b are an MLP's of the prefix's embeddings, summed and normalised (feature-wise modulation, Perez et al.,
  AAAI 2018); the logit of code c of level l is h · o_lc. The loss of a place is the cross entropy of the codes of the
  item that follows, summed over levels, each given the true codes before it: -log p(item).

  Two things differ from the paper's T5. The softmax of a level is over the codes that some item has after the prefix,
  in training and after (a hierarchical softmax), so that p is a distribution over the items. And the decoder does not
  attend to the history again: given a prefix its logits are linear in s, so that log p(item) is a dot product with s,
  less the logarithms of the sums at the nodes that the item passes, of which each is computed once for a user. All
  items are ranked by their exact likelihood at the cost of a few dot products for each; no beam is needed, and
  evaluation uses none; `beam_search` finds the likeliest without looking at all items.

  New items, which training never names, have codes, and so a likelihood; but at each branching that training passes
  they are what it tells the true code from, which leaves them little.
  """

  scores_by_dot = False

  def __init__(
    self,
    num_items: int,
    codes: np.ndarray,
    max_length: int = 10,
    dim: int = 128,
    user: Mapping[str, Any] = {"name": "sasrec"},
    *,
    tokens: str = CODES,
    hidden: int = 0,
    dropout: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Builds the model.

    Args:
      num_items: items that exist, padding not counted.
      codes: `[num_items + 1, levels]` int, of `config.data.codes`.
      max_length: items of the longest history.
      dim: width of embeddings and states.
      user: `name` of the user encoder and its options.
      tokens: what a history is read as, one of `codes`, as in the paper, or `items`, the sums of their codes'
        embeddings: `levels` times shorter rows.
      hidden: width of the decoder's MLP; 0 for twice `dim`.
      dropout: of the sum of a prefix's embeddings, and of the decoder's state.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a name is unknown, or a value out of range.
    """
    at_least(1, num_items=num_items, max_length=max_length, dim=dim)
    at_least(0, hidden=hidden)
    if tokens not in _TOKENS:
      raise OptionError("tokens", f"= {tokens!r}: {closest(tokens, _TOKENS)}")
    if len(codes) != num_items + 1:
      raise ValueError(f"there are codes of {len(codes) - 1} items, and {num_items} items")
    self.codes = DataArray(jnp.asarray(codes, jnp.int32))
    self.trie = CodeTrie(codes)
    levels = self.trie.levels
    self.per_item = levels if tokens == CODES else 1
    # User encoders add positions, which start at about that: items that start far below them would be learnt slowly.
    self.embedding = CodeEmbedding(self.trie.sizes, dim, deviation=_DEVIATION, rngs=rngs)
    with options_of("user"):
      name, options = choose(user, USER_ENCODER)
      self.users = models.create(
        name, dim, kind=USER_ENCODER, section=options, max_length=max_length * self.per_item, rngs=rngs
      )
    self.heads = nnx.Linear(dim, levels * dim, use_bias=False, kernel_init=xavier_normal, rngs=rngs)
    self.modulation = MLP(dim, hidden or 2 * dim, 2 * dim, kernel_init=xavier_normal, rngs=rngs)
    # Which level a prefix ends at; the empty one's is all that is known of it.
    self.places = nnx.Param(truncated_normal(0.02)(rngs.params(), (levels, dim)))
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.outputs = CodeEmbedding(self.trie.sizes, dim, rngs=rngs)
    self.dropout = Dropout(dropout)

  @property
  def reads_padding(self) -> bool:  # type: ignore[override]
    """Whether the user encoder needs whole left-padded rows, not packed ones."""
    return self.users.reads_padding

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Coded:
    """What `score` reads of items `[U]`."""
    branchings = self.trie.branchings(items)
    vector, bias = self._edges(self._codes(items))
    # A code that is certain has a probability of 1, whatever its logit.
    chosen = branchings > 0
    return Coded(jnp.where(chosen[..., None], vector, 0).sum(1), jnp.where(chosen, bias, 0).sum(1), branchings)

  def user_table(self) -> Edges:
    """What scores the edges of the trie's branchings."""
    items, levels = self.trie.edges
    vector, bias = self._edges(self._codes(items))
    rows = jnp.arange(len(items))
    return Edges(vector[rows, levels], bias[rows, levels])

  def states(self, table: Any, users: Edges, batch: EvalBatch) -> Reader:
    """The states of users after their newest items, and the normalisers of all branchings for each."""
    x, positions, segments = self._tokens(self.embedding(self._codes(batch.history.tokens)), batch.history)
    last = batch.last * self.per_item + self.per_item - 1
    return self.reader(self.users.at(x, positions, segments, last), users)

  def reader(self, state: Array, edges: Edges) -> Reader:
    """Users of `state [B, D]`; `edges` are of `user_table`."""
    normalisers = self.trie.normalisers(edges.vector @ state.T + edges.bias[:, None])
    return Reader(state, normalisers.T)

  def score(self, states: Reader, items: Coded) -> Array:
    """log p of items, `[T, B]`."""
    scores = items.vector @ states.state.T + items.bias[:, None]
    normalisers = states.normalisers.T
    for level in range(self.trie.levels):
      scores = scores - normalisers[items.branchings[:, level]]
    return scores

  def beam_table(self) -> list[Edges]:
    """What `beam_search` scores codes by: of each level's nodes of the trie, their last codes; once for all users."""
    found = []
    for level in range(self.trie.levels):
      vector, bias = self._edges(self._codes(self.trie.items(level)))
      found.append(Edges(vector[:, level], bias[:, level]))
    return found

  def beam_search(
    self, table: Sequence[Edges], state: Array, excluded: Array, *, width: int, length: int
  ) -> tuple[Array, Array]:
    """The likeliest items by a beam over the trie: after each code the `width` likeliest prefixes are kept.

    For a catalogue whose likelihoods are not all to be computed: the cost grows with `width` and the children of a
    prefix, not with the number of items. What is below a prefix that was dropped is not found; a beam as wide as the
    catalogue finds what the exact ranking does.

    Args:
      table: of `beam_table`.
      state: `[B, D]` float32, users' states.
      excluded: `[B, H]` int, items that are not for this user; 0 is filler.
      width: prefixes kept.
      length: items wanted, at most `width`.

    Returns:
      `[B, length]` int32 items, likeliest first, 0 where too few were found; and log p of each, float32, -inf there.

    Raises:
      ValueError: `length` is not between 1 and `width`.
    """
    if not 1 <= length <= width:
      raise ValueError(f"length = {length} must be between 1 and width = {width}")
    users, last = len(state), self.trie.levels - 1
    nodes, scores = self.trie.root(users)[:, None], jnp.zeros((users, 1))
    for level in range(self.trie.levels):
      below, items, there = self.trie.children(nodes, level)
      vector, bias = (jnp.take(x, below, axis=0, mode="clip") for x in table[level])
      logits = jnp.einsum("bwcd,bd->bwc", vector, state) + bias
      logits = jax.nn.log_softmax(jnp.where(there, logits, -jnp.inf))
      found = jnp.where(there, scores[..., None] + logits, -jnp.inf).reshape(users, -1)
      below, items = below.reshape(found.shape), items.reshape(found.shape)
      if level == last:
        found = jnp.where((items[:, :, None] == excluded[:, None, :]).any(-1), -jnp.inf, found)
      scores, places = jax.lax.top_k(found, min(length if level == last else width, found.shape[1]))
      nodes, items = (jnp.take_along_axis(x, places, axis=1) for x in (below, items))
    short = ((0, 0), (0, length - items.shape[1]))
    items = jnp.where(scores > -jnp.inf, items, 0)
    return jnp.pad(items, short), jnp.pad(scores, short, constant_values=-jnp.inf)

  def loss_sums(self, batch: Batch, *, rngs: nnx.Rngs | None = None) -> tuple[Array, Array]:
    """The sum over a batch's real places of -log p of the items that follow, and their number."""
    # Once for each item of the batch: on a CPU gradients of many short rows that are gathered cost more than products.
    codes = self._codes(batch.items)
    vectors = self.embedding(codes)
    x, positions, segments = self._tokens(vectors[batch.history.tokens], batch.history)
    states = self.users(x, positions, segments, rngs=rngs)
    # Of an item's tokens the last has seen all of them.
    states = states.reshape(-1, self.per_item, states.shape[-1])[:, -1]
    targets, weights = batch.targets.ravel(), batch.weights.ravel()
    scale, shift = jnp.split(self._modulations(vectors, rngs)[targets], 2, axis=-1)
    decoded = self.dropout(scale * self.heads(states).reshape(scale.shape) + shift, rngs)
    followers, branchings = codes[targets], self.trie.branchings(batch.items[targets])
    total = jnp.zeros(())
    for level in range(self.trie.levels):
      logits = decoded[:, level] @ self._outputs(level).T
      logits = jnp.where(self.trie.allowed(branchings[:, level], level), logits, jnp.finfo(jnp.float32).min)
      wanted = jnp.take_along_axis(logits, jnp.maximum(followers[:, level, None], 0), axis=1)[:, 0]
      loss = jax.nn.logsumexp(logits, axis=1) - wanted
      total += jnp.where((weights > 0) & (branchings[:, level] > 0), loss, 0).sum()
    return total, weights.sum()

  def _codes(self, items: Array) -> Array:
    """`[..., levels]` int32 of items `[...]`, below 0 for the padding."""
    return jnp.take(self.codes[...], items, axis=0, mode="clip")

  def _tokens(self, x: Array, history: History) -> tuple[Array, Array, Array]:
    """What the user encoder reads of rows of embeddings `x [R, W, levels, D]`: vectors, positions and segments."""
    if self.per_item == 1:
      return x.sum(2), history.positions, history.segments
    rows, width, levels, dim = x.shape
    positions = history.positions[..., None] * levels + jnp.arange(levels)
    segments = jnp.broadcast_to(history.segments[..., None], positions.shape)
    whole = rows, width * levels
    return x.reshape(*whole, dim), positions.reshape(whole), segments.reshape(whole)

  def _modulations(self, vectors: Array, rngs: nnx.Rngs | None = None) -> Array:
    """Factors and summands `[U, levels, 2 D]` of a user's state, of the prefix before each code.

    Args:
      vectors: `[U, levels, D]`, embeddings of all codes.
      rngs: the `dropout` stream; None for evaluation.
    """
    prefixes = jnp.pad(jnp.cumsum(vectors, axis=1)[:, :-1], ((0, 0), (1, 0), (0, 0)))
    out = self.modulation(self.norm(self.dropout(prefixes, rngs) + self.places[...]))
    # Factors start around 1.
    return out.at[..., : vectors.shape[-1]].add(1)

  def _outputs(self, level: int) -> Array:
    """`[sizes[level], D]`."""
    start = self.outputs.starts[level]
    return self.outputs.table[...][start : start + self.trie.sizes[level]]

  def _edges(self, codes: Array) -> tuple[Array, Array]:
    """The logits of items' `codes [U, levels]` as functions of the state: `[U, levels, D]`, biases `[U, levels]`.

    h · o = (a * W s) · o + b · o is linear in s.
    """
    scale, shift = jnp.split(self._modulations(self.embedding(codes)), 2, axis=-1)
    out = self.outputs(codes)
    kernel = self.heads.kernel[...].reshape(-1, *out.shape[1:])
    return jnp.einsum("ulc,dlc->uld", scale * out, kernel), (shift * out).sum(-1)
