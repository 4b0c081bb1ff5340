"""Labels of items told from their content: what an encoder is pre-trained by."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np
import optax

from mlrec.models.items.encoded import EncodedTower
from mlrec.models.items.tower import create_tower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal
from mlrec.registry import OptionError
from mlrec.registry import options_of


class LabelBatch(NamedTuple):
  """A batch of U items.

  Attributes:
    items: `[U]` int32, dense ids; 0 for filler.
    codes: `[U, L]` int32, the class of each label; negative where the item has none.
    content: `[U, ...]` each, what the tower reads of the items.
  """

  items: Array | np.ndarray
  codes: Array | np.ndarray
  content: Mapping[str, Array] = {}


class Classifier(nnx.Module):
  """An item tower and, above the item vectors, a linear layer for each label.

  Several labels of one item train one encoder together (multi-task learning with shared layers: Caruana, Machine
  Learning 1997). The tower is that of recommenders, so what is pre-trained is what they run.
  """

  def __init__(self, item: Mapping[str, Any], dim: int, classes: Sequence[int], *, rngs: nnx.Rngs):
    """Builds tower and layers.

    Args:
      item: `name` of the tower and its options.
      dim: width of item vectors.
      classes: how many there are of each label.
      rngs: random streams for the parameters.

    Raises:
      OptionError: the tower runs no encoder, or trains nothing of it, or another of its options is wrong.
    """
    with options_of("item"):
      tower = create_tower(item, 1, dim, {}, rngs=rngs)
      if not isinstance(tower, EncodedTower):
        raise OptionError("name", f"= {item.get('name')!r} runs no encoder of content: there is nothing to pre-train")
      if tower.mode == "frozen":
        raise OptionError("mode", "= 'frozen' trains nothing of the encoder: give 'scratch', 'full' or 'top'")
    self.items = tower
    self.heads: Any = nnx.List([nnx.Linear(dim, number, kernel_init=xavier_normal, rngs=rngs) for number in classes])

  def scores(self, items: Array, content: Mapping[str, Array], context: Context = EVALUATION) -> list[Array]:
    """Of each label, the scores `[U, classes]` float32 of items `[U]`; `content` is what the tower reads of them."""
    vectors = self.items(items, content, context)
    return [head(vectors) for head in self.heads]

  def loss(self, batch: LabelBatch, *, rngs: nnx.Rngs | None = None) -> Array:
    """The mean over labels of the mean cross entropy over the items that have them, scalar float32."""
    items = jnp.asarray(batch.items)
    context = Context(train=rngs is not None, rngs=rngs, weights=items != 0)
    losses = []
    for scores, codes in zip(self.scores(items, batch.content, context), jnp.asarray(batch.codes).T):
      labelled = (codes >= 0) & (items != 0)
      each = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.maximum(codes, 0))
      losses.append(jnp.where(labelled, each, 0).sum() / jnp.maximum(labelled.sum(), 1))
    return jnp.stack(losses).mean()

  def right(self, batch: LabelBatch) -> tuple[Array, Array]:
    """Of each label, how many of a batch's items are told right, and how many have it: int32 `[L]` each."""
    items, codes = jnp.asarray(batch.items), jnp.asarray(batch.codes)
    told = jnp.stack([scores.argmax(-1) for scores in self.scores(items, batch.content)], axis=-1)
    labelled = (codes >= 0) & (items != 0)[:, None]
    return (labelled & (told == codes)).sum(0, dtype=jnp.int32), labelled.sum(0, dtype=jnp.int32)
