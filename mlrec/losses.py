"""Training losses: pure functions of arrays."""

import jax
from jax import Array
import jax.numpy as jnp

# Far below any score, yet finite, so that a struck candidate has an exact 0 as its gradient.
_STRUCK = -1e9
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
    states, items, targets=targets, users=users, own=own, counts=counts, log_popularity=log_popularity, weights=weights
  )
  return total / jnp.where(weight > 0, weight, 1.0)


def in_batch_softmax_sums(
  states: Array,
  items: Array,
  *,
  targets: Array,
  users: Array,
  own: Array,
  counts: Array,
  log_popularity: Array,
  weights: Array,
) -> tuple[Array, Array]:
  """The weighted sum of `in_batch_softmax`'s losses and the sum of its weights, for means over several groups."""
  states, items = states.astype(jnp.float32), items.astype(jnp.float32)
  weights = weights.astype(jnp.float32)
  debias = -jnp.maximum(log_popularity.astype(jnp.float32), _MIN_LOG_POPULARITY)
  multiplicity = jnp.where(counts > 0, jnp.log(jnp.maximum(counts, 1).astype(jnp.float32)) + debias, _STRUCK)
  logits = jnp.where(own[users], _STRUCK, states @ items.T + multiplicity)
  target_logit = jnp.sum(states * items[targets], axis=-1) + debias[targets]
  highest = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=-1), target_logit))
  partition = jnp.sum(jnp.exp(logits - highest[:, None]), axis=-1) + jnp.exp(target_logit - highest)
  losses = jnp.log(partition) + highest - target_logit
  return jnp.sum(weights * losses), jnp.sum(weights)
