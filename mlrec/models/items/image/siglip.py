"""The image encoders of SigLIP (Zhai et al., ICCV 2023) and SigLIP 2 (Tschannen et al., arXiv 2502.14786).

They are one net, as Hugging Face's library publishes it; of SigLIP 2 these are the files for images of one size.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.hugging_face import CLIP_DROPPED
from mlrec.models.items.hugging_face import CLIP_LAYERS
from mlrec.models.items.hugging_face import vision_prefixed
from mlrec.models.items.image.encoder import check_transformer
from mlrec.models.items.image.encoder import HALVES
from mlrec.models.items.image.encoder import ImageEncoder
from mlrec.models.items.image.encoder import Spec
from mlrec.models.items.image.encoder import Tokens
from mlrec.models.layers.context import Context
from mlrec.models.layers.joint_attention import AttentionPool
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import tanh_gelu
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models
from mlrec.registry import closest
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-6
_INIT = nnx.initializers.glorot_uniform()
FEATURES = ("pooled", "mean")


class SigLIP(ImageEncoder):
  """A vision transformer without a class token; a learned query pools the tokens after the last norm.

  Images of any multiple of the patch will do: the table of positions is interpolated.
  """

  torch_names = (
    (r"^embedding\.patches\.", "vision_model.embeddings.patch_embedding."),
    (r"^embedding\.positions$", "vision_model.embeddings.position_embedding.weight"),
    (r"^norm\.", "vision_model.post_layernorm."),
    (r"^head\.", "vision_model.head."),
    *CLIP_LAYERS,
  )

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 16,
    size: int = 224,
    feature: str = "pooled",
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for what the other options say.
      dim: channels, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      size: height and width of the images that the table of positions fits, a multiple of `patch`.
      feature: `pooled` by the learned query, or the `mean` of the tokens, without it.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit, there is no block, or no such feature.
    """
    check_transformer(dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, size=size)
    if feature not in FEATURES:
      raise OptionError("feature", f"= {feature!r}: {closest(feature, FEATURES)}")
    pooled = feature == "pooled"
    layer = "vision_model.encoder.layers"
    self.spec = dataclasses.replace(
      spec, size=size, features=dim, top=f"{layer}.{max(depth - 2, 0)}", half=f"{layer}.{depth // 2}"
    )
    self.stages = (
      "vision_model.embeddings", *(f"{layer}.{n}" for n in range(depth)), "vision_model.post_layernorm",
      *(("vision_model.head",) if pooled else ()),
    )  # fmt: skip
    self.torch_dropped = (CLIP_DROPPED,) if pooled else (CLIP_DROPPED, r"^vision_model\.head\.")
    side = size // patch
    self.embedding = Tokens(
      ImagePatches(dim, patch, kernel_init=nnx.initializers.lecun_normal(), dtype=dtype, rngs=rngs),
      nnx.Param(nnx.initializers.normal(dim**-0.5)(rngs.params(), (side**2, dim))),
      side,
    )
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(
        Block(
          dim, heads, hidden=hidden, epsilon=_EPSILON, activation=tanh_gelu, kernel_init=_INIT, dtype=dtype, rngs=rngs
        )
      )
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.head = (
      AttentionPool(
        dim, heads, hidden, epsilon=_EPSILON, activation=tanh_gelu, kernel_init=_INIT, dtype=dtype, rngs=rngs
      )
      if pooled
      else None
    )

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, N, D]`; the last stage's result is float32 `[B, D]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      return self.embedding(x)
    if index <= len(self.blocks):
      return self.blocks[index - 1](x)
    if index == len(self.blocks) + 1:
      x = self.norm(x)
      return x if self.head is not None else x.mean(1, dtype=jnp.float32)
    assert self.head is not None
    return self.head(x).astype(jnp.float32)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries, under a whole model's prefix."""
    return vision_prefixed(entries)


def _spec(name: str) -> Spec:
  """Without what the options say: the net fills it in."""
  return Spec(
    size=int(name[-3:]), mean=HALVES["mean"], std=HALVES["std"], features=0, weights="model.safetensors",
    licence="Apache-2.0", top="", source=f"google/{name}",
  )  # fmt: skip


# Name: specification and options.
VARIANTS: dict[str, tuple[Spec, dict[str, Any]]] = {
  "siglip_b_16": (_spec("siglip-base-patch16-224"), {}),
  "siglip2_b_16": (_spec("siglip2-base-patch16-224"), {}),
  "siglip2_l_16": (
    _spec("siglip2-large-patch16-256"), {"dim": 1024, "depth": 24, "heads": 16, "hidden": 4096, "size": 256},
  ),
  "siglip2_so400m_16": (
    _spec("siglip2-so400m-patch16-384"), {"dim": 1152, "depth": 27, "heads": 16, "hidden": 4304, "size": 384},
  ),
}  # fmt: skip


for _name, (_published, _options) in VARIANTS.items():
  models.register(_name, kind=IMAGE_ENCODER)(variant(SigLIP, spec=_published, **_options))
