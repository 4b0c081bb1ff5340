"""V-JEPA 2's encoder (Assran et al., arXiv 2506.09985), as Hugging Face's library publishes it."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers import transformer
from mlrec.models.layers.context import Context
from mlrec.models.layers.patches import PatchEmbedding
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-6
_BASE = 10_000.0


class VJEPA2(VideoEncoder):
  """A vision transformer that turns queries and keys by their place in time, height and width.

  The output is the mean of all tokens after the last norm. There is no table of places, so any number of frames and
  any multiples of the patch will do; a clip shorter than a window is repeated, and frames beyond the last whole window
  are not read. The predictor of the pre-training and the pooler of the fine-tuning are not used.
  """

  torch_names = (
    (r"^embedding\.", "encoder.embeddings.patch_embeddings.proj."),
    (r"^blocks\.", "encoder.layer."),
    (r"^norm\.", "encoder.layernorm."),
    (r"\.attention\.out\.", ".attention.proj."),
    (r"\.attention_norm\.", ".norm1."),
    (r"\.mlp_norm\.", ".norm2."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
  )
  torch_dropped = (r"^(predictor|pooler|classifier)\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 1024,
    depth: int = 24,
    heads: int = 16,
    hidden: int = 4096,
    patch: int = 16,
    tubelet: int = 2,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`: they are `dim`.
      dim: channels.
      depth: blocks.
      heads: of the attention; each has an even number of channels, at least 6: two for an axis.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      tubelet: its frames.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `dim` and `heads` do not fit, or there is no block.
    """
    at_least(1, dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, tubelet=tubelet)
    if dim % (2 * heads) or dim < 6 * heads:
      raise OptionError(
        "dim",
        f"= {dim} must give each of heads = {heads} the same even number of channels, and 6 or more: "
        f"the nearest is {2 * heads * max(3, round(dim / (2 * heads)))}",
      )
    self.spec = dataclasses.replace(spec, features=dim)
    self.stages = ("encoder.embeddings", *(f"encoder.layer.{n}" for n in range(depth)), "encoder.layernorm")
    self.tubelet = tubelet
    self.embedding = PatchEmbedding(dim, tubelet, patch, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List([Block(dim, heads, hidden=hidden, dtype=dtype, rngs=rngs) for _ in range(depth)])
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, T, H, W, D]`; the last stage's result is float32 `[B, D]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      short = x.ndim == 5 and 0 < x.shape[1] < self.tubelet
      return self.embedding(jnp.concatenate([x] * self.tubelet, axis=1) if short else x)
    if index <= len(self.blocks):
      return self.blocks[index - 1](x)
    return self.norm(x).mean((1, 2, 3), dtype=jnp.float32)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the prefix that those of a classifier have."""
    return {name.removeprefix("vjepa2."): array for name, array in entries.items()}


class Block(transformer.Block):
  """Attention that knows places, then an MLP, each after a norm of its input and beside a shortcut."""

  def __init__(self, dim: int, heads: int, *, hidden: int, dtype: Any, rngs: nnx.Rngs):
    super().__init__(dim, heads, hidden=hidden, epsilon=_EPSILON, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """`x [B, T, H, W, D]` to the same shape."""
    _, time, height, width, _ = x.shape
    tokens = rearrange(self.attention_norm(x), "b t h w d -> b (t h w) d")
    mixed = self._mixed(tokens, (time, height, width))
    x = x + rearrange(mixed, "b (t h w) d -> b t h w d", t=time, h=height, w=width)
    return x + self.mlp(self.mlp_norm(x))

  def _mixed(self, tokens: Array, grid: tuple[int, ...]) -> Array:
    query, key, value = self.attention.projected(tokens)
    return self.attention.joined(attend(turned(query, grid), turned(key, grid), value))


def turned(x: Array, grid: tuple[int, ...]) -> Array:
  """`x [B, N, H, C]` with neighbouring channels turned in pairs by the place of each of the N = T H W tokens."""
  cosines, sines = (jnp.asarray(table)[:, None] for table in rotation(grid, x.shape[-1]))
  exact = x.astype(jnp.float32)
  pairs = rearrange(exact, "b n h (c pair) -> b n h c pair", pair=2)
  across = rearrange(jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1), "b n h c pair -> b n h (c pair)")
  return (exact * cosines + across * sines).astype(x.dtype)


@functools.lru_cache(maxsize=32)
def rotation(grid: tuple[int, ...], channels: int) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and sines `[T * H * W, channels]`, float32, of the angles that each token's channels are turned by.

  A third of the channels, rounded down to an even number, is for each of time, height and width; what remains is not
  turned. Within a third, channel c has frequency c modulo half of the third: the published weights were trained so,
  although the two channels of a pair then differ in their angles and lengths are not kept.
  """
  third = channels // 3 // 2 * 2
  frequencies = np.tile(_BASE ** -(np.arange(third // 2) / (third / 2)), 2)
  angles = np.zeros((np.prod(grid), channels))
  for axis, places in enumerate(rearrange(np.indices(grid), "tyx t h w -> tyx (t h w)")):
    angles[:, axis * third : (axis + 1) * third] = places[:, None] * frequencies
  return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


# Frames are four a second, which is the eighth of most videos' 30.
VARIANTS: dict[str, Spec] = {
  "vjepa2_l": Spec(
    frames=64, interval=8, size=256, **IMAGENET, features=1024, weights="model.safetensors", licence="MIT",
    top="encoder.layer.22", half="encoder.layer.12", source="facebook/vjepa2-vitl-fpc64-256",
  ),
}  # fmt: skip


for _name, _published in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(VJEPA2, spec=_published))
