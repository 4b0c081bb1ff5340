"""What encoders of items' content have in common: stages that run one after the other."""

import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import Array
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from mlrec.models.layers.context import Context
from mlrec.models.layers.context import EVALUATION
from mlrec.models.layers.initializers import xavier_normal

# What frozen stages hand to trained ones goes by this name in `jax.checkpoint`'s policies.
FROZEN = "frozen"


# Statistics of the pixels, on a scale of 0 to 1, that published encoders were trained with.
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
  """What an encoder is and where its weights come from; a modality's own adds what it is fed.

  Attributes:
    features: the width of its output.
    weights: name of the published file.
    licence: of those weights.
    top: the first stage that is trained in the mode `top`.
    half: likewise where half of the encoder is trained, for encoders published so.
    source: where architecture and weights were published.
  """

  features: int
  weights: str
  licence: str
  top: str
  half: str | None = None
  source: str = ""


class Encoder(nnx.Module):
  """Content of items to a vector each, stage by stage.

  A class builds its parts, names its stages and says what each does. Stages before the first trained one run as in
  evaluation, and no gradient enters them.

  Attributes:
    spec: what it expects.
    stages: the stages' names in order of computation. Each is the prefix, up to a dot, of the PyTorch names of its
      parameters, or the whole name of its only one, and PyTorch's parameter order is the order of stages.
    remat: whether trained stages are computed again in the backward pass, instead of keeping what it needs.
    frozen_in_training: whether frozen stages run as in training: their statistics move and dropout draws, as in
      MicroLens's released code.
    projection_name: the PyTorch name, in MicroLens's code, of the projection to item vectors that follows.
  """

  spec: Spec
  stages: tuple[str, ...]
  remat: bool = False
  frozen_in_training: bool = False
  projection_name: str

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """What stage `index` makes of the result of the one before (of the content, for 0)."""
    raise NotImplementedError

  def make_projection(self, dim: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """The layer, at its start, that makes item vectors of `dim` of the output (MicroLens's code)."""
    return nnx.Linear(self.spec.features, dim, kernel_init=xavier_normal, rngs=rngs)

  def __call__(self, content: Any, context: Context = EVALUATION, *, first_trained: int = 0) -> Array:
    """Encodes B items.

    Args:
      content: arrays of B rows, in the form that the first stage takes.
      context: how trained stages are run.
      first_trained: the number of the first trained stage; `len(stages)` where all are frozen.

    Returns:
      `[B, spec.features]`.
    """
    x = content
    below = context if self.frozen_in_training else EVALUATION
    for index in range(len(self.stages)):
      if index == first_trained and index:
        x = jax.tree.map(lambda leaf: checkpoint_name(jax.lax.stop_gradient(leaf), FROZEN), x)
      x = self._run(index, x, context) if index >= first_trained else self.stage(index, x, below)
    if getattr(x, "ndim", 0) != 2 or x.shape[1] != self.spec.features:
      raise ValueError(
        f"the last stage of {type(self).__name__}, {self.stages[-1]!r}, gives {jax.tree.map(jnp.shape, x)}, and not "
        f"[items, {self.spec.features}], as spec.features says"
      )
    return jax.lax.stop_gradient(x) if first_trained >= len(self.stages) else x

  def _run(self, index: int, x: Any, context: Context) -> Any:
    if not self.remat:
      return self.stage(index, x, context)

    def run(encoder: Encoder, x: Any, rngs: nnx.Rngs | None) -> Any:
      return encoder.stage(index, x, context._replace(rngs=rngs))

    return nnx.remat(run)(self, x, context.rngs)


def of_unit_length(x: Array) -> Array:
  """`x [..., D]` divided by its length; nothing has no direction: it stays 0, and its gradient is finite."""
  return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
