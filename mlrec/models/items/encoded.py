"""What item towers that run an encoder over an item's content have in common: what is trained, and what is kept."""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import Any
from typing import ClassVar

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.content.vectors import FEATURES
from mlrec.models.convert.torch_names import names_by_path
from mlrec.models.items.encoder import Encoder
from mlrec.models.items.encoder import FROZEN
from mlrec.models.items.recipe import RANDOM
from mlrec.models.items.recipe import Recipe
from mlrec.models.items.recipe import recipe_options
from mlrec.models.items.tower import ItemTower
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import gelu
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import freeze
from mlrec.models.layers.variables import HEAD
from mlrec.models.layers.variables import put_in_group
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import at_least
from mlrec.registry import closest
from mlrec.registry import OptionError

MODES = ("frozen", "top", "full", "scratch")
DTYPES = ("float32", "bfloat16", "float16")
_GROUPS = (ENCODER, HEAD)


class EncodedTower(ItemTower):
  """A projection of what an encoder makes of an item's content, with or without a layer between.

  Modes: `frozen` takes the encoder as it is, its vectors computed once and kept on disk, and trains the projection;
  `top` trains the encoder from a stage on; `full` trains all of it from published weights; `scratch` from a random
  start. Frozen stages run as in evaluation: their statistics do not move.

  Gradients may be accumulated over parts of a batch's items: the loss stays that of the whole batch, with all of its
  negatives, and so does the gradient, but what the backward pass needs is kept for one part at a time. Batch
  normalisation then takes the statistics of a part.

  Attributes:
    frozen: the recipe of those vectors; None where the encoder runs at each step.
    weights: the file that `encoder` starts from; empty for none.
    net_name: the PyTorch name, in MicroLens's code, of the module that holds encoder and projection, and of the encoder
      within it.
    encodes: the registry's kind of the encoders that it runs.
    projection_group: the group of the projection's parameters where none is asked for. MicroLens gives the encoder's
      learning rate and decay to that of videos alone (released code).
  """

  encodes: ClassVar[str]
  net_name: ClassVar[tuple[str, str]]
  projection_group: ClassVar[str] = HEAD

  def __init__(
    self,
    recipe: Callable[..., Recipe],
    dim: int,
    /,
    *,
    encoder: str,
    mode: str = "full",
    weights: str = "",
    train_from: str = "",
    dtype: str = "float32",
    remat: bool = False,
    accumulate: int = 1,
    frozen_in_training: bool = False,
    cache: bool = True,
    hidden: int = 0,
    dropout: float = 0.0,
    projection_group: str = "",
    options: Mapping[str, Any] = {},
    rngs: nnx.Rngs,
  ):
    """Builds encoder and projection.

    Args:
      recipe: makes the recipe of encoder, options, weights and dtype.
      dim: width of item vectors.
      encoder: an encoder's name.
      mode: one of `MODES`.
      weights: a file of published weights, which every mode but `scratch` needs; `random` where it is meant so.
      train_from: in the mode `top`, the first stage trained; empty for the encoder's own choice.
      dtype: of the encoder's computation, one of `DTYPES`; parameters are float32.
      remat: computes each stage again in the backward pass instead of keeping what it needs.
      accumulate: the number of parts in which a training step encodes its items, each computed again in the backward
        pass. On a CPU convolutions are slow in parts.
      frozen_in_training: runs frozen stages as in training, as MicroLens's code did: their statistics move and dropout
        draws. Their vectors cannot be kept then.
      cache: in the mode `frozen`, whether vectors are computed once and kept.
      hidden: width of a layer with GELU between encoder and projection; 0 for none.
      dropout: of what that layer gives.
      projection_group: whose learning rate and decay the projection has, `encoder` or `head`; empty for the tower's own
        choice. With `head` it learns as fast as the rest while an encoder with weights of its own moves slowly.
      options: the encoder's options.
      rngs: random streams.

    Raises:
      ValueError: a name or a combination is not possible.
    """
    at_least(0, hidden=hidden)
    if dtype not in DTYPES:
      raise OptionError("dtype", f"= {dtype!r}: {closest(dtype, DTYPES)}")
    if projection_group not in ("", *_GROUPS):
      raise OptionError("projection_group", f"= {projection_group!r}: {closest(projection_group, _GROUPS)}")
    _check(mode, weights, accumulate, frozen_in_training and mode == "frozen" and cache)
    made = recipe(encoder, recipe_options(options), weights or RANDOM, dtype)
    built = made.build(rngs=rngs)
    self.recipe = made.completed(built.spec)
    self.mode, self.spec = mode, built.spec
    self.first_trained = _first_trained(mode, train_from, built)
    self.frozen = self.recipe if mode == "frozen" and cache else None
    self.weights = "" if made.weights == RANDOM or self.frozen else made.weights
    self.accumulate = accumulate
    holder, net = self.net_name
    self.torch_names = (
      (r"^encoder\.", f"{holder}.{net}." if net else f"{holder}."),
      (r"^projection\.", f"{holder}.{built.projection_name}."),
    )
    if self.frozen is None:
      built.remat, built.frozen_in_training = remat, frozen_in_training
      below = tuple(f"{stage}." for stage in built.stages[: self.first_trained])
      freeze(built, [path for path, name in names_by_path(built).items() if below and f"{name}.".startswith(below)])
      put_in_group(built, ENCODER)
      self.encoder = built
    self.hidden = nnx.Linear(built.spec.features, hidden, kernel_init=xavier_normal, rngs=rngs) if hidden else None
    self.dropout = Dropout(dropout)
    if hidden:
      self.projection = nnx.Linear(hidden, dim, kernel_init=xavier_normal, rngs=rngs)
    else:
      self.projection = built.make_projection(dim, rngs=rngs)
    put_in_group(self.projection, projection_group or self.projection_group)

  @property
  def reads(self) -> dict[str, Need]:
    """The recipe's content, or `features` where vectors are computed once."""
    if self.frozen is not None:
      return {FEATURES: Need((self.spec.features,), "float32")}
    return {self.recipe.content: self.recipe.need()}

  @property
  def recipes(self) -> dict[str, Recipe]:
    """What makes, or reads, the arrays that `reads` names."""
    return {name: self.recipe for name in self.reads}

  def head(self, features: Array, context: Context) -> Array:
    """Item vectors `[U, dim]` of the encoder's `features [U, spec.features]` float32."""
    if self.hidden is not None:
      features = self.dropout(gelu(self.hidden(features)), context.rngs)
    return self.projection(features)

  def __call__(self, items: Array, content: Mapping[str, Array] = {}, context: Context = EVALUATION) -> Array:
    """Vectors of items.

    Args:
      items: `[U]` int.
      content: what `reads` names, `[U, ...]`.
      context: for evaluation or training.

    Returns:
      `[U, dim]` float32.
    """
    if self.frozen is not None:
      return self.head(content[FEATURES].astype(jnp.float32), context)
    inputs = self.recipe.inputs(content[self.recipe.content], items == 0, self.spec)
    if context.train and self.accumulate > 1:
      features = self._encode_in_parts(inputs, context)
    else:
      features = self.encoder(inputs, context, first_trained=self.first_trained)
    return self.head(features.astype(jnp.float32), context)

  def _encode_in_parts(self, inputs: Any, context: Context) -> Array:
    """The encoder's `[U, F]` of inputs of U rows, in training, a part of the rows after another."""
    number, parts = len(jax.tree.leaves(inputs)[0]), self.accumulate
    weights = jnp.ones(number) if context.weights is None else context.weights.astype(jnp.float32)
    filler = -number % parts

    def split(x: Array) -> Array:
      # Strided: a part is spread over the devices as the batch is, and filler over the parts.
      x = jnp.pad(x, [(0, filler)] + [(0, 0)] * (x.ndim - 1))
      return x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1)

    key = None if context.rngs is None else context.rngs.dropout()
    graph, params, statistics, rest = nnx.split(self.encoder, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]

    # The scan itself keeps the compiler from merging the two computations of a part.
    @functools.partial(jax.checkpoint, prevent_cse=False, policy=jax.checkpoint_policies.save_only_these_names(FROZEN))
    def encode(statistics: Any, part: tuple[Array, Any, Array]) -> tuple[Any, Array]:
      index, inputs, weights = part
      encoder = nnx.merge(graph, params, statistics, rest, copy=True)
      rngs = None if key is None else nnx.Rngs(dropout=jax.random.fold_in(key, index))
      features = encoder(inputs, Context(True, rngs, weights), first_trained=self.first_trained)
      return nnx.state(encoder, nnx.BatchStat), features

    parted = (jnp.arange(parts), jax.tree.map(split, inputs), split(weights))
    statistics, features = jax.lax.scan(encode, statistics, parted)
    nnx.update(self.encoder, statistics)
    return features.swapaxes(0, 1).reshape(-1, features.shape[-1])[:number]


def tower_of(kind: str) -> str | None:
  """The name of the tower that runs encoders of that kind; None where no tower does."""
  return next((name for name in models.names(ITEM_TOWER) if getattr(models.get(name), "encodes", "") == kind), None)


def _check(mode: str, weights: str, accumulate: int, moving: bool) -> None:
  if mode not in MODES:
    raise OptionError("mode", f"= {mode!r}: {closest(mode, MODES)}")
  if mode == "scratch" and weights:
    raise OptionError("mode", "= 'scratch' starts at random: it takes no weights")
  if mode != "scratch" and not weights:
    raise OptionError("weights", f"is empty, and the mode {mode!r} needs it: a file, or {RANDOM!r}")
  if accumulate < 1:
    raise OptionError("accumulate", f"= {accumulate} must be at least 1 part")
  if moving:
    raise OptionError(
      "frozen_in_training", "= True changes vectors from step to step: it needs the tower's option cache = False"
    )


def _first_trained(mode: str, train_from: str, encoder: Encoder) -> int:
  stages = encoder.stages
  if train_from and mode != "top":
    raise OptionError("train_from", f"= {train_from!r} is for the mode 'top', not {mode!r}")
  if mode in ("full", "scratch"):
    return 0
  if mode == "frozen":
    return len(stages)
  stage = train_from or encoder.spec.top
  if stage not in stages:
    raise OptionError("train_from", f"= {stage!r}: {closest(stage, stages)}")
  return stages.index(stage)
