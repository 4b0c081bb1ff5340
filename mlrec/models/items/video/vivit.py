"""ViViT with a factorised encoder (Arnab et al., ICCV 2021, section 3.3, model 2)."""

import dataclasses
import math
from typing import Any

from einops import rearrange
from einops import repeat
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.hugging_face import VIT_LAYERS
from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.patches import PatchEmbedding
from mlrec.models.layers.patches import resized
from mlrec.models.layers.patches import whole_windows
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-6


class ViViT(VideoEncoder):
  """A transformer within each slice of time, then one over the slices; each reads out a class token of its own.

  The activation is the exact GELU. Clips of any length will do, and of any multiple of the patch: the last frame is
  repeated to fill its tubelet, and tables of positions are interpolated. Parameters are called as in Hugging Face's
  form of the unfactorised model, and those over time likewise below `temporal_`; no weights are published so.
  """

  torch_names = (
    (r"^(temporal_)?tokens\.", r"\1embeddings."),
    (r"^patches\.", "embeddings.patch_embeddings.projection."),
    (r"^temporal_blocks\.", "temporal_encoder.layer."),
    (r"^(temporal_)?norm\.", r"\1layernorm."),
    *VIT_LAYERS,
  )

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    temporal_depth: int = 4,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 16,
    tubelet: int = 2,
    size: int = 224,
    num_frames: int = 6,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`: they are `dim`.
      dim: channels of both transformers.
      depth: blocks of the one within slices.
      temporal_depth: blocks of the one over slices.
      heads: of the attention.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      tubelet: its frames, which are a slice.
      size: height and width of the frames that the table of positions fits.
      num_frames: the frames that it fits.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit.
    """
    at_least(1, dim=dim, depth=depth, temporal_depth=temporal_depth, heads=heads, hidden=hidden, patch=patch)
    at_least(1, tubelet=tubelet, size=size, num_frames=num_frames)
    if size % patch:
      raise OptionError("size", f"= {size} must be a multiple of patch = {patch}")
    self.spec = dataclasses.replace(spec, features=dim)
    self.stages = (
      "embeddings",
      *(f"encoder.layer.{n}" for n in range(depth)),
      "layernorm",
      "temporal_embeddings",
      *(f"temporal_encoder.layer.{n}" for n in range(temporal_depth)),
      "temporal_layernorm",
    )

    def blocks(number: int) -> Any:
      options = {"hidden": hidden, "epsilon": _EPSILON, "dtype": dtype}
      return nnx.List([Block(dim, heads, **options, rngs=rngs) for _ in range(number)])

    self.tubelet = tubelet
    self.tokens = ClassToken(dim, (size // patch, size // patch), rngs=rngs)
    self.patches = PatchEmbedding(dim, tubelet, patch, dtype=dtype, rngs=rngs)
    self.blocks = blocks(depth)
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.temporal_tokens = ClassToken(dim, (-(-num_frames // tubelet),), rngs=rngs)
    self.temporal_blocks = blocks(temporal_depth)
    self.temporal_norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Within slices what passes is `[B, T', N, D]`, over them `[B, N, D]`."""
    del context  # Nothing here acts otherwise in training.
    spatial = len(self.blocks)
    if index == 0:
      x = self.patches(whole_windows(x, self.tubelet))
      tokens = self.tokens(rearrange(x, "b t h w d -> (b t) h w d"))
      return rearrange(tokens, "(b t) n d -> b t n d", t=x.shape[1])
    if index <= spatial:
      tokens = self.blocks[index - 1](rearrange(x, "b t n d -> (b t) n d"))
      return rearrange(tokens, "(b t) n d -> b t n d", t=x.shape[1])
    if index == spatial + 1:
      return self.norm(x[:, :, 0])
    if index == spatial + 2:
      return self.temporal_tokens(x)
    if index <= spatial + 2 + len(self.temporal_blocks):
      return self.temporal_blocks[index - spatial - 3](x)
    return self.temporal_norm(x[:, 0]).astype(jnp.float32)


class ClassToken(nnx.Module):
  """Puts a learned token first and adds a learned position to each."""

  def __init__(self, dim: int, grid: tuple[int, ...], *, rngs: nnx.Rngs):
    """`grid`: the sizes that the table is for."""
    rows = 1 + math.prod(grid)
    self.grid = grid
    self.cls_token = nnx.Param(jnp.zeros((1, 1, dim)))
    self.position_embeddings = nnx.Param(truncated_normal(0.02)(rngs.params(), (1, rows, dim)))

  def __call__(self, x: Array) -> Array:
    """`[B, *grid, D]`, of any grid, to `[B, 1 + product of grid, D]`."""
    table = self.position_embeddings[0]
    first = self.cls_token[0] + table[:1]
    first = repeat(first.astype(x.dtype), "1 d -> b 1 d", b=len(x))
    others = rearrange(x, "b ... d -> b (...) d") + resized(table[1:], self.grid, x.shape[1:-1]).astype(x.dtype)
    return jnp.concatenate([first, others], axis=1)


VARIANTS: dict[str, Spec] = {
  "vivit_b": Spec(
    frames=5, interval=1, size=224, **KINETICS, features=768, weights="", licence="", top="encoder.layer.10",
    half="encoder.layer.6", source="arXiv 2103.15691; no weights in a format that is read here",
  ),
}  # fmt: skip


for _name, _published in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(ViViT, spec=_published))
