"""Neural factorisation machine (He and Chua, SIGIR 2017) over a user's items and a candidate, as MicroLens has it."""

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.recommenders.row_model import Candidates
from mlrec.models.recommenders.row_model import RowModel
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import OptionError


@models.register("nfm", kind=RECOMMENDER)
class NFM(RowModel):
  """A network on the pairwise products of the embeddings of history and candidate.

  b = ((sum of e)^2 - sum of e^2) / 2 over history and candidate (equation 4, bi-interaction pooling), then batch
  normalisation, dropout (section 3.4), a hidden layer with ReLU, and a weight vector: w2 ReLU(W1 BN(b) + b1) + b2.
  There is no linear term. As b(history and i) = b(history) + (sum of history) * e_i, all of a user but the product with
  e_i is computed once.

  Batch normalisation takes its statistics over all pairs of the batch's real examples and its slots, padding left out
  (MicroLens's code counts the padding's pairs as well). Dropout draws one mask for all candidates of an example, which
  are then compared by the same network.

  A training step holds the hidden layer of all pairs, `[U, B, hidden]` (and once more for its gradient), and a matrix
  `[B, dim, hidden]`: at MicroLens's size, 64 examples of at most 704 distinct items and widths of 1024, some 185 MB and
  268 MB in float32. A tile of an evaluation holds half a gigabyte.
  """

  def __init__(
    self,
    num_items: int,
    max_length: int = 10,
    dim: int = 1024,
    *,
    hidden: int = 0,
    dropout: float = 0.0,
    reference: bool = False,
    rngs: nnx.Rngs,
  ):
    """Builds the model.

    Args:
      num_items: items that exist, padding not counted.
      max_length: items of an input.
      dim: width of the embeddings.
      hidden: width of the hidden layer; 0 for `dim`.
      dropout: of the normalised pooled vector.
      reference: a ReLU acts on the score too, as in MicroLens's code, whose helper puts one after every layer: no score
        is below 0, many are 0, and tied candidates count against the target.
      rngs: the stream `params`.

    Raises:
      ValueError: a size or the dropout is out of range.
    """
    super().__init__(num_items, max_length, dim, rngs=rngs)
    if hidden < 0:
      raise OptionError("hidden", f"= {hidden} must be at least 1, or 0 for dim")
    self.norm = BatchNorm(dim)
    self.dropout = Dropout(dropout)
    self.hidden = nnx.Linear(dim, hidden or dim, kernel_init=xavier_normal, rngs=rngs)
    self.out = nnx.Linear(hidden or dim, 1, kernel_init=xavier_normal, rngs=rngs)
    self.reference = reference

  def read(
    self, history: Array, *, among: Candidates | None = None, rngs: nnx.Rngs | None = None
  ) -> tuple[Array, Array]:
    """What the hidden layer gets of a user whatever the candidate, `[B, hidden]`, and a factor of it, `[B, D]`."""
    total = history.sum(1)
    pooled = (jnp.square(total) - jnp.square(history).sum(1)) / 2
    scale, shift = self.norm.affine(*([] if among is None else self._statistics(pooled, total, among)))
    kept = self.dropout(jnp.ones_like(total), rngs)
    return self.hidden((pooled * scale + shift) * kept), total * scale * kept

  def pairs(self, states: tuple[Array, Array], items: tuple[Array, ...]) -> Array:
    """Scores `[T, B]` of T items for B users."""
    base, factor = states
    (vectors,) = items
    # A matrix for each user, so that all pairs are one product and no array holds their pooled vectors.
    kernels = factor.T[:, :, None] * self.hidden.kernel[...][:, None]
    hidden = nnx.relu(base + jnp.einsum("td,dbh->tbh", vectors, kernels))
    scores = self.out(hidden)[..., 0]
    return nnx.relu(scores) if self.reference else scores

  def _statistics(self, pooled: Array, total: Array, among: Candidates) -> tuple[Array, Array]:
    """Mean and variance, `[D]` each, of the pooled vectors of all pairs of users and slots; the running ones follow.

    Users and slots are independent in them, so neither needs the pairs: with m and v the mean and the variance of the
    slots' embeddings, a user's pairs have the mean b + s m and the variance s^2 v, and what is left of the variance is
    that of the users' means.
    """

    def mean_over(weights: Array, values: Array) -> Array:
      return weights @ values / jnp.maximum(weights.sum(), 1.0)

    item_mean = mean_over(among.counts, among.vectors)
    item_var = mean_over(among.counts, jnp.square(among.vectors - item_mean))
    user_means = pooled + total * item_mean
    mean = mean_over(among.weights, user_means)
    within = mean_over(among.weights, jnp.square(total)) * item_var
    var = within + mean_over(among.weights, jnp.square(user_means - mean))
    self.norm.move(mean, var, among.weights.sum() * among.counts.sum())
    return mean, var
