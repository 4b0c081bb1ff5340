"""What training and evaluation ask of a recommender: of one that learns by gradients, and of one computed at once."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.content.base import Need
from mlrec.data.batches import EvalBatch
from mlrec.data.interaction_batches import SEQUENCES
from mlrec.data.interactions import Rows
from mlrec.models.items.recipe import Recipe
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.rows_in_lines import rows_of


class Recommender(nnx.Module):
  """Items and users under one loss.

  A constructor takes its options, `rngs`, and by name whatever it needs to know of the data: `num_items`, `num_users`,
  `max_length`, `train` (the training rows, `Rows` of dense ids, a row a user), `feature_dim` (the width of the
  vectors that `config.data.features` names) and `features` (those vectors, `[num_items + 1, feature_dim]` float32).
  Where the config names no vectors, the last two keep their defaults, or are asked for if they have none. `codes` are
  those of `config.data.codes`, `[num_items + 1, levels]` int32 (`mlrec.content.codes`). What item towers may ask for is
  handed on in `item_data`, a mapping whose values are made when they are looked up: `feature_dim` (0 for no vectors),
  `train_counts` (`[num_items + 1]` int, how often training names each item), `item_ages` (`[num_items + 1]` float32,
  `mlrec.data.item_ages`), `item_fields` (`Split.item_fields`), `codes` and `train` (as above).

  Attributes:
    batches_of: what a training batch holds: `SEQUENCES` (a `Batch`), `INTERACTIONS` (an `InteractionBatch`) or, of
      rankers (`mlrec/models/recommenders/ranker.py`), `IMPRESSIONS` (an `ImpressionBatch`).
    reads_padding: of sequences: users need whole left-padded rows, not packed ones.
    reads_inputs: of interactions: examples come with the other items of the user's row.
    negatives: items drawn at random; for each interaction, or, of sequences, for the whole batch.
    negatives_by_popularity: of sequences: they are drawn by the popularity that `Batch.log_popularity` is the log of.
    scores_all_items: the loss scores all items, so a step reads item tables whole.
    scores_by_dot: users are scored by dot products of their states and item vectors; else by `score`.
    by_user: states are of users that were trained, whatever the history; others' are `folded`.
    reads_lines: `states` and `folded` read items by `mlrec.rows_in_lines.rows_of` alone.
    fitted: false: it is trained.
  """

  batches_of: str = SEQUENCES
  reads_padding: bool = False
  reads_inputs: bool = False
  negatives: int = 0
  negatives_by_popularity: bool = False
  scores_all_items: bool = False
  scores_by_dot: bool = True
  by_user: bool = False
  reads_lines: bool = False
  fitted: bool = False

  @property
  def reads(self) -> Mapping[str, Need]:
    """What is read of each item of a batch beside its id."""
    return {}

  @property
  def recipes(self) -> Mapping[str, Recipe]:
    """Of what `reads` names, the encoders that it is read for, or made by."""
    return {}

  def loss(self, batch: Any, *, rngs: nnx.Rngs | None = None) -> Array:
    """The loss of a batch (scalar float32), a mean over its real places; without `rngs` nothing is dropped."""
    total, weight = self.loss_sums(batch, rngs=rngs)
    return total / jnp.maximum(weight, 1.0)

  def loss_sums(self, batch: Any, *, rngs: nnx.Rngs | None = None) -> tuple[Array, Array]:
    """The sum over a batch's real places, and their number: of sequences, whose batches may be made in parts."""
    raise NotImplementedError

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Any:
    """Item ids `[U]`, and what `reads` names of each, to vectors `[U, D]`; without `reads` all items are asked at once.

    A model that does not score by dot products may give several arrays of `U` rows.
    """
    raise NotImplementedError

  def user_table(self) -> Any:
    """What `states` reads of users that is the same for all batches of an evaluation; computed once for it."""
    return ()

  def states(self, table: Any, users: Any, batch: EvalBatch) -> Any:
    """States of a batch's users, `[B, D]`, or several arrays of `B` rows.

    Args:
      table: `item_vectors` of all items, the padding item first; of a model that `reads_lines` perhaps in lines.
      users: of `user_table`.
      batch: whom.
    """
    raise NotImplementedError

  def folded(self, table: Any, histories: Array) -> Any:
    """States `[B, D]` of users who were not trained, where the model is `by_user`: what their histories come to.

    Args:
      table: as of `states`.
      histories: `[B, L]` int, dense ids of each one's newest items, 0 for filler.

    Returns:
      The mean of the items' vectors: users are alike the items that they watched, in a space where both are compared
      by dot products.
    """
    real = (histories != 0)[..., None]
    return jnp.where(real, rows_of(table, histories), 0).sum(1) / jnp.maximum(real.sum(1), 1)

  def states_or_folded(self, table: Any, users: Any, batch: EvalBatch, folds: Array, length: int) -> Any:
    """What `states` gives, but, where the model is `by_user`, what `folded` gives of users who were not trained.

    Args:
      table: as of `states`, as are `users` and `batch`.
      users: of `user_table`.
      batch: whom.
      folds: `[B]` bool, who was not trained.
      length: items of a history that are read, the newest.
    """
    states = self.states(table, users, batch)
    if not self.by_user:
      return states
    folded = self.folded(table, newest(batch, length))
    return jax.tree.map(
      lambda own, other: jnp.where(folds.reshape(-1, *[1] * (own.ndim - 1)), other, own), states, folded
    )

  def score(self, states: Any, items: Any) -> Array:
    """Scores `[T, B]` float32 of T rows of `item_vectors` for B `states`, where `scores_by_dot` is false."""
    raise NotImplementedError


def newest(batch: EvalBatch, length: int) -> Array:
  """`[B, length]` dense ids of each user's newest items, oldest first, 0 for filler, however histories share rows."""
  width = batch.history.tokens.shape[1]
  row, end = batch.last // width, batch.last % width
  places = end[:, None] - jnp.arange(length)[::-1]
  inside = jnp.maximum(places, 0)
  own = batch.history.segments[row[:, None], inside] == batch.history.segments[row, end][:, None]
  return jnp.where((places >= 0) & own, batch.history.tokens[row[:, None], inside], 0)


class FittedRecommender:
  """Computed from the training rows at once, on the host, and scored there.

  A constructor takes its options and, by name, the sizes of the data as a `Recommender`'s does, but no `rngs`: the same
  data gives the same model, so none is kept on disk. It checks them, and `fit` does the work.

  Attributes:
    fitted: true.
  """

  fitted: bool = True

  def fit(self, train: Rows) -> None:
    """Computes the model.

    Args:
      train: users' training rows, of dense item ids 1 to `num_items`.

    Raises:
      OptionError: an option does not fit the data.
    """
    raise NotImplementedError

  def scores(self, histories: Rows, users: np.ndarray) -> np.ndarray:
    """Scores of all items for users, once the model is fitted.

    Args:
      histories: what each user's model input is: dense item ids, oldest first, at most `max_length`.
      users: `[B]` int, their rows in the split.

    Returns:
      `[B, num_items + 1]` float32; column 0, the padding, means nothing.
    """
    raise NotImplementedError
