"""A small vision transformer over clips, to train from a random start on a laptop."""

from typing import Any

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.patches import PatchEmbedding
from mlrec.models.layers.patches import resized
from mlrec.models.layers.patches import sinusoids
from mlrec.models.layers.patches import whole_windows
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import closest
from mlrec.registry import OptionError

POSITIONS = ("sinusoid", "learned")


@models.register("vit_s", kind=VIDEO_ENCODER)
class ViT(VideoEncoder):
  """Patches of a few frames through pre-norm blocks (Arnab et al., ICCV 2021, model 1); the mean of normalised tokens.

  By default 1.9 million parameters and 192 tokens for 5 frames of 64 by 64 pixels. Clips of any length will do, and of
  any multiple of the patch: the last frame is repeated to fill its tubelet.
  """

  def __init__(
    self,
    *,
    dim: int = 192,
    depth: int = 4,
    heads: int = 3,
    hidden: int | None = None,
    patch: int = 8,
    tubelet: int = 2,
    size: int = 64,
    num_frames: int = 5,
    positions: str = "sinusoid",
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      dim: channels, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention.
      hidden: channels within the MLPs; four times `dim` by default.
      patch: height and width of a patch; 16 is faster on frames of 112 by 112.
      tubelet: its frames.
      size: height and width of the frames that it is meant for.
      num_frames: how many it is meant for.
      positions: `sinusoid` for fixed ones, `learned` for a table in time and one in space, whose sum is taken and which
        are interpolated for other clips.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit, or there is no such kind of positions.
    """
    if positions not in POSITIONS:
      raise OptionError("positions", f"= {positions!r}: {closest(positions, POSITIONS)}")
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden or 1, patch=patch, tubelet=tubelet)
    at_least(1, size=size, num_frames=num_frames)
    if size % patch:
      raise OptionError("size", f"= {size} must be a multiple of patch = {patch}")
    self.spec = Spec(
      frames=num_frames, interval=1, size=size, **KINETICS, features=dim, weights="", licence="",
      source="trained from a random start",      top=f"blocks.{max(depth - 2, 0)}", half=f"blocks.{depth // 2}",
    )  # fmt: skip
    self.stages = ("embedding", *(f"blocks.{n}" for n in range(depth)), "norm")
    self.embedding = Embedding(
      dim, tubelet, patch, (-(-num_frames // tubelet), size // patch), positions == "learned", dtype=dtype, rngs=rngs
    )
    self.blocks = nnx.List([Block(dim, heads, hidden=hidden, dtype=dtype, rngs=rngs) for _ in range(depth)])
    self.norm = LayerNorm(dim, 1e-6, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      return self.embedding(x)
    if index <= len(self.blocks):
      return self.blocks[index - 1](x)
    return self.norm(x).mean(1, dtype=jnp.float32)


class Embedding(nnx.Module):
  """Patches and their positions."""

  def __init__(
    self, dim: int, tubelet: int, patch: int, grid: tuple[int, int], learned: bool, *, dtype: Any, rngs: nnx.Rngs
  ):
    """`grid`: patches in time, and in height and width, that learned positions are for."""
    self.tubelet, self.grid = tubelet, grid
    self.patches = PatchEmbedding(dim, tubelet, patch, dtype=dtype, rngs=rngs)
    draw = truncated_normal(0.02)
    self.temporal = nnx.Param(draw(rngs.params(), (grid[0], dim))) if learned else None
    self.spatial = nnx.Param(draw(rngs.params(), (grid[1] ** 2, dim))) if learned else None

  def __call__(self, x: Array) -> Array:
    """`[B, T, H, W, 3]` to tokens `[B, N, dim]` in the order time, height, width."""
    x = self.patches(whole_windows(x, self.tubelet))
    time, height, width, dim = x.shape[1:]
    if self.temporal is not None and self.spatial is not None:
      temporal = resized(self.temporal[...], self.grid[:1], (time,))
      spatial = resized(self.spatial[...], self.grid[1:] * 2, (height, width))
      positions = rearrange(temporal[:, None] + spatial, "t s d -> (t s) d")
    else:
      positions = jnp.asarray(sinusoids(time * height * width, dim))
    return rearrange(x, "b t h w d -> b (t h w) d") + positions.astype(x.dtype)
