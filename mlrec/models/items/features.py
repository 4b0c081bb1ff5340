"""Towers over vectors that were computed beforehand (`config.data.features`): alone, or beside item IDs."""

from collections.abc import Mapping

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.content.vectors import FEATURES
from mlrec.data.interactions import DataError
from mlrec.models.items.id import IdTower
from mlrec.models.items.tower import ItemTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import gelu
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import closest
from mlrec.registry import OptionError

ACTIVATIONS = ("none", "gelu")
CONCAT, SUM = "concat", "sum"
FUSIONS = (CONCAT, SUM)


def require_vectors(feature_dim: int, reader: str) -> None:
  """Refuses to build a model that reads items' vectors where there are none.

  Args:
    feature_dim: width of the vectors that `config.data.features` names; 0 where it names none.
    reader: the model, for the message.

  Raises:
    DataError: there are no vectors.
  """
  if feature_dim < 1:
    raise DataError(
      f"config.data.features is empty, and {reader} reads vectors of the items: name a .npy or .json file of "
      "MicroLens's release, or a folder that python -m mlrec.features has made"
    )


def vectors_read(feature_dim: int) -> dict[str, Need]:
  """What a model that reads items' vectors of that width names in `reads`."""
  return {FEATURES: Need((feature_dim,), "float32")}


@models.register("features", kind=ITEM_TOWER)
class FeatureTower(ItemTower):
  """A projection of an item's vector, and layers above it (arXiv 2309.15379, section 4.1, and its released code).

  x = act(W v + b), then `dnn_layers` times x = GELU(W x + b) of a dropped-out x. It is the published head of a frozen
  encoder, and with layers that of its study of deeper heads. With `hidden`, v goes through a layer of that width first,
  GELU(W v + b), and is dropped out after it. An item without a vector is what the tower makes of zeros.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    feature_dim: int = 0,
    activation: str = "gelu",
    hidden: int = 0,
    dnn_layers: int = 0,
    dropout: float = 0.1,
    rngs: nnx.Rngs,
  ):
    """Builds the tower.

    Args:
      num_items: not used; vectors say which item they are of.
      dim: width of item vectors.
      feature_dim: width of the vectors read.
      activation: of the projection, one of `ACTIVATIONS`.
      hidden: width of a layer below the projection; 0 for none.
      dnn_layers: layers above the projection.
      dropout: of the input of the projection where a layer is below it, and of each layer above it.
      rngs: random streams for the parameters.

    Raises:
      ValueError: there are no vectors, an unknown activation, or a value out of range.
    """
    del num_items
    if activation not in ACTIVATIONS:
      raise OptionError("activation", f"= {activation!r}: {closest(activation, ACTIVATIONS)}")
    for name, value in (("hidden", hidden), ("dnn_layers", dnn_layers)):
      if value < 0:
        raise OptionError(name, f"= {value} must be at least 0")
    require_vectors(feature_dim, "the item tower 'features'")
    self.feature_dim = feature_dim
    self.activation = activation
    self.hidden = nnx.Linear(feature_dim, hidden, kernel_init=xavier_normal, rngs=rngs) if hidden else None
    self.projection = nnx.Linear(hidden or feature_dim, dim, kernel_init=xavier_normal, rngs=rngs)
    self.dropout = Dropout(dropout)
    self.layers = nnx.List([nnx.Linear(dim, dim, kernel_init=xavier_normal, rngs=rngs) for _ in range(dnn_layers)])

  @property
  def reads(self) -> dict[str, Need]:
    """The items' vectors."""
    return vectors_read(self.feature_dim)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Vectors `[U, dim]` of `content`'s `features [U, feature_dim]`; the ids `items [U]` do not matter."""
    x = content[FEATURES].astype(jnp.float32)
    if self.hidden is not None:
      x = self.dropout(gelu(self.hidden(x)), context.rngs)
    x = self.projection(x)
    if self.activation == "gelu":
      x = gelu(x)
    for layer in self.layers:
      x = gelu(layer(self.dropout(x, context.rngs)))
    return x


@models.register("id_features", kind=ITEM_TOWER)
class IdFeatureTower(ItemTower):
  """An item's ID and its vector: [id; W v], or id + W v.

  (ID+V, arXiv 2309.15379, section 4, is of frozen vectors beside IDs; MicroLens's released code concatenates halves in
  the one such model that it has.)

  With `id_dropout` an item's ID part is 0 with that probability in a training step, and otherwise scaled by
  1 / (1 - id_dropout), so that its mean is what evaluation sees. An item that training never names has an ID part near
  0, its small random start, which is then no stranger to what reads it.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    feature_dim: int = 0,
    fusion: str = CONCAT,
    id_dropout: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Builds the tower.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors; even for `concat`, of which ID and vector have half each.
      feature_dim: width of the vectors read.
      fusion: one of `FUSIONS`.
      id_dropout: the share of items whose ID a training step does not see.
      rngs: random streams for the parameters.

    Raises:
      ValueError: there are no vectors, an unknown fusion, or a value out of range.
    """
    if fusion not in FUSIONS:
      raise OptionError("fusion", f"= {fusion!r}: {closest(fusion, FUSIONS)}")
    if fusion == CONCAT and dim % 2:
      raise OptionError("fusion", f"= 'concat' gives ID and vector half of the width each, and {dim} is odd")
    require_vectors(feature_dim, "the item tower 'id_features'")
    self.feature_dim = feature_dim
    self.fusion = fusion
    width = dim // 2 if fusion == CONCAT else dim
    self.ids = IdTower(num_items, width, rngs=rngs)
    self.projection = nnx.Linear(feature_dim, width, use_bias=False, kernel_init=xavier_normal, rngs=rngs)
    self.id_dropout = Dropout(id_dropout, option="id_dropout")

  @property
  def reads(self) -> dict[str, Need]:
    """The items' vectors."""
    return vectors_read(self.feature_dim)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """`items [U]` and `content`'s `features [U, feature_dim]` to vectors `[U, dim]`; the padding keeps its ID."""
    kept = self.id_dropout(jnp.ones((len(items), 1)), context.rngs)
    ids = self.ids(items) * jnp.where(items[:, None] == 0, 1.0, kept)
    projected = self.projection(content[FEATURES].astype(jnp.float32))
    return jnp.concatenate([ids, projected], axis=-1) if self.fusion == CONCAT else ids + projected
