"""X3D (Feichtenhofer, CVPR 2020) and its mobile form, as PyTorchVideo publishes them."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import nnx
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import average_pool
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.resnet3d import ResHead
from mlrec.models.layers.resnet3d import spatial_pool
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

_EXPANSION = 2.25


class X3D(VideoEncoder):
  """A narrow, deep net of depthwise convolutions over the whole clip; no stage shortens time.

  Any number of frames and any size will do. The last map is averaged in windows of 7 by 7 (of all of it where it is
  smaller), the classes' scores are taken at every position that remains, and their mean is the output.
  """

  stages = tuple(f"blocks.{n}" for n in range(6))
  # What the file calls `conv_t` is the spatial convolution, and `conv_xy` the temporal one.
  torch_names: tuple[tuple[str, str], ...] = (
    (r"^blocks\.0\.spatial\.", "blocks.0.conv.conv_t."),
    (r"^blocks\.0\.temporal\.", "blocks.0.conv.conv_xy."),
    (r"\.blocks\.", ".res_blocks."),
    (r"\.shortcut\.", ".branch1_conv."),
    (r"\.shortcut_norm\.", ".branch1_norm."),
    (r"\.expand\.", ".branch2.conv_a."),
    (r"\.expand_norm\.", ".branch2.norm_a."),
    (r"\.depthwise\.", ".branch2.conv_b."),
    (r"\.depthwise_norm\.", ".branch2.norm_b.0."),
    (r"\.gate\.down\.", ".branch2.norm_b.1.block.0."),
    (r"\.gate\.up\.", ".branch2.norm_b.1.block.2."),
    (r"\.project\.", ".branch2.conv_c."),
    (r"\.project_norm\.", ".branch2.norm_c."),
    (r"^head\.expanded\.", "blocks.5.pool.pre_conv."),
    (r"^head\.norm\.", "blocks.5.pool.pre_norm."),
    (r"^head\.widened\.", "blocks.5.pool.post_conv."),
    (r"^classes\.", "blocks.5."),
  )
  # Differences of the mobile form.
  _all_shortcuts_normalised = False
  _pools_everything = False

  def __init__(
    self,
    *,
    spec: Spec,
    depths: Sequence[int],
    stem: int = 24,
    widths: Sequence[int] = (24, 48, 96, 192),
    strides: Sequence[int] = (2, 2, 2, 2),
    head: int = 2048,
    num_classes: int = 400,
    feature: str = "classes",
    dropout: float = 0.5,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`: they are `num_classes`.
      depths: blocks of each stage.
      stem: channels of the first convolutions.
      widths: channels of each stage.
      strides: of each stage, over height and width.
      head: channels before the classes.
      num_classes: the width of the output.
      feature: `classes`, or `pooled` for the mean of the map below them in their place, `head` wide.
      dropout: before the classes.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: the stages are not as many everywhere, one has no block, or `feature` is unknown.
    """
    at_least(1, stem=stem, head=head, num_classes=num_classes)
    if not len(depths) == len(widths) == len(strides) == 4 or min(depths) < 1:
      raise OptionError(
        "depths",
        f"= {tuple(depths)}, widths = {tuple(widths)} and strides = {tuple(strides)} must be of four stages, each of "
        "at least one block",
      )
    if min(*widths, *strides) < 1:
      raise OptionError("widths", f"= {tuple(widths)} and strides = {tuple(strides)} must all be at least 1")
    scored = self.scores_classes(feature)
    self.spec = dataclasses.replace(spec, features=num_classes if scored else head)
    inputs = (stem, *widths[:-1])
    blocks: list[Any] = [Stem(stem, dtype=dtype, rngs=rngs)]
    for before, width, depth, stride in zip(inputs, widths, depths, strides):
      normalised = self._all_shortcuts_normalised or before != width
      blocks.append(Stage(before, width, depth, stride, normalised, dtype=dtype, rngs=rngs))
    self.blocks = nnx.List(blocks)
    self.head = Head(widths[-1], head, self._pools_everything, dtype=dtype, rngs=rngs)
    self.classes = ResHead(head, num_classes if scored else None, dropout=dropout, dtype=dtype, rngs=rngs)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    if index == 0:
      _check_clip(x)
    if index < len(self.blocks):
      return self.blocks[index](x, context)
    return self.classes(self.head(x, context), context)


class EfficientX3D(X3D):
  """The mobile form: every shortcut that has a convolution is normalised, and the head averages the whole last map."""

  stages = (*(f"s{n}" for n in range(1, 6)), "head", "projection")
  torch_names = (
    (r"^blocks\.0\.spatial\.", "s1.pathway0_stem_conv_xy.kernel.conv."),
    (r"^blocks\.0\.temporal\.", "s1.pathway0_stem_conv.kernel.conv."),
    (r"^blocks\.0\.norm\.", "s1.pathway0_stem_conv.kernel.bn."),
    *((rf"^blocks\.{n}\.blocks\.", f"s{n + 1}.pathway0_res") for n in range(1, 5)),
    (r"\.shortcut\.", "._res_proj.kernel.conv."),
    (r"\.shortcut_norm\.", "._res_proj.kernel.bn."),
    (r"\.expand\.", ".layers.conv_0.kernel.conv."),
    (r"\.expand_norm\.", ".layers.conv_0.kernel.bn."),
    (r"\.depthwise\.", ".layers.conv_1.kernel.conv."),
    (r"\.depthwise_norm\.", ".layers.conv_1.kernel.bn."),
    (r"\.gate\.down\.", ".layers.se.se.block.0."),
    (r"\.gate\.up\.", ".layers.se.se.block.2."),
    (r"\.project\.", ".layers.conv_2.kernel.conv."),
    (r"\.project_norm\.", ".layers.conv_2.kernel.bn."),
    (r"^head\.expanded\.", "head.conv_5.kernel.conv."),
    (r"^head\.norm\.", "head.conv_5.kernel.bn."),
    (r"^head\.widened\.", "head.lin_5.kernel.conv."),
    (r"^classes\.proj\.", "projection.model."),
  )
  _all_shortcuts_normalised = True
  _pools_everything = True

  def __init__(self, *, feature: str = "classes", **options: Any):
    """As `X3D`."""
    super().__init__(feature=feature, **options)
    self.torch_dropped = () if self.scores_classes(feature) else (r"^projection\.",)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    if index < len(self.blocks):
      return super().stage(index, x, context)
    return self.head(x, context) if index == len(self.blocks) else self.classes(x, context)


class Stem(nnx.Module):
  """A spatial convolution, then one over 5 frames of each channel on its own, then one normalisation."""

  def __init__(self, channels: int, *, dtype: Any, rngs: nnx.Rngs):
    self.spatial = Conv3D(3, channels, (1, 3, 3), stride=(1, 2, 2), dtype=dtype, rngs=rngs)
    self.temporal = Conv3D(channels, channels, (5, 1, 1), groups=channels, dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(channels)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, 3]` to half the height and width."""
    return nnx.relu(self.norm(self.temporal(self.spatial(x)), context))


class Stage(nnx.Module):
  """Blocks, of which the first may halve height and width, and every second one has a gate."""

  def __init__(self, before: int, width: int, depth: int, stride: int, normalised: bool, *, dtype: Any, rngs: nnx.Rngs):
    options: dict[str, Any] = {"normalised": normalised, "dtype": dtype, "rngs": rngs}
    blocks = [Block(before, width, stride, gated=True, **options)]
    blocks += [Block(width, width, 1, gated=n % 2 == 0, **options) for n in range(1, depth)]
    self.blocks = nnx.List(blocks)

  def __call__(self, x: Array, context: Context) -> Array:
    for block in self.blocks:
      x = block(x, context)
    return x


class Block(nnx.Module):
  """An inverted bottleneck: wider, a 3 by 3 by 3 convolution of each channel on its own, narrower, plus the input."""

  def __init__(
    self, before: int, width: int, stride: int, *, gated: bool, normalised: bool, dtype: Any, rngs: nnx.Rngs
  ):
    """`normalised`: of the shortcut, which has a convolution where the shape changes."""
    inner, steps = int(_EXPANSION * width), (1, stride, stride)
    moves = stride != 1 or before != width
    self.shortcut = Conv3D(before, width, (1, 1, 1), stride=steps, dtype=dtype, rngs=rngs) if moves else None
    self.shortcut_norm = BatchNorm(width) if moves and normalised else None
    self.expand = Conv3D(before, inner, (1, 1, 1), dtype=dtype, rngs=rngs)
    self.expand_norm = BatchNorm(inner)
    self.depthwise = Conv3D(inner, inner, (3, 3, 3), stride=steps, groups=inner, dtype=dtype, rngs=rngs)
    self.depthwise_norm = BatchNorm(inner)
    self.gate = Gate(inner, dtype=dtype, rngs=rngs) if gated else None
    self.project = Conv3D(inner, width, (1, 1, 1), dtype=dtype, rngs=rngs)
    self.project_norm = BatchNorm(width, scale=0.0)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, before]` to `[B, T, H / stride, W / stride, width]`."""
    inner = nnx.relu(self.expand_norm(self.expand(x), context))
    inner = self.depthwise_norm(self.depthwise(inner), context)
    if self.gate is not None:
      inner = self.gate(inner)
    inner = self.project_norm(self.project(nnx.silu(inner)), context)
    if self.shortcut is not None:
      x = self.shortcut(x)
    if self.shortcut_norm is not None:
      x = self.shortcut_norm(x, context)
    return nnx.relu(x + inner)


class Gate(nnx.Module):
  """Squeeze and excitation (Hu et al., CVPR 2018): each channel times a weight that the clip's means decide."""

  def __init__(self, channels: int, *, dtype: Any, rngs: nnx.Rngs):
    squeezed = _squeezed(channels)
    self.down = Conv3D(channels, squeezed, (1, 1, 1), use_bias=True, dtype=dtype, rngs=rngs)
    self.up = Conv3D(squeezed, channels, (1, 1, 1), use_bias=True, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    means = x.mean((1, 2, 3), keepdims=True, dtype=jnp.float32).astype(x.dtype)
    return x * jax.nn.sigmoid(self.up(nnx.relu(self.down(means))))


def _squeezed(channels: int) -> int:
  """A sixteenth, to the nearest multiple of 8 that is at least 8 and loses no more than a tenth."""
  target = channels / 16
  nearest = max(8, int(target + 4) // 8 * 8)
  return nearest if nearest >= 0.9 * target else nearest + 8


class Head(nnx.Module):
  """Wider, averaged over height and width (or over the whole map), and wider again."""

  def __init__(self, channels: int, width: int, pools_everything: bool, *, dtype: Any, rngs: nnx.Rngs):
    inner = int(_EXPANSION * channels)
    self.pools_everything = pools_everything
    self.expanded = Conv3D(channels, inner, (1, 1, 1), dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(inner)
    self.widened = Conv3D(inner, width, (1, 1, 1), dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, C]` to `[B, T, H - 6, W - 6, width]`, or to `[B, 1, 1, 1, width]`."""
    x = nnx.relu(self.norm(self.expanded(x), context))
    x = average_pool(x, x.shape[1:4]) if self.pools_everything else spatial_pool(x)
    return nnx.relu(self.widened(x))


def _check_clip(x: Array) -> None:
  if x.ndim != 5 or x.shape[-1] != 3 or 0 in x.shape[1:]:
    raise ValueError(f"clips of shape {x.shape} were given; expected [B, T, H, W, 3] with at least one frame")


def _spec(weights: str, top: str) -> Spec:
  return Spec(
    frames=5, interval=1, size=224, mean=KINETICS["mean"], std=KINETICS["std"], features=400, weights=weights,
    licence="Apache-2.0", top=top, source="PyTorchVideo's model zoo, Kinetics-400",
  )  # fmt: skip


_SMALL, _LARGE = (3, 5, 11, 7), (5, 10, 25, 15)
# Name: class, blocks of each stage, specification. X3D-xs, -s and -m are one net with different weights.
VARIANTS: dict[str, tuple[type[X3D], tuple[int, ...], Spec]] = {
  "x3d_xs": (X3D, _SMALL, _spec("X3D_XS.pyth", "blocks.4")),
  "x3d_s": (X3D, _SMALL, _spec("X3D_S.pyth", "blocks.4")),
  "x3d_m": (X3D, _SMALL, _spec("X3D_M.pyth", "blocks.4")),
  "x3d_l": (X3D, _LARGE, _spec("X3D_L.pyth", "blocks.4")),
  "efficient_x3d_xs": (EfficientX3D, _SMALL, _spec("efficient_x3d_xs_original_form.pyth", "s5")),
  "efficient_x3d_s": (EfficientX3D, _SMALL, _spec("efficient_x3d_s_original_form.pyth", "s5")),
}


for _name, (_family, _depths, _published) in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(_family, spec=_published, depths=_depths))
