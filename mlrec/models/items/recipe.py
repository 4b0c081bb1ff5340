"""An encoder and what it is fed: what the vectors of a frozen encoder depend on, beside the content itself."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.models.items.encoder import Encoder
from mlrec.models.registry import models
from mlrec.registry import closest
from mlrec.registry import OptionError
from mlrec.registry import options_of

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
    """The encoder, at random.

    Raises:
      OptionError: there is no such encoder, or one of its options is wrong.
    """
    known = models.names(self.kind)
    if self.encoder not in known:
      raise OptionError("encoder", f"= {self.encoder!r}: there is no such {self.kind}; {closest(self.encoder, known)}")
    dtype = jnp.dtype(self.dtype)
    with options_of("options"):
      return models.create(self.encoder, kind=self.kind, section=self.encoder_options(), rngs=rngs, dtype=dtype)

  def encoder_options(self) -> dict[str, Any]:
    """The options that the encoder is built with."""
    return dict(self.options)

  def completed(self, spec: Any) -> "Recipe":
    """With the encoder's own preferences, its `spec`, where this states none."""
    del spec
    return self

  def stated(self) -> dict[str, Any]:
    """What vectors depend on, in JSON's types; of the weights, where they lie."""
    return dataclasses.asdict(self) | {"options": dict(self.options)}

  def need(self) -> Need:
    """The array that is read of each item."""
    raise NotImplementedError

  def opening(self) -> dict[str, Any]:
    """The keywords with which the content's source is opened, beside where it lies."""
    return {}

  def reading(self) -> dict[str, Any]:
    """The keywords of the source's `read` that give arrays of `need`."""
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
