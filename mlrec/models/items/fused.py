"""An item as several towers see it at once: its ID, and what is known of its content."""

from collections.abc import Callable
from collections.abc import Mapping
import math
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.content.base import PRESENT
from mlrec.models.items.recipe import Recipe
from mlrec.models.items.tower import create_tower
from mlrec.models.items.tower import ItemTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import kept
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import MLP
from mlrec.models.layers.variables import DataArray
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import closest
from mlrec.registry import OptionError
from mlrec.registry import options_of

_EPSILON = 1e-6
NORMS = "matched", "layer", "none"


@models.register("fused", kind=ITEM_TOWER)
class FusedTower(ItemTower):
  """Any towers, each `[U, dim]`, fused into one vector of an item.

  What an item lacks is not zeros but a learned vector of that tower, its *absence*. A tower of content is absent where
  the item has none (a missing cover, an empty title), and, with the probability `modality_dropout`, in a training step.
  The ID is absent in a training step with the probability `id_dropout` (DropoutNet, Volkovs et al., NeurIPS 2017, drops
  preferences so), and for an item that training never names: its row would be its random start. So items that are new
  look as dropped ones did. No item loses everything by dropout: one that would, loses nothing. The padding item keeps
  its ID.

  Towers start equally loud (`norm="matched"`). A tower of content makes vectors of a variance of about 1, where a
  row of an ID table has 2 / (num_items + 1 + dim): IDs would be drowned for hundreds of steps, and the first logits,
  which are products of such vectors, would be far from equal.

  An ID that `id_shrinkage` shrinks counts by n / (n + id_shrinkage), n the item's training interactions: the posterior
  mean of an effect seen n times. What is common to items is then left to their content, and an item that training never
  names has no ID without one having been dropped.

  Fusions of the towers' v_1 to v_M, in the order in which they are named:

  - `sum`: v_1 + ... + v_M.
  - `concat`: an MLP of [v_1; ...; v_M].
  - `gate`: the sum of sigmoid(G_m [v_1; ...; v_M; l]) * v_m, with l the logarithm of 1 + the item's training
    interactions where it is known (gated multimodal units, Arevalo et al., 2017, section 3.1, without their tanh).
  - `film`: v_1 after (1 + g(v_m)) * v_1 + b(v_m) for each other m, g and b linear (Perez et al., AAAI 2018, eq. 2).
  - `attention`: a learned query over the present v_m and a vector of nothing, in several heads.
  """

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    towers: Mapping[str, Mapping[str, Any]],
    fusion: str = "sum",
    hidden: int = 0,
    heads: int = 4,
    id_dropout: float = 0.0,
    modality_dropout: float = 0.0,
    id_shrinkage: float = 0.0,
    norm: str = "matched",
    item_data: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds the towers and their fusion.

    Args:
      num_items: items that exist, padding not counted.
      dim: width of item vectors.
      towers: by a name of the user's, the `name` of an item tower and its options.
      fusion: one of `FUSIONS`.
      hidden: width of the MLP of `concat`; 0 for twice `dim`.
      heads: of `attention`.
      id_dropout: the share of items whose ID a training step does not see.
      modality_dropout: likewise of each tower of content.
      id_shrinkage: how many training interactions make an item's ID count half; 0 for no shrinking.
      norm: of each tower's vectors before they are fused, one of `NORMS`: `matched` normalises those of content and
        starts their scale as that of an ID's row, `layer` normalises all and starts them at 1, `none` takes them as
        they are.
      item_data: what towers may ask for, by name. Without `train_counts`, `[num_items + 1]` int, no ID is absent at
        evaluation.
      rngs: random streams for the parameters.

    Raises:
      ValueError: no tower, an unknown name, or an option that is wrong.
    """
    if not towers:
      raise OptionError("towers", "must name a tower or more, such as {'id': {'name': 'id'}}")
    if fusion not in FUSIONS:
      raise OptionError("fusion", f"= {fusion!r}: {closest(fusion, FUSIONS)}")
    if norm not in NORMS:
      raise OptionError("norm", f"= {norm!r}: {closest(norm, NORMS)}")
    if id_shrinkage < 0:
      raise OptionError("id_shrinkage", f"= {id_shrinkage} must be at least 0")
    for name, rate in (("id_dropout", id_dropout), ("modality_dropout", modality_dropout)):
      if not 0 <= rate < 1:
        raise OptionError(name, f"= {rate} must be at least 0 and below 1")
    self.names = tuple(towers)
    self.towers = nnx.Dict({
      name: _tower(name, options, num_items, dim, item_data, rngs=rngs)
      for name, options in towers.items()
    })  # fmt: skip
    self.rates = tuple(id_dropout if self.towers[name].by_id else modality_dropout for name in self.names)
    self.absences = nnx.Dict({name: nnx.Param(jnp.zeros(dim)) for name in self.names})
    normed = [name for name in self.names if norm == "layer" or (norm == "matched" and not self.towers[name].by_id)]
    self.norms = nnx.Dict({name: LayerNorm(dim, _EPSILON, rngs=rngs) for name in normed})
    if norm == "matched":
      for layer in self.norms.values():
        layer.scale = nnx.Param(jnp.full(dim, math.sqrt(2 / (num_items + 1 + dim))))
    counts = item_data.get("train_counts")
    self.counts = None if counts is None else DataArray(jnp.asarray(counts, jnp.int32))
    for name, value in (("id_dropout", id_dropout), ("id_shrinkage", id_shrinkage)):
      if value and not any(tower.by_id for tower in self.towers.values()):
        raise OptionError(name, f"= {value} is of IDs, and none of the towers is one of 'id'")
    if id_shrinkage and counts is None:
      raise OptionError("id_shrinkage", f"= {id_shrinkage} needs the training counts of items")
    self.id_shrinkage = id_shrinkage
    self.fusion = FUSIONS[fusion](len(self.names), dim, hidden=hidden or 2 * dim, heads=heads, rngs=rngs)

  @property
  def reads(self) -> dict[str, Need]:
    """What the towers read, below their names, and which items have it."""
    needs = {}
    for name in self.names:
      for content, need in self.towers[name].reads.items():
        needs[f"{name}/{content}"] = need
        needs[f"{name}/{content}{PRESENT}"] = Need((), "bool")
    return needs

  @property
  def recipes(self) -> dict[str, Recipe]:
    """What makes, or reads, the arrays that `reads` names."""
    return {f"{name}/{content}": recipe for name in self.names for content, recipe in self.towers[name].recipes.items()}

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Vectors `[U, dim]` of items `[U]` and of what `reads` names of each."""
    present = self.present(items, content, context)
    vectors = []
    for place, name in enumerate(self.names):
      read = {key: content[f"{name}/{key}"] for key in self.towers[name].reads}
      vector = self.towers[name](items, read, context)
      if name in self.norms:
        vector = self.norms[name](vector)
      if self.towers[name].by_id and self.id_shrinkage and self.counts is not None:
        counts = self.counts[...][items].astype(vector.dtype)[:, None]
        vector = vector * jnp.where(items[:, None] == 0, 1, counts / (counts + self.id_shrinkage))
      vectors.append(jnp.where(present[:, place, None], vector, self.absences[name][...]))
    return self.fusion(jnp.stack(vectors, axis=1), present, self._familiarity(items))

  def present(self, items: Array, content: Mapping[str, Array], context: Context) -> Array:
    """`[U, M]` bool: which towers see which items."""
    there = []
    for name in self.names:
      flags = [content[f"{name}/{key}{PRESENT}"] for key in self.towers[name].reads]
      if self.towers[name].by_id and self.counts is not None:
        flags.append(self.counts[...][items] > 0)
      there.append(jnp.stack([jnp.ones(len(items), bool), *flags]).all(0))
    present = jnp.stack(there, axis=1)
    if context.rngs is not None and any(self.rates):
      present = kept(present, self.rates, context.rngs.dropout())
    is_id = jnp.asarray([self.towers[name].by_id for name in self.names])
    return present | ((items == 0)[:, None] & is_id)

  def _familiarity(self, items: Array) -> Array:
    """`[U, 1]`: log(1 + training interactions) of each item, 0 where they are not known."""
    if self.counts is None:
      return jnp.zeros((len(items), 1))
    return jnp.log1p(self.counts[...][items].astype(jnp.float32))[:, None]


def _tower(
  name: str, options: Mapping[str, Any], num_items: int, dim: int, item_data: Mapping[str, Any], *, rngs: nnx.Rngs
) -> ItemTower:
  if "/" in name or name.endswith(PRESENT):
    raise OptionError("towers", f"names a tower {name!r}: such a name has no / and does not end in {PRESENT}")
  with options_of(f"towers.{name}"):
    return create_tower(options, num_items, dim, item_data, rngs=rngs)


class Sum(nnx.Module):
  """The sum of the towers' vectors."""

  def __init__(self, number: int, dim: int, *, hidden: int, heads: int, rngs: nnx.Rngs):
    del number, dim, hidden, heads, rngs

  def __call__(self, vectors: Array, present: Array, familiarity: Array) -> Array:
    """Vectors `[U, M, D]`, which of them are the items' own `[U, M]`, and log counts `[U, 1]`, to `[U, D]`."""
    del present, familiarity
    return vectors.sum(1)


class Concat(nnx.Module):
  """An MLP of the towers' vectors side by side."""

  def __init__(self, number: int, dim: int, *, hidden: int, heads: int, rngs: nnx.Rngs):
    del heads
    self.mlp = MLP(number * dim, hidden, dim, kernel_init=xavier_normal, rngs=rngs)

  def __call__(self, vectors: Array, present: Array, familiarity: Array) -> Array:
    """As of `Sum`."""
    del present, familiarity
    return self.mlp(vectors.reshape(len(vectors), -1))


class Gate(nnx.Module):
  """The sum of the towers' vectors, each channel of each let through as far as all of them say."""

  def __init__(self, number: int, dim: int, *, hidden: int, heads: int, rngs: nnx.Rngs):
    del hidden, heads
    # At the start every gate is half open.
    self.gates = nnx.Linear(number * dim + 1, number * dim, kernel_init=truncated_normal(0.02), rngs=rngs)

  def __call__(self, vectors: Array, present: Array, familiarity: Array) -> Array:
    """As of `Sum`."""
    del present
    gates = self.gates(jnp.concatenate([vectors.reshape(len(vectors), -1), familiarity], axis=1))
    return (jax.nn.sigmoid(gates).reshape(vectors.shape) * vectors).sum(1)


class FiLM(nnx.Module):
  """The first tower's vector, scaled and shifted by what each other one says."""

  def __init__(self, number: int, dim: int, *, hidden: int, heads: int, rngs: nnx.Rngs):
    del hidden, heads
    if number < 2:
      raise OptionError("fusion", "= 'film' needs two towers or more: one that the others act on")
    self.modulations = nnx.List(
      [nnx.Linear(dim, 2 * dim, kernel_init=truncated_normal(0.02), rngs=rngs) for _ in range(number - 1)]
    )

  def __call__(self, vectors: Array, present: Array, familiarity: Array) -> Array:
    """As of `Sum`."""
    del present, familiarity
    x = vectors[:, 0]
    for place, layer in enumerate(self.modulations, 1):
      scale, shift = jnp.split(layer(vectors[:, place]), 2, axis=-1)
      x = (1 + scale) * x + shift
    return x


class Attention(nnx.Module):
  """A learned query's attention to the vectors that are the item's own, and to one of nothing."""

  def __init__(self, number: int, dim: int, *, hidden: int, heads: int, rngs: nnx.Rngs):
    del hidden
    if heads < 1 or dim % heads:
      raise OptionError("heads", f"= {heads} must divide the width {dim}")
    draw = truncated_normal(0.02)
    self.query = nnx.Param(draw(rngs.params(), (heads, dim // heads)))
    # Which tower a vector is from.
    self.origins = nnx.Param(draw(rngs.params(), (number, dim)))
    self.nothing = nnx.Param(jnp.zeros((1, dim)))
    self.keys, self.values, self.out = (
      nnx.Linear(dim, dim, kernel_init=xavier_normal, rngs=rngs) for _ in range(3)
    )  # fmt: skip

  def __call__(self, vectors: Array, present: Array, familiarity: Array) -> Array:
    """As of `Sum`."""
    del familiarity
    number, _, dim = vectors.shape
    nothing = jnp.broadcast_to(self.nothing[...], (number, 1, dim))
    tokens = jnp.concatenate([vectors + self.origins[...], nothing], axis=1)
    seen = jnp.concatenate([present, jnp.ones((number, 1), bool)], axis=1)
    heads, width = self.query.shape
    keys, values = (layer(tokens).reshape(number, -1, heads, width) for layer in (self.keys, self.values))
    scores = jnp.einsum("umhc,hc->uhm", keys, self.query[...]) / width**0.5
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), axis=-1)
    return self.out(jnp.einsum("uhm,umhc->uhc", weights, values).reshape(number, dim))


FUSIONS: dict[str, Callable[..., nnx.Module]] = {
  "sum": Sum,
  "concat": Concat,
  "gate": Gate,
  "film": FiLM,
  "attention": Attention,
}
