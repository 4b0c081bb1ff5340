"""The image tower: an item is what an image encoder makes of its cover."""

import dataclasses
import functools
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.content.base import Need
from mlrec.models.items.encoded import EncodedTower
from mlrec.models.items.image.encoder import Spec
from mlrec.models.items.recipe import Recipe
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import at_least


@dataclasses.dataclass(frozen=True)
class ImageRecipe(Recipe):
  """An image encoder and its covers.

  Attributes:
    size: their height and width; 0 for the encoder's own.
  """

  kind = IMAGE_ENCODER
  content = "cover"

  size: int = 0

  def completed(self, spec: Spec) -> "ImageRecipe":
    return dataclasses.replace(self, size=self.size or spec.size)

  def need(self) -> Need:
    return Need((self.size, self.size, 3), "uint8")

  def reading(self) -> dict[str, Any]:
    return {"size": self.size}

  def inputs(self, array: Array, padding: Array, spec: Spec) -> Array:
    """Normalised images `[B, S, S, 3]`; the padding item's is zeros, not a black one."""
    images = (array.astype(jnp.float32) / 255 - jnp.asarray(spec.mean)) / jnp.asarray(spec.std)
    return jnp.where(padding[:, None, None, None], 0, images).astype(self.dtype)


@models.register("image", kind=ITEM_TOWER)
class ImageTower(EncodedTower):
  """A projection of an image encoder's output, without an activation, as in MicroLens's released code."""

  encodes = IMAGE_ENCODER
  net_name = ("image_encoder", "image_net")

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    encoder: str = "clip_vit_b_32",
    size: int = 0,
    rngs: nnx.Rngs,
    **shared: Any,
  ):
    """Builds the tower.

    Args:
      num_items: not used; covers say which item they are of.
      dim: width of item vectors.
      encoder: an image encoder's name.
      size: height and width of covers; 0 for the encoder's own.
      rngs: random streams.
      **shared: the other options of `EncodedTower`.

    Raises:
      ValueError: a name or a combination is not possible.
    """
    del num_items
    at_least(0, size=size)
    super().__init__(functools.partial(ImageRecipe, size=size), dim, encoder=encoder, rngs=rngs, **shared)
