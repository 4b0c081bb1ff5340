"""The text tower: an item is what a text encoder makes of its title."""

import dataclasses
import functools
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.models.items.encoded import EncodedTower
from mlrec.models.items.recipe import RANDOM
from mlrec.models.items.recipe import Recipe
from mlrec.models.items.text.encoder import Spec
from mlrec.models.items.text.packaged import resolved
from mlrec.models.items.text.packaged import resolved_tokenizer
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import OptionError


@dataclasses.dataclass(frozen=True)
class TextRecipe(Recipe):
  """A text encoder and its titles.

  Attributes:
    length: tokens of a title, special ones included; 0 for the encoder's own.
    tokenizer: its file or folder; empty for what lies beside the weights.
    lower: whether titles are lower-cased; None for the tokenizer's own choice.
    vocabulary: how many token ids the encoder knows.
    bare: whether the encoder puts a special token itself, so that the tokenizer need not put any.
  """

  kind = TEXT_ENCODER
  content = "title"

  length: int = 0
  tokenizer: str = ""
  lower: bool | None = None
  vocabulary: int = 0
  bare: bool = False

  def completed(self, spec: Spec) -> "TextRecipe":
    length = self.length or spec.length
    return dataclasses.replace(self, length=length, vocabulary=spec.vocabulary, bare=spec.bare)

  def stated(self) -> dict[str, Any]:
    """Without where the tokenizer lies: tokens, its fingerprint included, are part of what is read."""
    return {name: value for name, value in super().stated().items() if name not in ("tokenizer", "lower", "bare")}

  def need(self) -> Need:
    return Need((2, self.length), "int32")

  def opening(self) -> dict[str, Any]:
    names = ("encoder", "vocabulary", "length", "tokenizer", "lower", "bare")
    return {name: getattr(self, name) for name in names} | {"weights": "" if self.weights == RANDOM else self.weights}

  def reading(self) -> dict[str, Any]:
    return {}

  def inputs(self, array: Array, padding: Array, spec: Spec) -> Array:
    """Titles `[B, 2, L]`, ids above their mask; the padding item has none."""
    del spec
    return jnp.where(padding[:, None, None], 0, array)


@models.register("text", kind=ITEM_TOWER)
class TextTower(EncodedTower):
  """A projection of a text encoder's output, without an activation, as in MicroLens's released code."""

  encodes = TEXT_ENCODER
  net_name = ("text_encoders", "bert_model")

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    encoder: str = "bert_base",
    weights: str = "",
    length: int = 0,
    tokenizer: str = "",
    lower: bool | None = None,
    rngs: nnx.Rngs,
    **shared: Any,
  ):
    """Builds the tower.

    Args:
      num_items: not used; titles say which item they are of.
      dim: width of item vectors.
      encoder: a text encoder's name.
      weights: as of `EncodedTower`, or the name of those that come as a package (`minilm`).
      length: tokens of a title, special ones included; 0 for the encoder's own, 30.
      tokenizer: its file or folder, or the name of a package as of `weights`; empty for what lies beside the weights.
      lower: whether titles are lower-cased; None for the tokenizer's own choice.
      rngs: random streams.
      **shared: the other options of `EncodedTower`.

    Raises:
      ValueError: a name or a combination is not possible.
    """
    del num_items
    if length < 0:
      raise OptionError("length", f"= {length} must be at least 1, or 0 for the encoder's own")
    recipe = functools.partial(TextRecipe, length=length, tokenizer=resolved_tokenizer(tokenizer), lower=lower)
    super().__init__(recipe, dim, encoder=encoder, weights=resolved(weights, encoder), rngs=rngs, **shared)
