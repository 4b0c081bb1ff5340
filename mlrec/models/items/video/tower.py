"""The video tower: an item is what a video encoder makes of its frames."""

import dataclasses
import functools
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.content.base import Need
from mlrec.models.items.encoded import EncodedTower
from mlrec.models.items.recipe import Recipe
from mlrec.models.items.video.encoder import Spec
from mlrec.models.layers.context import Context
from mlrec.models.layers.transformer import gelu
from mlrec.models.layers.variables import ENCODER
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import closest
from mlrec.registry import OptionError

PIXELS = ("spec", "double", "reference")


@dataclasses.dataclass(frozen=True)
class VideoRecipe(Recipe):
  """A video encoder and its clips.

  Attributes:
    frames: frames a clip; 0 for the encoder's own.
    size: their height and width; 0 for the encoder's own.
    pixels: how they are normalised, one of `PIXELS`.
  """

  kind = VIDEO_ENCODER
  content = "frames"

  frames: int = 0
  size: int = 0
  pixels: str = "spec"

  def encoder_options(self) -> dict[str, Any]:
    fitted = {}
    if getattr(models.get(self.encoder, kind=VIDEO_ENCODER), "fitted_to_clips", False):
      # Built for other clips, it would interpolate a file's positions twice, and lose some in between.
      fitted = {name: value for name, value in (("num_frames", self.frames), ("size", self.size)) if value}
    return fitted | dict(self.options)

  def completed(self, spec: Spec) -> "VideoRecipe":
    return dataclasses.replace(self, frames=self.frames or spec.frames, size=self.size or spec.size)

  def need(self) -> Need:
    return Need((self.frames, self.size, self.size, 3), "uint8")

  def reading(self) -> dict[str, Any]:
    return {"frames": self.frames, "size": self.size}

  def inputs(self, array: Array, padding: Array, spec: Spec) -> Array:
    """Normalised clips `[B, F, S, S, 3]`; the padding item's is zeros, not a black one."""
    clips = normalise(array, spec.mean, spec.std, self.pixels)
    return jnp.where(padding[:, None, None, None, None], 0, clips).astype(self.dtype)


@models.register("video", kind=ITEM_TOWER)
class VideoTower(EncodedTower):
  """GELU of a projection of a video encoder's output (arXiv 2309.15379, section 4.1, and its released code)."""

  encodes = VIDEO_ENCODER
  net_name = ("video_encoder", "video_net")
  projection_group = ENCODER

  def __init__(
    self,
    num_items: int,
    dim: int = 512,
    *,
    encoder: str = "videomae_b",
    frames: int = 0,
    size: int = 0,
    pixels: str = "spec",
    rngs: nnx.Rngs,
    **shared: Any,
  ):
    """Builds the tower.

    Args:
      num_items: not used; videos say which item they are of.
      dim: width of item vectors.
      encoder: a video encoder's name.
      frames: frames a clip; 0 for the encoder's own.
      size: height and width of frames; 0 for the encoder's own.
      pixels: `spec` normalises by the encoder's statistics; `double` and `reference` do as MicroLens's code did.
      rngs: random streams.
      **shared: the other options of `EncodedTower`.

    Raises:
      ValueError: a name or a combination is not possible.
    """
    del num_items
    if pixels not in PIXELS:
      raise OptionError("pixels", f"= {pixels!r}: {closest(pixels, PIXELS)}")
    at_least(0, frames=frames, size=size)
    recipe = functools.partial(VideoRecipe, frames=frames, size=size, pixels=pixels)
    super().__init__(recipe, dim, encoder=encoder, rngs=rngs, **shared)

  def head(self, features: Array, context: Context) -> Array:
    return gelu(super().head(features, context))


def normalise(frames: Array, mean: tuple[float, ...], std: tuple[float, ...], pixels: str = "spec") -> Array:
  """uint8 pixels to what encoders are fed, float32.

  `spec` is (P / 255 - mean) / std. MicroLens's released code first stretches pixels to [-1, 1]; `double` goes on from
  there, and `reference` also wraps the result into 8 bits, as the library version that it pins did.
  """
  x = jnp.asarray(_wrapped())[frames.astype(jnp.int32)] if pixels == "reference" else frames.astype(jnp.float32) / 255
  if pixels == "double":
    x = (x - 0.5) / 0.5
  return (x - jnp.asarray(mean)) / jnp.asarray(std)


@functools.cache
def _wrapped() -> np.ndarray:
  """`[256]` float32: each byte stretched to [-1, 1] and wrapped into 8 bits, on a scale of 0 to 1.

  Before the fraction is cut off a result may lie a rounding to either side of a whole number, so this is NumPy's
  division: a compiler that multiplies by the inverse gives every eighth byte another value.
  """
  stretched = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
  return (np.trunc(stretched * np.float32(255)) % 256).astype(np.float32) / np.float32(255)
