"""Hiera for video (Ryali et al., ICML 2023), as its authors publish it."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from einops import rearrange
from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.initializers import truncated_normal
from mlrec.models.layers.initializers import uniform
from mlrec.models.layers.transformer import attend
from mlrec.models.layers.transformer import LayerNorm
from mlrec.models.layers.transformer import MLP
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EPSILON = 1e-6
_INIT = truncated_normal(0.02)
# Of linear layers and norms, as the authors start them.
_FIRST_BIAS = 0.02
_KERNEL, _STRIDE = (3, 7, 7), (2, 4, 4)
# Stages between which a unit's tokens are pooled, two by two; so a unit is of 8 by 8 tokens.
_STAGES = 4
_SIDE = 2 ** (_STAGES - 1)


class Hiera(VideoEncoder):
  """A transformer that pools as it goes, and first attends within squares of the picture.

  Tokens are kept as `[B, units, tokens of a unit, C]`: a unit is 8 by 8 tokens of one time, and the four tokens that
  are pooled into one lie a quarter of the unit apart, at each level. The first two stages attend within units, the
  others over all tokens. The output is the mean of the last tokens, then the last norm, in that order; the published
  classes are not used. Learned positions fit the built length and size only: the published code interpolates none.
  """

  torch_names = ((r"^patches\.", "patch_embed.proj."),)
  torch_dropped = (r"^head\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    dim: int = 96,
    heads: int = 1,
    depths: Sequence[int] = (2, 3, 16, 3),
    num_frames: int = 16,
    size: int = 224,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`, `frames` and `size`.
      dim: channels of the first stage; each further one has twice as many.
      heads: of the first stage; likewise.
      depths: blocks of each stage.
      num_frames: frames of a clip, a multiple of 2.
      size: their height and width, a multiple of 32.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: an option is not possible.
    """
    if len(depths) != _STAGES or min(depths) < 1:
      raise OptionError("depths", f"= {tuple(depths)} must be of {_STAGES} stages, each of at least one block")
    at_least(1, dim=dim, heads=heads)
    if dim % heads:
      raise OptionError("dim", f"= {dim} must be a multiple of heads = {heads}")
    for name, given, unit in (("num_frames", num_frames, _STRIDE[0]), ("size", size, _STRIDE[1] * _SIDE)):
      if given < 1 or given % unit:
        raise OptionError(name, f"= {given} must be a multiple of {unit}: the nearest is {_nearest(given, unit)}")
    self.spec = dataclasses.replace(spec, features=dim * _SIDE, frames=num_frames, size=size)
    blocks = tuple(f"blocks.{n}" for n in range(sum(depths)))
    self.stages = ("pos_embed_spatial", "pos_embed_temporal", "patch_embed", *blocks, "norm")
    self.grid = (num_frames // _STRIDE[0], size // _STRIDE[1], size // _STRIDE[1])
    self.pos_embed_spatial = nnx.Param(_INIT(rngs.params(), (1, self.grid[1] * self.grid[2], dim)))
    self.pos_embed_temporal = nnx.Param(_INIT(rngs.params(), (1, self.grid[0], dim)))
    self.patches = Conv3D(
      3, dim, _KERNEL, stride=_STRIDE, use_bias=True, kernel_init=_INIT, dtype=dtype, rngs=rngs
    )  # fmt: skip
    # The authors leave the convolution's bias to PyTorch, which draws it by the kernel's inputs.
    inputs = 3 * _KERNEL[0] * _KERNEL[1] * _KERNEL[2]
    self.patches.bias = nnx.Param(uniform(inputs**-0.5)(rngs.params(), (dim,)))
    self.blocks: nnx.List = nnx.List([])
    for n, depth in enumerate(depths):
      for k in range(depth):
        # A stage's first block pools at the stage's entrance; it still attends as the stage before does.
        enters = n > 0 and k == 0
        self.blocks.append(
          Block(
            dim * 2 ** (n - enters),
            dim * 2**n,
            heads * 2**n,
            pools=enters,
            within=n - enters < 2,
            dtype=dtype,
            rngs=rngs,
          )
        )
    self.norm = LayerNorm(dim * _SIDE, _EPSILON, rngs=rngs)
    for _, module in nnx.iter_modules(self):
      if isinstance(module, nnx.Linear | nnx.LayerNorm) and module.bias is not None:
        module.bias = nnx.Param(jnp.full(module.bias.shape, _FIRST_BIAS))

  def stage(self, index: int, x: Any, context: Context) -> Any:
    """Frames, with positions as they are read, then tokens `[B, units, P, C]`, then float32 `[B, spec.features]`."""
    del context  # Nothing here acts otherwise in training.
    if index == 0:
      self._check(x)
      return x, rearrange(self.pos_embed_spatial[...], "1 (h w) c -> 1 h w c", h=self.grid[1])
    if index == 1:
      frames, positions = x
      return frames, positions + rearrange(self.pos_embed_temporal[...], "1 t c -> t 1 1 c")
    if index == 2:
      frames, positions = x
      tokens = self.patches(frames)
      return in_units(tokens + positions.astype(tokens.dtype))
    if index < 3 + len(self.blocks):
      return self.blocks[index - 3](x)
    return self.norm(x.mean((1, 2), dtype=jnp.float32))

  def _check(self, x: Array) -> None:
    wanted = (self.spec.frames, self.spec.size, self.spec.size, 3)
    if x.ndim != 5 or x.shape[1:] != wanted:
      raise ValueError(
        f"this Hiera's learned positions are for clips [B, {', '.join(map(str, wanted))}], not {x.shape}; "
        "the options num_frames and size build it for others"
      )


class Block(nnx.Module):
  """Attention and an MLP, each after a norm and beside a shortcut; where it pools, it also doubles the channels."""

  torch_names = (
    (r"^attention_norm\.", "norm1."),
    (r"^mlp_norm\.", "norm2."),
    (r"^(qkv|out)\.", r"attn.\1."),
    (r"^attn\.out\.", "attn.proj."),
    (r"^shortcut\.", "proj."),
    (r"^mlp\.up\.", "mlp.fc1."),
    (r"^mlp\.down\.", "mlp.fc2."),
  )

  def __init__(
    self, dim: int, outputs: int, heads: int, *, pools: bool, within: bool, dtype: Any, rngs: nnx.Rngs
  ):  # fmt: skip
    """`pools`: whether the first of a unit's axes of 2 by 2 is; `within`: whether units are attended to alone."""
    self.heads, self.pools, self.within = heads, pools, within
    self.attention_norm = LayerNorm(dim, _EPSILON, rngs=rngs)
    self.qkv = nnx.Linear(dim, 3 * outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.out = nnx.Linear(outputs, outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.mlp_norm = LayerNorm(outputs, _EPSILON, rngs=rngs)
    self.mlp = MLP(outputs, 4 * outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs)
    self.shortcut = nnx.Linear(dim, outputs, kernel_init=_INIT, dtype=dtype, rngs=rngs) if dim != outputs else None

  def __call__(self, x: Array) -> Array:
    """`x [B, units, P, dim]` to `[B, units, P, outputs]`, or a quarter of P where it pools."""
    normed = self.attention_norm(x)
    if self.shortcut is not None:
      x = self._pooled(self.shortcut(normed))
    x = x + self._mixed(normed)
    return x + self.mlp(self.mlp_norm(x))

  def _mixed(self, x: Array) -> Array:
    query, key, value = jnp.split(self.qkv(x), 3, axis=-1)
    attended = "(b u) p" if self.within else "b (u p)"
    query, key, value = (
      rearrange(part, f"b u p (h c) -> {attended} h c", h=self.heads) for part in (self._pooled(query), key, value)
    )
    return self.out(rearrange(attend(query, key, value), f"{attended} h c -> b u p (h c)", u=x.shape[1]))

  def _pooled(self, x: Array) -> Array:
    """The largest of each four tokens that become one."""
    return rearrange(x, "b u (four p) c -> b u four p c", four=4).max(2) if self.pools else x


def in_units(x: Array) -> Array:
  """`[B, T, H, W, C]` to `[B, T * H / 8 * W / 8, 64, C]`, the order of a unit's tokens such that pooling comes first.

  A place in the unit has three bits for each of height and width; neighbours differ in the lowest, which is the slowest
  here.
  """
  return rearrange(
    x, "b t (h h4 h2 h1) (w w4 w2 w1) c -> b (t h w) (h1 w1 h2 w2 h4 w4) c", h4=2, h2=2, h1=2, w4=2, w2=2, w1=2
  )


def _nearest(given: int, unit: int) -> int:
  return max(1, round(given / unit)) * unit


VARIANTS: dict[str, Spec] = {
  "hiera_b": Spec(
    frames=16, interval=4, size=224, **KINETICS, features=768, weights="hiera_base_16x224.pth",
    licence="CC-BY-NC-4.0", top="blocks.21", half="blocks.12",
    source="hiera-transformer, masked autoencoder fine-tuned on Kinetics-400",
  ),
}  # fmt: skip


for _name, _published in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(Hiera, spec=_published))
