"""ViT-MAE's encoder (He et al., CVPR 2022), as Hugging Face's library publishes it."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.hugging_face import VIT_LAYERS
from mlrec.models.items.image.encoder import check_transformer
from mlrec.models.items.image.encoder import ImageEncoder
from mlrec.models.items.image.encoder import Spec
from mlrec.models.items.image.encoder import Tokens
from mlrec.models.layers.context import Context
from mlrec.models.layers.dropout import uniform_bits
from mlrec.models.layers.patches import grid_sinusoids
from mlrec.models.layers.patches import ImagePatches
from mlrec.models.layers.transformer import Block
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.variables import Frozen
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models
from mlrec.registry import OptionError

_EPSILON = 1e-12
_INIT = nnx.initializers.normal(0.02)
# Of an image's patches, the share that the pre-training hides.
_PRETRAINING_RATIO = 0.75

SPEC = Spec(
  size=224, **IMAGENET, features=768, weights="pytorch_model.bin", licence="Apache-2.0", top="encoder.layer.10",
  half="encoder.layer.6", source="facebook/vit-mae-base, self-supervised on ImageNet-1k",
)  # fmt: skip


@models.register("vit_mae_b", kind=IMAGE_ENCODER)
class ViTMAE(ImageEncoder):
  """A vision transformer with fixed positions; the class token after the last norm is the output.

  Positions are read from a file as they are and never trained. For images of another multiple of the patch than theirs
  they are interpolated.
  """

  torch_names = (
    (r"^embedding\.patches\.", "embeddings.patch_embeddings.projection."),
    (r"^embedding\.positions$", "embeddings.position_embeddings"),
    (r"^embedding\.token$", "embeddings.cls_token"),
    (r"^norm\.", "layernorm."),
    *VIT_LAYERS,
  )
  # The decoder of the pre-training, and the classes of a fine-tuning.
  torch_dropped = (r"^(decoder|classifier)\.",)

  def __init__(
    self,
    *,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    hidden: int = 3072,
    patch: int = 16,
    size: int = 224,
    mask_ratio: float = 0.0,
    reference: bool = False,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      dim: channels, a multiple of 4, and the width of the output.
      depth: blocks; in the mode `top` the last two are trained.
      heads: of the attention.
      hidden: channels within the MLPs.
      patch: height and width of a patch.
      size: height and width of the images that the table of positions fits, a multiple of `patch`.
      mask_ratio: the share of an image's patches, drawn at random for each, that is not read, in training and in
        evaluation. Frozen stages and evaluation draw by an image's place in its batch, the same in each call.
      reference: hides the share that the pre-training hides, 0.75, as MicroLens's code did; its draws in evaluation
        differed from run to run.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: sizes do not fit, there is no block, or `mask_ratio` leaves no patch.
    """
    check_transformer(dim=dim, depth=depth, heads=heads, hidden=hidden, patch=patch, size=size)
    if reference and mask_ratio not in (0, _PRETRAINING_RATIO):
      raise OptionError(
        "reference", f"= True stands for mask_ratio = {_PRETRAINING_RATIO}, not {mask_ratio}: give one of them"
      )
    self.mask_ratio = _PRETRAINING_RATIO if reference else mask_ratio
    if not 0 <= self.mask_ratio < 1:
      raise OptionError("mask_ratio", f"= {mask_ratio} must be at least 0 and below 1")
    self.spec = dataclasses.replace(
      SPEC, size=size, features=dim, top=f"encoder.layer.{max(depth - 2, 0)}", half=f"encoder.layer.{depth // 2}"
    )
    self.stages = ("embeddings", *(f"encoder.layer.{n}" for n in range(depth)), "layernorm")
    side = size // patch
    positions = np.concatenate([np.zeros((1, dim), np.float32), grid_sinusoids(side, side, dim)])
    self.embedding = Tokens(
      ImagePatches(dim, patch, kernel_init=_patch_init, dtype=dtype, rngs=rngs),
      Frozen(jnp.asarray(positions[None])),
      side,
      token=nnx.Param(_INIT(rngs.params(), (1, 1, dim))),
    )
    self.blocks: Any = nnx.List([])
    for _ in range(depth):
      self.blocks.append(Block(dim, heads, hidden=hidden, epsilon=_EPSILON, kernel_init=_INIT, dtype=dtype, rngs=rngs))
    self.norm = LayerNorm(dim, _EPSILON, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Tokens are `[B, 1 + N, D]`; the last stage's result is float32 `[B, D]`."""
    if index == 0:
      tokens = self.embedding(x)
      return self.masked(tokens, self.noise(tokens, context)) if self.mask_ratio else tokens
    if index <= len(self.blocks):
      return self.blocks[index - 1](x)
    return self.norm(x[:, 0]).astype(jnp.float32)

  def noise(self, tokens: Array, context: Context) -> Array:
    """`[B, N]` drawn for the patches of `tokens [B, 1 + N, D]`; always the same in evaluation."""
    key = jax.random.key(0) if context.rngs is None else context.rngs.dropout()
    return uniform_bits(key, (len(tokens), tokens.shape[1] - 1))

  def masked(self, tokens: Array, noise: Array) -> Array:
    """The class token, and of each image those patches of the least `noise [B, N]`, of `tokens [B, 1 + N, D]`."""
    patches = tokens.shape[1] - 1
    kept = int(patches * (1 - self.mask_ratio))
    if kept < 1:
      raise ValueError(f"mask_ratio = {self.mask_ratio} leaves none of an image's {patches} patches")
    read = jnp.sort(jnp.argsort(noise, axis=1)[:, :kept], axis=1) + 1
    read = jnp.concatenate([jnp.zeros_like(read[:, :1]), read], axis=1)
    return jnp.take_along_axis(tokens, read[:, :, None], axis=1)

  def torch_prepared(self, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A file's entries without the prefix that the encoder's have beside a decoder."""
    return {name.removeprefix("vit."): array for name, array in entries.items()}


def _patch_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
  """As for a linear layer of the window's numbers."""
  flat = (int(np.prod(shape[:-1])), shape[-1])
  return nnx.initializers.glorot_uniform()(key, flat, dtype).reshape(shape)
