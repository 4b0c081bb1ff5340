"""What all image encoders have in common."""

import dataclasses

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items import encoder
from mlrec.models.items.encoder import Encoder
from mlrec.models.layers.patches import grid_sinusoids
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.patches import resized

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
    batch, height, width, dim = patches.shape
    if self.positions is None:
      grid = jnp.asarray(grid_sinusoids(height, width, dim))
      return patches.reshape(batch, -1, dim) + grid.astype(patches.dtype)
    first, grid = jnp.split(self.positions[...].reshape(-1, dim), [0 if self.token is None else 1])
    grid = resized(grid, (self.side, self.side), (height, width), cubic=True)
    tokens = patches.reshape(batch, -1, dim) + grid.astype(patches.dtype)
    if self.token is None:
      return tokens
    token = (self.token[...].reshape(1, dim) + first).astype(patches.dtype)
    return jnp.concatenate([jnp.broadcast_to(token, (batch, 1, dim)), tokens], axis=1)


def check_transformer(*, depth: int, patch: int, size: int) -> None:
  """Sees to it that a transformer has blocks, and its table of positions whole patches.

  Raises:
    ValueError: `depth` is below 1, or `size` is no multiple of `patch`.
  """
  if depth < 1:
    raise ValueError(f"depth = {depth} must be at least 1")
  if patch < 1 or size < patch or size % patch:
    nearest = max(patch, 1) * max(1, round(size / max(patch, 1)))
    raise ValueError(f"size = {size} must be a multiple of patch = {patch}: the nearest is {nearest}")
