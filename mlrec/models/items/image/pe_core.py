"""The image half of PE-Core (Bolya et al., Perception Encoder, arXiv 2504.13181), as Meta publishes it."""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from einops import rearrange
from einops import repeat
from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.image.encoder import check_transformer
from mlrec.models.items.image.encoder import HALVES
from mlrec.models.items.image.encoder import ImageEncoder
from mlrec.models.items.image.encoder import Spec
from mlrec.models.items.open_clip import OPEN_CLIP_LAYERS
from mlrec.models.items.open_clip import Table
from mlrec.models.layers.context import Context
from mlrec.models.layers.joint_attention import AttentionPool
from mlrec.models.layers.joint_attention import JointBlock
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.patches import resized
from mlrec.models.layers.rotary import angles
from mlrec.models.layers.rotary import NEIGHBOURS
from mlrec.models.layers.rotary import turned
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-5
_BASE = 10_000.0
_HEAD, _TAIL = ("conv1", "class_embedding", "positional_embedding", "ln_pre"), ("ln_post", "attn_pool", "proj")


class PECore(ImageEncoder):
  """A vision transformer with rotary positions, too; a learned query pools the tokens, and its result is projected.

  The output lies in the space that images share with the texts of the encoder of the same name. Square images of any
  multiple of the patch will do: the table of positions is interpolated linearly, as in the published code.
  """

  torch_names = (
    (r"^patches\.", "conv1."),
    (r"^token\.values$", "class_embedding"),
    (r"^positions\.values$", "positional_embedding"),
    (r"^norm_before\.", "ln_pre."),
    (r"^norm_after\.", "ln_post."),
    (r"^pool\.mlp\.fc1\.", "pool.mlp.c_fc."),
    (r"^pool\.mlp\.fc2\.", "pool.mlp.c_proj."),
    (r"^pool\.attention\.", "pool.attn."),
    (r"^pool\.", "attn_pool."),
    (r"^projection\.values$", "proj"),
    *OPEN_CLIP_LAYERS,
    (r"^", "visual."),
  )
  # The half that reads texts.
  torch_dropped = (
    r"^(transformer|ln_final|token_embedding)\.", r"^(positional_embedding|text_projection|logit_scale)$",
  )  # fmt: skip

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    pool_heads: int = 8,
    features: int = 1024,
    patch: int = 16,
    size: int = 224,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels, a multiple of `pool_heads`.
      depth: blocks; in the mode `top` the last two are trained, and what follows them.
      heads: of the attention; each has a multiple of 4 channels.
      hidden: channels within the MLPs of the blocks; that of the pool has 4 `dim`.
      pool_heads: of the attention that pools.
      features: width of the output.
      patch: height and width of a patch.
      size: height and width of the images that the table of positions fits, a multiple of `patch`.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit, or there is no block.
    """
    check_transformer(dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, size=size)
    at_least(1, features=features, pool_heads=pool_heads)
    if dim % (4 * heads):
      nearest = 4 * heads * max(1, round(dim / (4 * heads)))
      raise OptionError("dim", f"= {dim} must be a multiple of 4 heads = {4 * heads}: the nearest is {nearest}")
    blocks = [f"visual.transformer.resblocks.{n}" for n in range(depth)]
    self.spec = dataclasses.replace(
      spec, size=size, features=features, top=blocks[max(depth - 2, 0)], half=blocks[depth // 2]
    )
    self.stages = (*(f"visual.{name}" for name in _HEAD), *blocks, *(f"visual.{name}" for name in _TAIL))
    start = nnx.initializers.normal(dim**-0.5)
    self.side = size // patch
    self.patches = ImagePatches(dim, patch, use_bias=False, dtype=dtype, rngs=rngs)
    self.token = Table(start(rngs.params(), (dim,)))
    self.positions = Table(start(rngs.params(), (1 + self.side**2, dim)))
    self.norm_before = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(JointBlock(dim, heads, hidden, epsilon=_EPSILON, dtype=dtype, rngs=rngs))
    self.norm_after = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.pool = AttentionPool(dim, pool_heads, 4 * dim, epsilon=_EPSILON, dtype=dtype, rngs=rngs)
    self.projection = Table(start(rngs.params(), (dim, features)))

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, N, D]`, then `[B, 1 + N, D]`; the last stage's result is float32 `[B, features]`."""
    del context  # Nothing here acts otherwise in training.
    name = self.stages[index].removeprefix("visual.")
    if name == "conv1":
      return self._cut(x)
    if name == "class_embedding":
      return jnp.concatenate([repeat(self.token().astype(x.dtype), "d -> b 1 d", b=len(x)), x], axis=1)
    if name == "positional_embedding":
      first, grid = jnp.split(self.positions(), [1])
      grid = resized(grid, (self.side, self.side), (_side(x), _side(x)))
      return x + jnp.concatenate([first, grid]).astype(x.dtype)
    if name == "ln_pre":
      return self.norm_before(x)
    if name == "ln_post":
      return self.norm_after(x)
    if name == "attn_pool":
      return self.pool(x)
    if name == "proj":
      return (x @ self.projection().astype(x.dtype)).astype(jnp.float32)
    block = self.blocks[index - len(_HEAD)]
    by = _turns(_side(x), x.shape[-1] // block.attention.heads)
    return block(x, turn=functools.partial(turned, angles=by, pairs=NEIGHBOURS))

  def _cut(self, images: Array) -> Array:
    if images.ndim == 4 and images.shape[1] != images.shape[2]:
      raise ValueError(f"expected square images [B, S, S, 3], not an array of shape {tuple(images.shape)}")
    return rearrange(self.patches(images), "b h w d -> b (h w) d")

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries, under the prefix of a whole model's, which the image half alone may not have."""
    whole = any(name.startswith("visual.") for name in entries)
    return {name if whole else f"visual.{name}": array for name, array in entries.items()}


def _side(tokens: Array) -> int:
  """Of the grid of patches in `tokens [B, 1 + N, D]`."""
  return math.isqrt(tokens.shape[1] - 1)


@functools.lru_cache(maxsize=32)
def _turns(side: int, channels: int) -> np.ndarray:
  """`[1 + side * side, channels / 2]` radians: a patch's column turns the first half, its row the second, from 1 on."""
  rows, columns = rearrange(np.indices((side, side)), "yx h w -> yx (h w)") + 1
  by = [np.append(0, places) for places in (columns, rows)]
  return np.concatenate([angles(places, channels // 4, _BASE) for places in by], axis=1)


def _spec(name: str, size: int) -> Spec:
  """Without what the options say: the net fills it in."""
  return Spec(
    size=size, mean=HALVES["mean"], std=HALVES["std"], features=0, weights=f"{name}.pt", licence="Apache-2.0",
    top="", source=f"facebook/{name}",
  )  # fmt: skip


def _width(dim: int, depth: int = 12, features: int = 512, patch: int = 16) -> dict[str, Any]:
  """Heads have 64 channels."""
  return {
    "dim": dim, "depth": depth, "heads": dim // 64, "hidden": 4 * dim, "features": features, "patch": patch,
  }  # fmt: skip


# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "pe_core_t_16": (_spec("PE-Core-T16-384", 384), _width(192) | {"size": 384}),
  "pe_core_s_16": (_spec("PE-Core-S16-384", 384), _width(384) | {"size": 384}),
  "pe_core_b_16": (_spec("PE-Core-B16-224", 224), _width(768, features=1024) | {"size": 224}),
  "pe_core_l_14": (_spec("PE-Core-L14-336", 336), _width(1024, 24, 1024, 14) | {"size": 336}),
}


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=IMAGE_ENCODER)(variant(PECore, spec=_published, **_options))
