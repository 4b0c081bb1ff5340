"""The residual nets of PyTorchVideo's model zoo: C2D, I3D, Slow, CSN and R(2+1)D."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.video.encoder import KINETICS
from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import max_pool
from mlrec.models.layers.resnet3d import ResHead
from mlrec.models.layers.resnet3d import ResStage
from mlrec.models.layers.resnet3d import ResStem
from mlrec.models.layers.resnet3d import spatial_pool
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError

_DEPTHS_50, _DEPTHS_101 = (3, 4, 6, 3), (3, 4, 23, 3)


@dataclasses.dataclass(frozen=True)
class Variant:
  """In what one net differs from another.

  Attributes:
    spec: what it expects.
    stem_frames: frames that the first convolution covers.
    time_kernels: for each stage, frames that its blocks' first convolutions cover, again from the start where there are
      more blocks than entries.
    depths: blocks of each stage.
    time_strides: of each stage.
    strides: of each stage, over height and width.
    middle: `plain` (1 by 3 by 3), `depthwise` (3 by 3 by 3 of each channel on its own) or `factorised`.
    stem_pool: whether the stem ends in a pool over height and width.
    time_pool: whether a pool halves time after the first stage.
    dropout: before the classes.
  """

  spec: Spec
  stem_frames: int = 1
  time_kernels: tuple[tuple[int, ...], ...] = ((1,), (1,), (1,), (1,))
  depths: tuple[int, ...] = _DEPTHS_50
  time_strides: tuple[int, ...] = (1, 1, 1, 1)
  strides: tuple[int, ...] = (1, 2, 2, 2)
  middle: str = "plain"
  stem_pool: bool = True
  time_pool: bool = False
  dropout: float = 0.5


class ResNet3D(VideoEncoder):
  """A stem, four stages of bottlenecks, and scores of classes averaged over time.

  Any size will do, and any number of frames (C2D and I3D: of at least two). The last map is averaged in windows of 7 by
  7 (of all of it where it is smaller), classes are scored at every position that remains, and the mean is the output.
  """

  def __init__(
    self,
    variant: Variant,
    *,
    stem: int = 64,
    depths: Sequence[int] | None = None,
    num_classes: int = 400,
    feature: str = "classes",
    softmax_head: bool = False,
    dropout: float | None = None,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      variant: which.
      stem: channels of the first convolution; stages have 4, 8, 16 and 32 times as many.
      depths: blocks of each stage; by default the variant's.
      num_classes: the width of the output.
      feature: `classes`, or `pooled` for the mean of the last map in their place.
      softmax_head: whether probabilities are averaged over time in place of scores, as MicroLens's code did for R(2+1)D
        (arXiv 2309.15379).
      dropout: before the classes; by default the variant's.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `feature` is unknown, or `depths` are not those of four stages of a block or more.
    """
    at_least(1, stem=stem, num_classes=num_classes)
    depths = tuple(variant.depths if depths is None else depths)
    if len(depths) != 4 or min(depths) < 1:
      raise OptionError("depths", f"= {depths} must be of four stages, each of at least one block")
    width = 32 * stem
    scored = self.scores_classes(feature)
    self.spec = dataclasses.replace(variant.spec, features=num_classes if scored else width)
    self.time_pool = variant.time_pool
    blocks: list[nnx.Module] = [
      ResStem(stem, (variant.stem_frames, 7, 7), pool=variant.stem_pool, dtype=dtype, rngs=rngs)
    ]
    for n, depth in enumerate(depths):
      inner, kernels, stride = stem * 2**n, variant.time_kernels[n], variant.strides[n]
      blocks.append(
        ResStage(
          2 * inner if n else stem, inner, 4 * inner,
          time_kernels=[kernels[k % len(kernels)] for k in range(depth)],
          stride=(variant.time_strides[n], stride, stride),
          middle_kernel=(3, 3, 3) if variant.middle == "depthwise" else (1, 3, 3),
          groups=inner if variant.middle == "depthwise" else 1,
          factorised=variant.middle == "factorised",
          dtype=dtype, rngs=rngs,
        )
      )  # fmt: skip
    rate = variant.dropout if dropout is None else dropout
    classes = num_classes if scored else None
    blocks.append(ResHead(width, classes, dropout=rate, softmax=softmax_head, dtype=dtype, rngs=rngs))
    # A pool counts in the published names, though it holds nothing.
    if variant.time_pool:
      blocks.insert(2, TimePool())
    self.blocks = nnx.List(blocks)
    self.stages = tuple(f"blocks.{n}" for n, block in enumerate(blocks) if not isinstance(block, TimePool))

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Maps are `[B, T, H, W, C]`; the last stage's result is float32 `[B, spec.features]`."""
    if index == 0:
      self._check_clip(x)
    last = index == len(self.stages) - 1
    if last:
      x = spatial_pool(x)
    # The pool belongs to the stage before it.
    x = self.blocks[index + (self.time_pool and index > 1)](x, context)
    return self.blocks[2](x, context) if self.time_pool and index == 1 else x

  def _check_clip(self, x: Array) -> None:
    least = 2 if self.time_pool else 1
    if x.ndim != 5 or x.shape[-1] != 3 or x.shape[1] < least or 0 in x.shape[2:4]:
      raise ValueError(
        f"clips of shape {tuple(x.shape)} were given; expected [B, T, H, W, 3] with at least {least} "
        f"frame{'s' * (least > 1)}, {self.spec.frames} of {self.spec.size} by {self.spec.size} for published weights"
      )


class TimePool(nnx.Module):
  """The larger of each two frames; an odd last one is left out."""

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, C]` to `[B, T // 2, H, W, C]`."""
    del context
    return max_pool(x, (2, 1, 1), (2, 1, 1))


def _spec(weights: str, top: str) -> Spec:
  return Spec(
    frames=5, interval=1, size=224, mean=KINETICS["mean"], std=KINETICS["std"], features=400, weights=weights,
    licence="Apache-2.0", top=top, source="PyTorchVideo's model zoo, Kinetics-400",
  )  # fmt: skip


VARIANTS = {
  # Wang et al., CVPR 2018.
  "c2d_r50": Variant(spec=_spec("C2D_8x8_R50.pyth", "blocks.5"), time_pool=True),
  # Carreira and Zisserman, CVPR 2017, as Wang et al. build it.
  "i3d_r50": Variant(
    spec=_spec("I3D_8x8_R50.pyth", "blocks.4"),
    stem_frames=5,
    time_kernels=((3,), (3, 1), (3, 1), (1, 3)),
    time_pool=True,
  ),
  # Feichtenhofer et al., ICCV 2019: the slow pathway alone.
  "slow_r50": Variant(spec=_spec("SLOW_8x8_R50.pyth", "blocks.4"), time_kernels=((1,), (1,), (3,), (3,))),
  # Tran et al., ICCV 2019.
  "csn_r101": Variant(
    spec=_spec("CSN_32x2_R101.pyth", "blocks.4"),
    stem_frames=3,
    depths=_DEPTHS_101,
    time_strides=(1, 2, 2, 2),
    middle="depthwise",
    dropout=0.0,
  ),
  # Tran et al., CVPR 2018.
  "r2plus1d_r50": Variant(
    spec=_spec("R2PLUS1D_16x4_R50.pyth", "blocks.4"),
    time_strides=(1, 1, 2, 2),
    strides=(2, 2, 2, 2),
    middle="factorised",
    stem_pool=False,
  ),
}


def _factory(variant: Variant) -> Callable[..., ResNet3D]:
  def build(
    *,
    stem: int = 64,
    depths: Sequence[int] = variant.depths,
    num_classes: int = 400,
    feature: str = "classes",
    softmax_head: bool = False,
    dropout: float = variant.dropout,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ) -> ResNet3D:
    return ResNet3D(
      variant, stem=stem, depths=depths, num_classes=num_classes, feature=feature, softmax_head=softmax_head,
      dropout=dropout, dtype=dtype, rngs=rngs,
    )  # fmt: skip

  build.__doc__ = ResNet3D.__doc__
  return build


for _name, _variant in VARIANTS.items():
  models.register(_name, kind=VIDEO_ENCODER)(_factory(_variant))
