"""Sequential recommendation: a user encoder over the vectors of the user's last items, scored by dot products."""

from collections.abc import Mapping
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec import losses
from mlrec.data.batches import Batch
from mlrec.data.batches import EvalBatch
from mlrec.data.batches import History
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import RowDropout
from mlrec.models.layers.platforms import by_platform
from mlrec.models.layers.tables import item_tables
from mlrec.models.layers.variables import DataArray
from mlrec.models.recommenders.recommender import newest
from mlrec.models.recommenders.tower_recommender import TowerRecommender
from mlrec.models.recommenders.transitions import Transitions
from mlrec.models.registry import choose
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.models.registry import USER_ENCODER
from mlrec.registry import at_least
from mlrec.registry import call
from mlrec.registry import closest
from mlrec.registry import OptionError
from mlrec.registry import options_of
from mlrec.rows_in_lines import rows_of

# What a position's target is told apart from: the items of the batch, all items, or items drawn at random.
IN_BATCH, FULL, SAMPLED, CALIBRATED = "in_batch_softmax", "full_softmax", "sampled_softmax", "gbce"
LOSSES = (IN_BATCH, FULL, SAMPLED, CALIBRATED)
_DRAWING = (SAMPLED, CALIBRATED)
# A batch scores each of its places against all that are drawn.
_MOST_DRAWN = 1_000_000
# How items are drawn: each alike, or by its count in training to the power `config.loss.popularity_power`.
UNIFORM, POPULARITY = "uniform", "popularity"
_PROPOSALS = (UNIFORM, POPULARITY)


@models.register("sequential", kind=RECOMMENDER)
class Sequential(TowerRecommender):
  """A user encoder over any item tower (arXiv 2309.15379, section 4).

  Trained by MicroLens's in-batch softmax, by a softmax over all items, or against items drawn at random by a softmax or
  by gSASRec's loss.
  """

  reads_lines = True
  torch_names = ((r"^users\.", "user_encoder."), (r"^items\.", ""))

  def __init__(
    self,
    num_items: int,
    max_length: int = 10,
    dim: int = 512,
    item: Mapping[str, Any] = {"name": "id"},
    user: Mapping[str, Any] = {"name": "sasrec"},
    *,
    loss: str = IN_BATCH,
    negatives: int = 0,
    drawn_by: str = UNIFORM,
    block: int = 4096,
    calibration: float = 0.75,
    from_prior: bool = False,
    members: int = 1,
    item_dropout: float = 0.0,
    new_item_bias: float = 0.0,
    transitions: Mapping[str, Any] = {},
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds both towers.

    Args:
      num_items: items that exist, padding not counted.
      max_length: the longest history.
      dim: width of item vectors and user states.
      item: `name` of the item tower and its options.
      user: `name` of the user encoder and its options.
      loss: one of `LOSSES`. `full_softmax` scores all items in each step, so it needs an item tower that reads nothing
        of them, and moves all rows of its table.
      negatives: items drawn for each batch, which `sampled_softmax` and `gbce` need.
      drawn_by: how: `uniform`, or, for `sampled_softmax`, by `popularity`, the count of an item in training to the
        power `config.loss.popularity_power`, which the loss then corrects for.
      block: items that `full_softmax` scores at a time; a matter of memory and speed.
      calibration: t of `losses.calibrated_bce_sums`.
      from_prior: likewise.
      members: models of this kind in one, which have nothing in common but the batches: each has towers and a loss of
        its own, and the score of an item is the mean of theirs (Lakshminarayanan et al., NeurIPS 2017). All members'
        vectors, end to end, are those of the model: its width is `members` times `dim`.
      item_dropout: the share of a history's items whose vectors are left out in training; their places stay.
      new_item_bias: what is added to the scores of items that training never names, where users are ranked. Their share
        among targets grows after the end of training (on MicroLens-50k 1.8 % in validation, 4.5 in test), which no
        training row can show.
      transitions: options of `Transitions`, a Markov chain that the trained model is mixed with where users are ranked;
        empty for none. Scores are then log probabilities, and no dot products.
      item_data: what item towers may ask for, by name.
      rngs: random streams for the parameters.

    Raises:
      ValueError: a name is unknown, or a value out of range.
    """
    if loss not in LOSSES:
      raise OptionError("loss", f"= {loss!r}: {closest(loss, LOSSES)}")
    if negatives > _MOST_DRAWN:
      raise OptionError("negatives", f"= {negatives} must be at most {_MOST_DRAWN}")
    if (loss in _DRAWING) != (negatives > 0) or negatives < 0:
      needed = "at least 1" if loss in _DRAWING else "0, as the loss draws none"
      raise OptionError("negatives", f"= {negatives} must be {needed}, with loss = {loss!r}")
    if drawn_by not in _PROPOSALS:
      raise OptionError("drawn_by", f"= {drawn_by!r}: {closest(drawn_by, _PROPOSALS)}")
    if drawn_by != UNIFORM and loss != SAMPLED:
      raise OptionError("drawn_by", f"= {drawn_by!r} must be {UNIFORM!r}, with loss = {loss!r}")
    if not 0 <= calibration <= 1:
      raise OptionError("calibration", f"= {calibration} must be between 0 and 1")
    at_least(1, num_items=num_items, max_length=max_length, dim=dim, block=block, members=members)
    self.num_items, self.loss_name, self.negatives = num_items, loss, negatives
    self.negatives_by_popularity, self.scores_all_items, self.block = drawn_by == POPULARITY, loss == FULL, block
    self.calibration, self.from_prior = calibration, from_prior
    self.left_out = RowDropout(item_dropout, option="item_dropout")
    self.max_length, self.scores_by_dot = max_length, not transitions
    self.width, self.biases = members * dim, _biases(new_item_bias, item_data)
    self.make_items(item, num_items, dim, item_data=item_data, rngs=rngs)
    if loss == FULL and self.items.reads:
      read = ", ".join(sorted(self.items.reads))
      raise OptionError("loss", f"= {loss!r}: each step would read {read} of all items; give {IN_BATCH!r}")
    with options_of("user"):
      name, options = choose(user, USER_ENCODER)
      self.users = models.create(name, dim, kind=USER_ENCODER, section=options, max_length=max_length, rngs=rngs)
    self.others = nnx.List([
      Sequential(
        num_items, max_length, dim, item, user, loss=loss, negatives=negatives, drawn_by=drawn_by, block=block,
        calibration=calibration, from_prior=from_prior, item_dropout=item_dropout, item_data=item_data, rngs=rngs,
      )
      for _ in range(members - 1)
    ])  # fmt: skip
    if transitions and "train" not in item_data:
      raise OptionError("transitions", "are counted in training rows, which are not known here")
    with options_of("transitions"):
      self.transitions = (
        call(Transitions, num_items, item_data["train"], name="transitions", section=transitions)
        if transitions else None
      )  # fmt: skip

  @property
  def reads_padding(self) -> bool:  # type: ignore[override]
    """Whether the user encoder needs whole left-padded rows, not packed ones."""
    return self.users.reads_padding

  def user_states(self, vectors: Array, history: History, *, rngs: nnx.Rngs | None = None) -> Array:
    """The states `[R, W, D]` of a history whose tokens are rows of `vectors [U, D]`."""
    x = self.left_out(jnp.take(vectors, history.tokens, axis=0, mode="clip"), rngs)
    return self.users(x, history.positions, history.segments, rngs=rngs)

  def item_vectors(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Any:
    """Item ids `[U]`, and what `reads` names of each item, to vectors `[U, members * D]`.

    With a `new_item_bias` a column of biases comes last, with `transitions` the ids `[U]` come beside.
    """
    vectors = _end_to_end([member.items(items, content, context) for member in self._members])
    if self.biases is not None:
      biases = jnp.take(self.biases[...], items, mode="clip")
      vectors = jnp.concatenate([vectors, biases[:, None].astype(vectors.dtype)], axis=1)
    return vectors if self.transitions is None else (vectors, jnp.where(items <= self.num_items, items, 0))

  def states(self, table: Any, users: Any, batch: EvalBatch) -> Any:
    """The states `[B, members * D]` of users after their newest items, a 1 after each where items have biases.

    With `transitions` come what those read, too.
    """
    vectors, history = table if self.transitions is None else table[0], batch.history
    parts = jnp.split(rows_of(vectors, history.tokens)[..., : self.width], len(self._members), axis=-1)
    places = history.positions, history.segments, batch.last
    states = _end_to_end([member.users.at(x, *places) for member, x in zip(self._members, parts)]) / len(parts)
    if self.biases is not None:
      states = jnp.pad(states, ((0, 0), (0, 1)), constant_values=1)
    if self.transitions is None:
      return states
    return self.transitions.mixed(states, vectors, newest(batch, self.max_length))

  def score(self, states: Any, items: Any) -> Array:
    """Log probabilities `[T, B]` float32, where there are `transitions`; as of `Recommender`."""
    assert self.transitions is not None
    return self.transitions.score(states, *items)

  @property
  def _members(self) -> "list[Sequential]":
    return [self, *self.others]

  def loss_sums(self, batch: Batch, *, rngs: nnx.Rngs | None = None) -> tuple[Array, Array]:
    """The sum of losses over all real positions of a batch, whatever the groups of negatives, and their number.

    Of several members it is the mean of their sums.
    """
    totals, weights = zip(*[member._own_sums(batch, rngs) for member in self._members])
    # All have the same places, and so the same weight.
    return sum(totals) / len(totals), weights[0]

  def _own_sums(self, batch: Batch, rngs: nnx.Rngs | None) -> tuple[Array, Array]:
    """What `loss_sums` gives of this member alone."""
    context = Context(train=rngs is not None, rngs=rngs, weights=batch.items != 0)
    vectors = self.items(batch.items, batch.content, context)
    states = self.user_states(vectors, batch.history, rngs=rngs)
    if self.loss_name == IN_BATCH:
      return in_batch_sums(states, vectors, batch)
    if self.loss_name == FULL:
      return losses.full_softmax_sums(
        states.reshape(-1, states.shape[-1]), self.items.all_vectors(self.num_items, context),
        targets=batch.items[batch.targets.ravel()], weights=batch.weights.ravel(), block=self.block,
        num_items=self.num_items, parts=max((table.parts for _, table in item_tables(self)), default=1),
      )  # fmt: skip
    return self._drawn_sums(states, vectors, own_columns(batch.slots, batch.items.shape[0]), batch)

  def _drawn_sums(self, states: Array, vectors: Array, own: Array, batch: Batch) -> tuple[Array, Array]:
    places = {"targets": batch.targets.ravel(), "users": batch.users.ravel(), "weights": batch.weights.ravel()}
    arguments = {**places, "own": own, "negatives": batch.negatives}
    states = states.reshape(-1, states.shape[-1])
    if self.loss_name == SAMPLED:
      log_proposal = batch.log_popularity if self.negatives_by_popularity else None
      return losses.sampled_softmax_sums(states, vectors, **arguments, log_proposal=log_proposal)
    return losses.calibrated_bce_sums(
      states, vectors, **arguments, num_items=self.num_items, calibration=self.calibration,
      from_prior=self.from_prior,
    )  # fmt: skip


def _biases(new_item_bias: float, item_data: Mapping[str, Any]) -> DataArray | None:
  """`[num_items + 1]` float32, what is added to the score of each item; None where it is nothing."""
  if not new_item_bias:
    return None
  if "train_counts" not in item_data:
    raise OptionError(
      "new_item_bias", f"= {new_item_bias} needs the training counts of items, which are not known here"
    )
  biases = np.where(np.asarray(item_data["train_counts"]) > 0, 0, new_item_bias).astype(np.float32)
  biases[0] = 0
  return DataArray(jnp.asarray(biases))


def _end_to_end(parts: list[Array]) -> Array:
  """What each member gives, along the last axis."""
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)


def own_columns(slots: Array, columns: int) -> Array:
  """`[B, columns]` bool, the columns that hold items of each user's `slots [B, S]` (and the padding, if any)."""
  own = jnp.zeros((slots.shape[0], columns), bool)
  return own.at[jnp.arange(slots.shape[0])[:, None], slots].set(True)


def excluded_columns(slots: Array, users: Array, columns: int) -> Array:
  """`[T, columns]` bool, those of `own_columns` for the `users [T]` of places.

  A CPU marks each user's columns once and copies rows. Other devices compare, which takes no memory: on several of them
  the users of a device's places are anywhere, and marks would be sent as `[B, columns]` to each.
  """

  def copied(slots: Array, users: Array) -> Array:
    return own_columns(slots, columns)[users]

  def compared(slots: Array, users: Array) -> Array:
    return jnp.any(slots[users][:, :, None] == jnp.arange(columns), axis=1)

  return by_platform(slots, users, cpu=copied, default=compared)


def in_batch_sums(states: Array, vectors: Array, batch: Batch) -> tuple[Array, Array]:
  """The weighted sum of the in-batch softmax's losses, each group among its own negatives, and the sum of its weights.

  Args:
    states: `[R, W, D]` user states at the places of `batch.targets`.
    vectors: `[U, D]` of the batch's distinct items.
    batch: the targets, users and weights of the places, the users' slots, and the groups' counts.
  """

  def grouped(x: Array) -> Array:
    return x.reshape(batch.counts.shape[0], -1, *x.shape[2:])

  def sums(states: Array, targets: Array, users: Array, weights: Array, counts: Array) -> tuple[Array, Array]:
    return losses.in_batch_softmax_sums(
      states, vectors, targets=targets, excluded=excluded_columns(batch.slots, users, len(vectors)), counts=counts,
      log_popularity=batch.log_popularity, weights=weights,
    )  # fmt: skip

  arguments = [grouped(x) for x in (states, batch.targets, batch.users, batch.weights)] + [batch.counts]
  if batch.counts.shape[0] == 1:
    return sums(*(x[0] for x in arguments))
  totals, weights = jax.vmap(sums)(*arguments)
  return totals.sum(), weights.sum()
