"""Training losses: pure functions of arrays."""

import functools
import math
from typing import NamedTuple

import jax
from jax import Array
import jax.numpy as jnp

# Far below any score, yet finite, so that a excluded candidate has an exact 0 as its gradient.
_EXCLUDED = -1e9
# The log share that stands in for log 0: below one interaction in 10^12.
_MIN_LOG_POPULARITY = -28.0


def in_batch_softmax(
  states: Array,
  items: Array,
  *,
  targets: Array,
  users: Array,
  own: Array,
  counts: Array,
  log_popularity: Array,
  weights: Array,
) -> Array:
  """Popularity-debiased softmax over the items of the batch, each distinct item scored once.

  The loss of MicroLens (arXiv 2309.15379, section 4.1; the debiasing is that of Yi et al., RecSys 2019): candidates are
  all slots of the batch, less those that hold an item of the row's own user, plus the one target. Slots that hold one
  item share a column, so its logit carries the log of their number.

  Args:
    states: `[T, D]` user states, a row for each predicted position.
    items: `[U, D]` vectors of the batch's distinct items.
    targets: `[T]` int, the column of each row's target.
    users: `[T]` int, the row of `own` each position belongs to.
    own: `[B, U]` bool, the items in each user's row, target included.
    counts: `[U]` slots of the batch that hold each item; 0 on filler columns.
    log_popularity: `[U]` log of each item's share of the training interactions; -inf counts as a tiny share.
    weights: `[T]` weight of each row; 0 on filler.

  Returns:
    Scalar float32, the weighted mean over rows; 0 when the weights sum to 0.
  """
  total, weight = in_batch_softmax_sums(
    states, items, targets=targets, excluded=own[users], counts=counts, log_popularity=log_popularity, weights=weights
  )
  return total / jnp.where(weight > 0, weight, 1.0)


def in_batch_softmax_sums(
  states: Array,
  items: Array,
  *,
  targets: Array,
  excluded: Array,
  counts: Array,
  log_popularity: Array,
  weights: Array,
) -> tuple[Array, Array]:
  """The weighted sum of `in_batch_softmax`'s losses and the sum of its weights, for means over several groups.

  `excluded [T, U]` bool stands for `own[users]`.
  """
  states, items = states.astype(jnp.float32), items.astype(jnp.float32)
  return scored_softmax_sums(
    states @ items.T, jnp.sum(states * items[targets], axis=-1), targets=targets, excluded=excluded, counts=counts,
    log_popularity=log_popularity, weights=weights,
  )  # fmt: skip


def scored_softmax_sums(
  scores: Array,
  target_scores: Array,
  *,
  targets: Array,
  excluded: Array,
  counts: Array,
  log_popularity: Array,
  weights: Array,
) -> tuple[Array, Array]:
  """`in_batch_softmax_sums` of scores, whatever they come from.

  Args:
    scores: `[T, U]` float32.
    target_scores: `[T]` float32, each row's score of its target.
    targets: `[T]` int, the column of each row's target.
    excluded: `[T, U]` bool, the columns that are no negatives of a row, its target's among them.
    counts: `[U]`, as for `in_batch_softmax`, as are `log_popularity` and `weights`.
    log_popularity: `[U]`.
    weights: `[T]`.
  """
  weights = weights.astype(jnp.float32)
  debias = -jnp.maximum(log_popularity.astype(jnp.float32), _MIN_LOG_POPULARITY)
  multiplicity = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1).astype(jnp.float32)) + debias, _EXCLUDED)
  logits = jnp.where(excluded, _EXCLUDED, scores + multiplicity)
  target_logit = target_scores + debias[targets]
  losses = _cross_entropy(target_logit, logits)
  return jnp.sum(weights * losses), jnp.sum(weights)


def full_softmax_sums(
  states: Array,
  items: Array,
  *,
  targets: Array,
  weights: Array,
  block: int = 4096,
  num_items: int | None = None,
  parts: int = 1,
) -> tuple[Array, Array]:
  """Softmax over all items: the weighted sum of losses, and that of weights.

  Items are scored a block at a time, and again in the backward pass, so that no more than `[T, block]` scores exist at
  once (as in Dao et al., NeurIPS 2022). What grows with the number of items is the gradient by `items`, which is 0
  nowhere.

  Args:
    states: `[T, D]` user states, a row for each predicted position.
    items: `[N + 1, D]` vectors of all items; row 0, the padding, is no candidate.
    targets: `[T]` int, the row of each position's target.
    weights: `[T]` weight of each position; 0 on filler.
    block: items scored at a time; the result depends on it in rounding alone, as on `parts`.
    num_items: N where `items` has rows beyond, which are no candidates.
    parts: devices over which `items` is cut along its rows; each then scores its own.
  """
  states, items = states.astype(jnp.float32), items.astype(jnp.float32)
  losses = _full_cross_entropy(_blocks(items, block, num_items, parts), states, items, targets)
  weights = weights.astype(jnp.float32)
  return jnp.sum(weights * losses), jnp.sum(weights)


def sampled_softmax_sums(
  states: Array,
  items: Array,
  *,
  targets: Array,
  users: Array,
  own: Array,
  negatives: Array,
  weights: Array,
  log_proposal: Array | None = None,
) -> tuple[Array, Array]:
  """Softmax over each row's target and items drawn at random: the weighted sum of losses, and that of weights.

  (Jean et al., ACL 2015: a candidate's logit is its score less the log of the probability that it is drawn, the
  target's too; of a uniform proposal that is a constant.) All rows share the items drawn; those in the row of its own
  user are excluded.

  Args:
    states: `[T, D]`, as for `in_batch_softmax`, as are `items`, `targets`, `users`, `own` and `weights`.
    items: `[U, D]`.
    targets: `[T]`.
    users: `[T]`.
    own: `[B, U]`.
    negatives: `[K]` int, columns of the items drawn.
    weights: `[T]`.
    log_proposal: `[U]` log of the probability that each item is drawn, -inf counting as a tiny one; None for uniform.
  """
  target_scores, scores, excluded = _against_drawn(states, items, targets, users, own, negatives)
  if log_proposal is not None:
    correction = jnp.maximum(log_proposal.astype(jnp.float32), _MIN_LOG_POPULARITY)
    target_scores, scores = target_scores - correction[targets], scores - correction[negatives]
  weights = weights.astype(jnp.float32)
  losses = _cross_entropy(target_scores, jnp.where(excluded, _EXCLUDED, scores))
  return jnp.sum(weights * losses), jnp.sum(weights)


def calibrated_bce_sums(
  states: Array,
  items: Array,
  *,
  targets: Array,
  users: Array,
  own: Array,
  negatives: Array,
  weights: Array,
  num_items: int,
  calibration: float,
  from_prior: bool = False,
) -> tuple[Array, Array]:
  """gBCE, gSASRec's generalised binary cross entropy: sums as above.

  (Petrov and Macdonald, RecSys 2023, arXiv 2308.07192: their definitions of gBCE and of its calibration parameter.)
  A row's loss is -(log sigmoid(s+)^beta + the sum over negatives of log(1 - sigmoid(s-))) / (K + 1), where
  beta = alpha (t (1 - 1 / alpha) + 1 / alpha), alpha = K / (N - 1) is the share of items drawn, and t the calibration:
  0 for plain binary cross entropy, 1 for scores whose probabilities are as if all items had been negatives. Items drawn
  that are excluded add nothing to the sum; K counts them.

  At scores of 0 nearly all of the gradient is common to all items: it only lowers their scores, until
  beta (1 - sigmoid(s)) = K sigmoid(s). `from_prior` starts there, by adding that s = log(beta / K) to all scores, which
  ranks them as before (an output bias at the prior's place, as in Lin et al., ICCV 2017, section 3.3, but fixed).

  Args:
    states: as for `sampled_softmax_sums`, as are `items`, `targets`, `users`, `own`, `negatives` and `weights`.
    items: `[U, D]`.
    targets: `[T]`.
    users: `[T]`.
    own: `[B, U]`.
    negatives: `[K]`.
    weights: `[T]`.
    num_items: items that exist, N.
    calibration: t, 0 to 1.
    from_prior: whether scores of 0 stand for the mean item's probability, rather than for one half.
  """
  target_scores, scores, excluded = _against_drawn(states, items, targets, users, own, negatives)
  drawn = negatives.shape[0]
  alpha = drawn / max(num_items - 1, 1)
  # The same as in the docstring, less a division by what may be tiny.
  beta = calibration * (alpha - 1) + 1
  if from_prior:
    bias = math.log(beta / drawn)
    target_scores, scores = target_scores + bias, scores + bias
  against = jnp.where(excluded, 0.0, jax.nn.softplus(scores)).sum(-1)
  losses = (beta * jax.nn.softplus(-target_scores) + against) / (drawn + 1)
  weights = weights.astype(jnp.float32)
  return jnp.sum(weights * losses), jnp.sum(weights)


def bpr(positive: Array, negative: Array, weights: Array) -> Array:
  """Bayesian personalised ranking (Rendle et al., UAI 2009): the weighted mean of -log sigmoid(s+ - s-).

  Args:
    positive: `[B]` scores of the items that users have.
    negative: `[B, K]` scores of items that they have not; a row's loss is the mean over its K.
    weights: `[B]`; 0 on filler.

  Returns:
    Scalar float32; 0 when the weights sum to 0.
  """
  difference = positive.astype(jnp.float32)[:, None] - negative.astype(jnp.float32)
  return weighted_mean(jax.nn.softplus(-difference).mean(-1), weights)


def binary_cross_entropy(logits: Array, labels: Array, weights: Array) -> Array:
  """The weighted mean of -log of the probability of what happened, sigmoid(logit) being that of a 1.

  Args:
    logits: `[B, K]`.
    labels: `[B, K]`, 0 or 1; a row's loss is the mean over its K.
    weights: `[B]`; 0 on filler.

  Returns:
    Scalar float32; 0 when the weights sum to 0.
  """
  logits, labels = logits.astype(jnp.float32), labels.astype(jnp.float32)
  return weighted_mean((jax.nn.softplus(logits) - labels * logits).mean(-1), weights)


def weighted_mean(values: Array, weights: Array) -> Array:
  """The mean of `values [B]` by `weights [B]`, float32; 0 when those sum to 0."""
  weights = weights.astype(jnp.float32)
  total = weights.sum()
  return jnp.sum(values * weights) / jnp.where(total > 0, total, 1.0)


def _against_drawn(
  states: Array, items: Array, targets: Array, users: Array, own: Array, negatives: Array
) -> tuple[Array, Array, Array]:
  """Scores of targets `[T]` and of the items drawn `[T, K]`, and which of those are the row's own."""
  states, items = states.astype(jnp.float32), items.astype(jnp.float32)
  return jnp.sum(states * items[targets], axis=-1), states @ items[negatives].T, own[:, negatives][users]


def _cross_entropy(target_logit: Array, logits: Array) -> Array:
  """-log softmax of a row's target `[T]` among itself and `logits [T, K]`."""
  highest = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=-1), target_logit))
  partition = jnp.sum(jnp.exp(logits - highest[:, None]), axis=-1) + jnp.exp(target_logit - highest)
  return jnp.log(partition) + highest - target_logit


class _Blocks(NamedTuple):
  """How rows of items are scored a block at a time: static.

  Attributes:
    size: rows of each part in a block.
    parts: equal ones of the table, of which each gives its share to each block: of a table that is cut over so many
      devices no row moves then.
    num_items: N; rows beyond are no candidates.
  """

  size: int
  parts: int
  num_items: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _full_cross_entropy(blocks: _Blocks, states: Array, items: Array, targets: Array) -> Array:
  """-log softmax of each position's target among rows 1 to N of `items [R, D]`, `[T]`."""
  return _full_forward(blocks, states, items, targets)[0]


def log_partition(states: Array, items: Array, *, block: int = 4096, num_items: int | None = None) -> Array:
  """log of the sum over all items of exp(score), `[T]` float32: what the softmax over all items is normalised by.

  Args:
    states: `[T, D]`, as for `full_softmax_sums`, as are `items`, `block` and `num_items`.
    items: `[N + 1, D]`.
    block: items scored at a time.
    num_items: N where `items` has rows beyond.
  """
  states, items = states.astype(jnp.float32), items.astype(jnp.float32)
  return _log_partition(_blocks(items, block, num_items), states, items)


def _blocks(items: Array, block: int, num_items: int | None, parts: int = 1) -> _Blocks:
  parts = parts if len(items) % parts == 0 else 1
  size = min(max(block // parts, 1), len(items) // parts)
  return _Blocks(size, parts, len(items) - 1 if num_items is None else num_items)


def _full_forward(
  blocks: _Blocks, states: Array, items: Array, targets: Array
) -> tuple[Array, tuple[Array, ...]]:  # fmt: skip
  log_total = _log_partition(blocks, states, items)
  return log_total - jnp.sum(states * items[targets], axis=-1), (states, items, targets, log_total)


def _log_partition(blocks: _Blocks, states: Array, items: Array) -> Array:
  by_part = items.reshape(blocks.parts, -1, items.shape[-1])

  def more(n: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    highest, partition = carry
    _, _, logits = _block_logits(n, blocks, states, by_part)
    new = jnp.maximum(highest, jnp.max(logits, axis=-1))
    return new, partition * jnp.exp(highest - new) + jnp.sum(jnp.exp(logits - new[:, None]), axis=-1)

  start = jnp.full(len(states), _EXCLUDED), jnp.zeros(len(states))
  highest, partition = jax.lax.fori_loop(0, -(-by_part.shape[1] // blocks.size), more, start)
  return jnp.log(partition) + highest


def _full_backward(blocks: _Blocks, kept: tuple[Array, ...], by: Array) -> tuple[Array, Array, None]:
  states, items, targets, log_total = kept
  by_part = items.reshape(blocks.parts, -1, items.shape[-1])

  def more(n: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    of_states, of_items = carry
    start, rows, logits = _block_logits(n, blocks, states, by_part)
    shares = by[:, None] * jnp.exp(logits - log_total[:, None])
    # Rows that the last block shares with the one before it have theirs already, and get nothing here.
    here = jax.lax.dynamic_slice_in_dim(of_items, start, blocks.size, axis=1)
    here += (shares.T @ states).reshape(here.shape)
    return of_states + shares @ rows, jax.lax.dynamic_update_slice_in_dim(of_items, here, start, axis=1)

  of_targets = by[:, None] * states
  start = -by[:, None] * items[targets], jnp.zeros_like(by_part)
  of_states, of_items = jax.lax.fori_loop(0, -(-by_part.shape[1] // blocks.size), more, start)
  return of_states, of_items.reshape(items.shape).at[targets].add(-of_targets), None


_full_cross_entropy.defvjp(_full_forward, _full_backward)


def _block_logits(n: Array, blocks: _Blocks, states: Array, by_part: Array) -> tuple[Array, Array, Array]:
  """Of the n-th block of `by_part [P, R / P, D]`: its first row in each part, its rows, and their scores `[T, K]`.

  What is no candidate, or was one in the block before, is excluded.
  """
  parts, rows_of_part, width = by_part.shape
  start = jnp.minimum(n * blocks.size, rows_of_part - blocks.size)
  rows = jax.lax.dynamic_slice_in_dim(by_part, start, blocks.size, axis=1).reshape(-1, width)
  places = start + jnp.arange(blocks.size)
  numbers = jnp.arange(parts)[:, None] * rows_of_part + places
  candidates = (places >= n * blocks.size) & (numbers > 0) & (numbers <= blocks.num_items)
  return start, rows, jnp.where(candidates.ravel(), states @ rows.T, _EXCLUDED)
