"""Convolutions and pools that occur in the video encoders, at two clips of five 224 x 224 frames."""

from typing import NamedTuple


class Case(NamedTuple):
  """A layer over `[2, T, H, W, inputs]`, padded by half its kernel; `pool` takes a window's largest instead."""

  where: str
  sizes: tuple[int, int, int]
  inputs: int
  outputs: int
  kernel: tuple[int, int, int]
  stride: tuple[int, int, int] = (1, 1, 1)
  groups: int = 1
  pool: bool = False

  @property
  def padding(self) -> tuple[int, ...]:
    return (0, 0, 0) if self.kernel == self.stride else tuple(size // 2 for size in self.kernel)

  @property
  def kind(self) -> str:
    """Of its form."""
    if self.pool:
      return "pool"
    return "depthwise" if self.groups > 1 else "x".join(map(str, self.kernel))


CLIPS = 2
CASES = {
  "stem_1x7x7": Case("Slow, C2D, R(2+1)D", (5, 224, 224), 3, 64, (1, 7, 7), (1, 2, 2)),
  "stem_5x7x7": Case("I3D", (5, 224, 224), 3, 64, (5, 7, 7), (1, 2, 2)),
  "stem_5x7x7_fast": Case("SlowFast", (5, 224, 224), 3, 8, (5, 7, 7), (1, 2, 2)),
  "stem_3x7x7": Case("CSN, R3D-18", (5, 224, 224), 3, 64, (3, 7, 7), (1, 2, 2)),
  "stem_x3d": Case("X3D", (5, 224, 224), 3, 24, (1, 3, 3), (1, 2, 2)),
  "patches_mvit": Case("MViT", (5, 224, 224), 3, 96, (3, 7, 7), (2, 4, 4)),
  "patches_mae": Case("VideoMAE", (5, 224, 224), 3, 768, (2, 16, 16), (2, 16, 16)),
  "widen_56": Case("ResNets", (5, 56, 56), 64, 256, (1, 1, 1)),
  "shortcut_56": Case("ResNets", (5, 56, 56), 256, 512, (1, 1, 1), (1, 2, 2)),
  "spatial_56": Case("ResNets", (5, 56, 56), 64, 64, (1, 3, 3)),
  "spatial_56_stride": Case("ResNets", (5, 56, 56), 128, 128, (1, 3, 3), (1, 2, 2)),
  "spatial_28": Case("ResNets", (5, 28, 28), 128, 128, (1, 3, 3)),
  "spatial_14": Case("ResNets", (5, 14, 14), 256, 256, (1, 3, 3)),
  "spatial_7": Case("ResNets", (5, 7, 7), 512, 512, (1, 3, 3)),
  "spatial_56_fast": Case("SlowFast", (5, 56, 56), 8, 8, (1, 3, 3)),
  "temporal_56": Case("I3D", (5, 56, 56), 256, 64, (3, 1, 1)),
  "temporal_14": Case("Slow", (5, 14, 14), 1024, 256, (3, 1, 1)),
  "temporal_7": Case("Slow", (5, 7, 7), 2048, 512, (3, 1, 1)),
  "temporal_56_stride": Case("R(2+1)D", (5, 28, 28), 256, 256, (3, 1, 1), (2, 1, 1)),
  "lateral_56": Case("SlowFast", (5, 56, 56), 32, 64, (7, 1, 1), (4, 1, 1)),
  "full_56": Case("R3D-18", (5, 56, 56), 64, 64, (3, 3, 3)),
  "full_56_stride": Case("R3D-18", (5, 56, 56), 64, 128, (3, 3, 3), (2, 2, 2)),
  "depthwise_5x1x1_112": Case("X3D", (5, 112, 112), 24, 24, (5, 1, 1), groups=24),
  "depthwise_112_stride": Case("X3D", (5, 112, 112), 54, 54, (3, 3, 3), (1, 2, 2), 54),
  "depthwise_28": Case("X3D", (5, 28, 28), 108, 108, (3, 3, 3), groups=108),
  "depthwise_14": Case("X3D", (5, 14, 14), 216, 216, (3, 3, 3), groups=216),
  "depthwise_7": Case("X3D", (5, 7, 7), 432, 432, (3, 3, 3), groups=432),
  "depthwise_56": Case("CSN", (5, 56, 56), 64, 64, (3, 3, 3), groups=64),
  "depthwise_56_stride": Case("CSN", (5, 56, 56), 128, 128, (3, 3, 3), (2, 2, 2), 128),
  "depthwise_14_wide": Case("CSN", (2, 14, 14), 256, 256, (3, 3, 3), groups=256),
  "depthwise_stride_8": Case("MViT", (3, 56, 56), 96, 96, (3, 3, 3), (1, 8, 8), 96),
  "depthwise_14_heads": Case("MViT", (3, 14, 14), 96, 96, (3, 3, 3), groups=96),
  "pool_112": Case("ResNets", (5, 112, 112), 64, 64, (1, 3, 3), (1, 2, 2), pool=True),
  "pool_time": Case("C2D, I3D", (5, 56, 56), 256, 256, (2, 1, 1), (2, 1, 1), pool=True),
  "pool_skip": Case("MViT", (3, 56, 56), 192, 192, (1, 3, 3), (1, 2, 2), pool=True),
}
