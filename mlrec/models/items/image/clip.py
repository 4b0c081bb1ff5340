"""CLIP's image encoder (Radford et al., ICML 2021), as Hugging Face's library publishes it."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.hugging_face import CLIP_DROPPED
from mlrec.models.items.hugging_face import CLIP_LAYERS
from mlrec.models.items.hugging_face import vision_prefixed
from mlrec.models.items.image.encoder import check_transformer
from mlrec.models.items.image.encoder import ImageEncoder
from mlrec.models.items.image.encoder import Spec
from mlrec.models.items.image.encoder import Tokens
from mlrec.models.layers.context import Context
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models

_EPSILON = 1e-5
_INIT = nnx.initializers.normal(0.02)

SPEC = Spec(
  size=224, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711), features=768,
  weights="pytorch_model.bin", licence="MIT", top="vision_model.encoder.layers.10",
  half="vision_model.encoder.layers.6", source="openai/clip-vit-base-patch32",
)  # fmt: skip


def quick_gelu(x: Array) -> Array:
  """x times the sigmoid of 1.702 x, which CLIP was trained with."""
  return x * jax.nn.sigmoid(1.702 * x)


@models.register("clip_vit_b_32", kind=IMAGE_ENCODER)
class CLIP(ImageEncoder):
  """A vision transformer with a norm before its blocks; the class token after the last block is the output.

  That is before the last norm and the projection beside texts, which are not used, as in MicroLens's code. Images of
  any multiple of the patch will do: the table of positions is interpolated.
  """

  torch_names = (
    (r"^embedding\.patches\.", "vision_model.embeddings.patch_embedding."),
    (r"^embedding\.positions$", "vision_model.embeddings.position_embedding.weight"),
    (r"^embedding\.token$", "vision_model.embeddings.class_embedding"),
    (r"^norm\.", "vision_model.pre_layrnorm."),
    *CLIP_LAYERS,
  )
  torch_dropped = (CLIP_DROPPED, r"^vision_model\.post_layernorm\.")

  def __init__(
    self,
    *,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 32,
    size: int = 224,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      dim: channels, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      size: height and width of the images that the table of positions fits, a multiple of `patch`.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit, or there is no block.
    """
    check_transformer(dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, size=size)
    layer = "vision_model.encoder.layers"
    self.spec = dataclasses.replace(
      SPEC, size=size, features=dim, top=f"{layer}.{max(depth - 2, 0)}", half=f"{layer}.{depth // 2}"
    )
    self.stages = (
      "vision_model.embeddings", "vision_model.pre_layrnorm", *(f"{layer}.{n}" for n in range(depth))
    )  # fmt: skip
    side = size // patch
    self.embedding = Tokens(
      ImagePatches(dim, patch, use_bias=False, kernel_init=_INIT, dtype=dtype, rngs=rngs),
      nnx.Param(_INIT(rngs.params(), (1 + side**2, dim))),
      side,
      token=nnx.Param(nnx.initializers.normal(dim**-0.5)(rngs.params(), (dim,))),
    )
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(
        Block(
          dim, heads, hidden=hidden, epsilon=_EPSILON, activation=quick_gelu, kernel_init=_INIT, dtype=dtype, rngs=rngs
        )
      )

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, 1 + N, D]`; the last stage's result is float32 `[B, D]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      return self.embedding(x)
    if index == 1:
      return self.norm(x)
    x = self.blocks[index - 2](x)
    return x[:, 0].astype(jnp.float32) if index == len(self.blocks) + 1 else x

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries, under a whole model's prefix."""
    return vision_prefixed(entries)
