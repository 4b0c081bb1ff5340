"""What all image encoders have in common."""

import dataclasses

from einops import rearrange
from einops import repeat
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items import encoder
from mlrec.models.items.encoder import Encoder
from mlrec.models.layers.patches import grid_sinusoids
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.patches import resized
from mlrec.registry import at_least
from mlrec.registry import OptionError

# Statistics of the pixels, on a scale of 0 to 1, that published encoders were trained with.
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@dataclasses.dataclass(frozen=True)
class Spec(encoder.Spec):
  """What an image encoder expects.

  Attributes:
    size: height and width of images in pixels.
    mean: of each colour, on a scale of 0 to 1; images are fed as (pixel / 255 - mean) / std.
    std: likewise.
  """

  size: int
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


class ImageEncoder(Encoder):
  """Images, `[B, S, S, 3]` float, normalised by `spec`, to vectors.

  MicroLens's code projects them to item vectors without an activation, other than those of videos. Where it freezes an
  encoder up to some parameter, it goes on training the first four, which embed patches; a stage here is frozen whole.
  """

  spec: Spec
  projection_name = "image_proj"


class Tokens(nnx.Module):
  """An image's patches and their positions, behind a class token, which has one too, where there is one."""

  def __init__(
    self, patches: ImagePatches, positions: nnx.Variable | None, side: int, *, token: nnx.Variable | None = None
  ):
    """Builds the layer.

    Args:
      patches: what cuts the image.
      positions: a table of the class token's, if any, and of a grid's places row by row, `[..., C]`; None for fixed
        sinusoids, without a class token.
      side: the grid's height and width.
      token: the class token, of C numbers in any shape.
    """
    self.side = side
    self.patches, self.positions, self.token = patches, positions, token

  def __call__(self, x: Array) -> Array:
    """`[B, H, W, 3]` to `[B, N, C]`; the table is interpolated, cubically, for a grid of another size."""
    patches = self.patches(x)
    height, width, dim = patches.shape[1:]
    tokens = rearrange(patches, "b h w d -> b (h w) d")
    if self.positions is None:
      return tokens + jnp.asarray(grid_sinusoids(height, width, dim)).astype(tokens.dtype)
    first, grid = jnp.split(self.positions[...].reshape(-1, dim), [0 if self.token is None else 1])
    tokens = tokens + resized(grid, (self.side, self.side), (height, width), cubic=True).astype(tokens.dtype)
    if self.token is None:
      return tokens
    token = (self.token[...].reshape(1, dim) + first).astype(tokens.dtype)
    return jnp.concatenate([repeat(token, "1 d -> b 1 d", b=len(tokens)), tokens], axis=1)


def check_transformer(*, patch: int, size: int, **others: int) -> None:
  """Sees to it that a transformer has blocks, and its table of positions whole patches.

  Raises:
    ValueError: `depth` is below 1, or `size` is no multiple of `patch`.
  """
  at_least(1, patch=patch, **others)
  if size < patch or size % patch:
    nearest = patch * max(1, round(size / patch))
    raise OptionError("size", f"= {size} must be a multiple of patch = {patch}: the nearest is {nearest}")
