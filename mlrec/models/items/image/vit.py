"""A small vision transformer over images, to train from a random start on a laptop."""

from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.image.encoder import check_transformer
from mlrec.models.items.image.encoder import ImageEncoder
from mlrec.models.items.image.encoder import Spec
from mlrec.models.items.image.encoder import Tokens
from mlrec.models.layers.context import Context
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models
from mlrec.registry import closest
from mlrec.registry import OptionError

POSITIONS = ("sinusoid", "learned")


@models.register("vit_image_s", kind=IMAGE_ENCODER)
class ViT(ImageEncoder):
  """Patches through pre-norm blocks (Dosovitskiy et al., ICLR 2021); the mean of normalised tokens is the output.

  By default 1.8 million parameters and 64 tokens for an image of 64 by 64 pixels. Any multiple of the patch will do.
  """

  def __init__(
    self,
    *,
    dim: int = 192,
    depth: int = 4,
    heads: int = 3,
    hidden: int | None = None,
    patch: int = 8,
    size: int = 64,
    positions: str = "sinusoid",
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      dim: channels, and the width of the output; a multiple of 4 for sinusoids.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention.
      hidden: channels within the MLPs; four times `dim` by default.
      patch: height and width of a patch.
      size: height and width of the images that it is meant for.
      positions: `sinusoid` for fixed ones, `learned` for a table, which is interpolated for images of another size.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit, or there is no such kind of positions.
    """
    if positions not in POSITIONS:
      raise OptionError("positions", f"= {positions!r}: {closest(positions, POSITIONS)}")
    check_transformer(dim=dim, depth=depth, heads=heads, hidden=hidden or 1, patch=patch, size=size)
    self.spec = Spec(
      size=size, **IMAGENET, features=dim, weights="", licence="", source="trained from a random start",
      top=f"blocks.{max(depth - 2, 0)}", half=f"blocks.{depth // 2}",
    )  # fmt: skip
    self.stages = ("embedding", *(f"blocks.{n}" for n in range(depth)), "norm")
    side = size // patch
    table = nnx.Param(truncated_normal(0.02)(rngs.params(), (side**2, dim))) if positions == "learned" else None
    self.embedding = Tokens(ImagePatches(dim, patch, dtype=dtype, rngs=rngs), table, side)
    self.blocks = nnx.List([Block(dim, heads, hidden=hidden, dtype=dtype, rngs=rngs) for _ in range(depth)])
    self.norm = LayerNorm(dim, 1e-6, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, N, D]`; the last stage's result is float32 `[B, D]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      return self.embedding(x)
    if index <= len(self.blocks):
      return self.blocks[index - 1](x)
    return self.norm(x).mean(1, dtype=jnp.float32)
