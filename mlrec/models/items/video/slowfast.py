"""SlowFast (Feichtenhofer et al., ICCV 2019), as PyTorchVideo publishes it."""

from collections.abc import Sequence
import dataclasses
from typing import Any
from typing import NamedTuple

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.layers.resnet3d import ResHead
from mlrec.models.layers.resnet3d import ResStage
from mlrec.models.layers.resnet3d import ResStem
from mlrec.models.layers.resnet3d import spatial_pool
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant

# Blocks of the third stage, from its first, whose convolutions cover time: all of 6, but not all of 23.
_TEMPORAL_BLOCKS = 6


class Pathways(NamedTuple):
  """What the two pathways hold, `[B, T, H, W, C]` each: few frames with many channels, all frames with few."""

  slow: Array
  fast: Array


class SlowFast(VideoEncoder):
  """Two residual nets, one over every `alpha`-th frame, one narrow over all; the slow one also reads the fast one.

  The slow pathway takes frames 0, alpha, 2 alpha, ..., whose number is what the lateral convolutions make of the fast
  pathway's: the first and the last of 5 frames, the first of fewer than 5. The last maps are averaged in windows of 7
  by 7 (of all that there is, where they are smaller); the fast one's cover as many frames as leave it the slow one's
  length. Any number of frames and any size will do.
  """

  # What the file calls `blocks.5` are pools.
  stages = (*(f"blocks.{n}" for n in range(5)), "blocks.6")
  torch_names = (
    (r"^blocks\.(\d+)\.slow\.", r"blocks.\1.multipathway_blocks.0."),
    (r"^blocks\.(\d+)\.fast\.", r"blocks.\1.multipathway_blocks.1."),
    (r"^blocks\.(\d+)\.lateral\.conv\.", r"blocks.\1.multipathway_fusion.conv_fast_to_slow."),
    (r"^blocks\.(\d+)\.lateral\.norm\.", r"blocks.\1.multipathway_fusion.norm."),
    (r"^head\.", "blocks.6."),
  )

  def __init__(
    self,
    *,
    spec: Spec,
    depths: Sequence[int],
    lateral_kernel: int,
    widths: Sequence[int] = (64, 8),
    alpha: int = 4,
    num_classes: int = 400,
    feature: str = "classes",
    dropout: float = 0.5,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`: they are `num_classes`.
      depths: blocks of each of the four stages.
      lateral_kernel: frames that the lateral convolutions cover.
      widths: channels of the slow and of the fast stem; stages are 4, 8, 16 and 32 times as wide.
      alpha: frames of the fast pathway to one of the slow one.
      num_classes: the width of the output.
      feature: `classes`, or `pooled` for the mean of both pathways' last maps in their place.
      dropout: before the classes.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: an option is not possible.
    """
    if len(depths) != 4 or min(depths) < 1:
      raise OptionError("depths", f"= {tuple(depths)} must be of four stages, each of at least one block")
    at_least(1, lateral_kernel=lateral_kernel, alpha=alpha, num_classes=num_classes)
    if lateral_kernel % 2 != 1:
      raise OptionError("lateral_kernel", f"= {lateral_kernel} must be odd, so that both pathways have the same times")
    if len(widths) != 2 or min(widths) < 1:
      raise OptionError("widths", f"= {tuple(widths)} must be of two pathways, each of at least one channel")
    slow, fast = widths
    width, scored = 32 * (slow + fast), self.scores_classes(feature)
    self.spec = dataclasses.replace(spec, features=num_classes if scored else width)
    self.alpha = alpha
    options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}

    def lateral(channels: int) -> Lateral:
      return Lateral(channels, lateral_kernel, alpha, **options)

    stems = ResStem(slow, (1, 7, 7), **options), ResStem(fast, (5, 7, 7), **options)
    self.blocks = nnx.List([Level(*stems, lateral(fast))])
    slow_in, fast_in = slow + 2 * fast, fast
    for n, depth in enumerate(depths):
      stride = (1, 2, 2) if n else (1, 1, 1)
      temporal = min(depth, _TEMPORAL_BLOCKS) if n == 2 else depth
      fast_kernels = [3] * temporal + [1] * (depth - temporal)
      slow_kernels = fast_kernels if n >= 2 else [1] * depth
      inner, outer = 2**n, 4 * 2**n
      self.blocks.append(
        Level(
          ResStage(slow_in, inner * slow, outer * slow, time_kernels=slow_kernels, stride=stride, **options),
          ResStage(fast_in, inner * fast, outer * fast, time_kernels=fast_kernels, stride=stride, **options),
          lateral(outer * fast) if n < 3 else None,
        )
      )
      slow_in, fast_in = outer * (slow + 2 * fast), outer * fast
    self.head = ResHead(width, num_classes if scored else None, dropout=dropout, **options)

  def stage(self, index: int, x: Any, context: Context) -> Any:
    if index == 0:
      x = self._pathways(x)
    if index < len(self.blocks):
      return self.blocks[index](x, context)
    # Windows over time of all the frames that the fast pathway has more than the slow one, and one.
    window = x.fast.shape[1] - x.slow.shape[1] + 1
    pooled = spatial_pool(x.slow), spatial_pool(x.fast, frames=window)
    return self.head(jnp.concatenate(pooled, axis=-1), context)

  def _pathways(self, x: Array) -> Pathways:
    if x.ndim != 5 or x.shape[-1] != 3 or 0 in x.shape[1:]:
      raise ValueError(f"clips of shape {x.shape} were given; expected [B, T, H, W, 3] with at least one frame")
    return Pathways(x[:, :: self.alpha], x)


class Level(nnx.Module):
  """The same step of both pathways, after which the slow one is given what the fast one found."""

  def __init__(self, slow: nnx.Module, fast: nnx.Module, lateral: "Lateral | None"):
    self.slow, self.fast, self.lateral = slow, fast, lateral

  def __call__(self, x: Pathways, context: Context) -> Pathways:
    slow, fast = self.slow(x.slow, context), self.fast(x.fast, context)
    if self.lateral is not None:
      slow = jnp.concatenate([slow, self.lateral(fast, context)], axis=-1)
    return Pathways(slow, fast)


class Lateral(nnx.Module):
  """From the fast pathway to the slow one's times, with twice the channels (section 3.3: a strided convolution)."""

  def __init__(self, channels: int, kernel: int, alpha: int, *, dtype: Any, rngs: nnx.Rngs):
    self.conv = Conv3D(channels, 2 * channels, (kernel, 1, 1), stride=(alpha, 1, 1), dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(2 * channels)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, C]` to `[B, T / alpha, H, W, 2 C]`, rounded up."""
    return nnx.relu(self.norm(self.conv(x), context))


def _spec(weights: str) -> Spec:
  return Spec(
    frames=5, interval=1, size=224, mean=KINETICS["mean"], std=KINETICS["std"], features=400, weights=weights,
    licence="Apache-2.0", top="blocks.4", half="blocks.3", source="PyTorchVideo's model zoo, Kinetics-400",
  )  # fmt: skip


# Name: blocks of each stage, frames of the lateral convolutions, specification.
VARIANTS: dict[str, tuple[tuple[int, ...], int, Spec]] = {
  "slowfast_r50": ((3, 4, 6, 3), 7, _spec("SLOWFAST_8x8_R50.pyth")),
  "slowfast_r101": ((3, 4, 23, 3), 5, _spec("SLOWFAST_16x8_R101_50_50.pyth")),
}


for _name, (_depths, _kernel, _published) in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(variant(SlowFast, spec=_published, depths=_depths, lateral_kernel=_kernel))
