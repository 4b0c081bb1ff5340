"""What item towers that run an encoder over an item's content have in common: what is trained, and what is kept."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
from typing import Any
from typing import ClassVar

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.data.content import Need
from mlrec.models.convert.torch_names import names_by_path
from mlrec.models.items.encoder import Encoder
from mlrec.models.items.encoder import FROZEN
from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.dropout import Dropout
from mlrec.models.layers.frozen import freeze
from mlrec.models.layers.initializers import xavier_normal
from mlrec.models.layers.transformer import gelu
from mlrec.models.registry import models
from mlrec.registry import closest

MODES = ("frozen", "top", "full", "scratch")
# Stands for weights where an encoder is to start at random in a mode that is meant for published ones.
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Recipe:
  """An encoder and what it is fed: all that the vectors of a frozen one depend on, beside the content itself.

  Attributes:
    encoder: its name.
    options: its options, `(name, value)` each.
    weights: the file of its weights, or `random`.
    dtype: of the computation; parameters are float32.
  """

  # The registry's kind of the encoder, and the name of the content that it reads.
  kind: ClassVar[str]
  content: ClassVar[str]

  encoder: str
  options: tuple[tuple[str, Any], ...]
  weights: str
  dtype: str

  def build(self, *, rngs: nnx.Rngs) -> Encoder:
    """The encoder, at random."""
    return models.create(self.encoder, kind=self.kind, rngs=rngs, dtype=jnp.dtype(self.dtype), **dict(self.options))

  def completed(self, spec: Any) -> "Recipe":
    """With the encoder's own wishes, its `spec`, where this says nothing."""
    del spec
    return self

  def stated(self) -> dict[str, Any]:
    """What vectors depend on, in JSON's types; of the weights, where they lie."""
    return dataclasses.asdict(self) | {"options": dict(self.options)}

  def need(self) -> Need:
    """The array that is read of each item."""
    raise NotImplementedError

  def reading(self) -> dict[str, Any]:
    """The keywords of a source's `read` that give such arrays."""
    raise NotImplementedError

  def inputs(self, array: Array, padding: Array, spec: Any) -> Any:
    """What the encoder's first stage takes.

    Args:
      array: `[B, *need.shape]`.
      padding: `[B]` bool, the padding item's rows.
      spec: the encoder's.
    """
    raise NotImplementedError


def recipe_options(options: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
  """An encoder's options as a recipe keeps them: in the order of their names, lists as tuples."""
  return tuple(
    (name, tuple(value) if isinstance(value, list) else value) for name, value in sorted(dict(options).items())
  )  # fmt: skip


class EncodedTower(nnx.Module):
  """A projection of what an encoder makes of an item's content, with or without a layer between.

  Modes: `frozen` takes the encoder as it is, its vectors computed once and kept on disk, and trains the projection;
  `top` trains the encoder from a stage on; `full` trains all of it from published weights; `scratch` from a random
  start. Frozen stages run as in evaluation: their statistics do not move.

  Gradients may be accumulated over parts of a batch's items: the loss stays that of the whole batch, with all of its
  negatives, and so does the gradient, but what the backward pass needs is kept for one part at a time. Batch
  normalisation then takes the statistics of a part.

  Attributes:
    reads: what it reads of each item: the recipe's content, or `features` where vectors are computed once.
    frozen: the recipe of those vectors; None where the encoder runs at each step.
    weights: the file that `encoder` starts from; empty for none.
    net_name: the PyTorch name, in MicroLens's code, of the module that holds encoder and projection, and of the encoder
      within it.
  """

  net_name: ClassVar[tuple[str, str]]
  # The projection's attribute. Named `projection` it has the encoder's learning rate and decay (`train/optimizer.py`),
  # which MicroLens gives to that of videos alone (released code); those of other content have the head's.
  projection_path: ClassVar[str] = "output"

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
      dtype: of the encoder's computation; parameters are float32.
      remat: computes each stage again in the backward pass instead of keeping what it needs.
      accumulate: the number of parts in which a training step encodes its items, each computed again in the backward
        pass. On a CPU convolutions are slow in parts.
      frozen_in_training: runs frozen stages as in training, as MicroLens's code did: their statistics move and dropout
        draws. Their vectors cannot be kept then.
      cache: in the mode `frozen`, whether vectors are computed once and kept.
      hidden: width of a layer with GELU between encoder and projection; 0 for none.
      dropout: of what that layer gives.
      options: the encoder's options.
      rngs: random streams.

    Raises:
      ValueError: a name or a combination is not possible.
    """
    if hidden < 0:
      raise ValueError(f"config.model.item.hidden = {hidden} must be at least 0")
    _check(mode, weights, accumulate, frozen_in_training and mode == "frozen" and cache)
    made = recipe(encoder, recipe_options(options), weights or RANDOM, dtype)
    built = made.build(rngs=rngs)
    self.recipe = made.completed(built.spec)
    self.mode, self.spec = mode, built.spec
    self.first_trained = _first_trained(mode, train_from, built)
    self.frozen = self.recipe if mode == "frozen" and cache else None
    self.weights = "" if made.weights == RANDOM or self.frozen else made.weights
    features = {"features": Need((built.spec.features,), "float32")}
    self.reads = features if self.frozen else {made.content: self.recipe.need()}
    self.accumulate = accumulate
    holder, net = self.net_name
    self.torch_names = (
      (r"^encoder\.", f"{holder}.{net}." if net else f"{holder}."),
      (rf"^{self.projection_path}\.", f"{holder}.{built.projection_name}."),
    )
    if self.frozen is None:
      built.remat, built.frozen_in_training = remat, frozen_in_training
      below = tuple(f"{stage}." for stage in built.stages[: self.first_trained])
      freeze(built, [path for path, name in names_by_path(built).items() if below and f"{name}.".startswith(below)])
      self.encoder = built
    self.hidden = nnx.Linear(built.spec.features, hidden, kernel_init=xavier_normal, rngs=rngs) if hidden else None
    self.dropout = Dropout(dropout)
    if hidden:
      projection = nnx.Linear(hidden, dim, kernel_init=xavier_normal, rngs=rngs)
    else:
      projection = built.projection(dim, rngs=rngs)
    setattr(self, self.projection_path, projection)

  @property
  def recipes(self) -> dict[str, Recipe]:
    """What makes, or reads, the arrays that `reads` names."""
    return {name: self.recipe for name in self.reads}

  def head(self, features: Array, context: Context) -> Array:
    """Item vectors `[U, dim]` of the encoder's `features [U, spec.features]` float32."""
    if self.hidden is not None:
      features = self.dropout(gelu(self.hidden(features)), context.rngs)
    return getattr(self, self.projection_path)(features)

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
      return self.head(content["features"].astype(jnp.float32), context)
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
    def encode(statistics, part):
      index, inputs, weights = part
      encoder = nnx.merge(graph, params, statistics, rest, copy=True)
      rngs = None if key is None else nnx.Rngs(dropout=jax.random.fold_in(key, index))
      features = encoder(inputs, Context(True, rngs, weights), first_trained=self.first_trained)
      return nnx.state(encoder, nnx.BatchStat), features

    parted = (jnp.arange(parts), jax.tree.map(split, inputs), split(weights))
    statistics, features = jax.lax.scan(encode, statistics, parted)
    nnx.update(self.encoder, statistics)
    return features.swapaxes(0, 1).reshape(-1, features.shape[-1])[:number]


def _check(mode: str, weights: str, accumulate: int, moving: bool) -> None:
  if mode not in MODES:
    raise ValueError(f"config.model.item.mode = {mode!r}: {closest(mode, MODES)}")
  if mode == "scratch" and weights:
    raise ValueError("config.model.item.mode = 'scratch' starts at random: it takes no weights")
  if mode != "scratch" and not weights:
    raise ValueError(
      f"config.model.item.mode = {mode!r} needs config.model.item.weights: a file, or {RANDOM!r}"
    )  # fmt: skip
  if accumulate < 1:
    raise ValueError(f"config.model.item.accumulate = {accumulate}: expected at least 1 part")
  if moving:
    raise ValueError(
      "config.model.item.frozen_in_training changes vectors from step to step: it needs config.model.item.cache=False"
    )


def _first_trained(mode: str, train_from: str, encoder: Encoder) -> int:
  stages = encoder.stages
  if train_from and mode != "top":
    raise ValueError(f"config.model.item.train_from = {train_from!r} is for the mode 'top', not {mode!r}")
  if mode in ("full", "scratch"):
    return 0
  if mode == "frozen":
    return len(stages)
  stage = train_from or encoder.spec.top
  if stage not in stages:
    raise ValueError(f"config.model.item.train_from = {stage!r}: {closest(stage, stages)}")
  return stages.index(stage)
