"""R3D-18 (Tran et al., CVPR 2018), as torchvision publishes it."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.video.encoder import Spec
from mlrec.models.items.video.encoder import VideoEncoder
from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import Conv3D
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import at_least
from mlrec.registry import OptionError

SPEC = Spec(
  frames=5, interval=1, size=224, mean=(0.43216, 0.394666, 0.37645), std=(0.22803, 0.22145, 0.216989), features=512,
  weights="r3d_18-b3b3357e.pth", licence="BSD-3-Clause", top="layer3", source="torchvision, Kinetics-400",
)  # fmt: skip


class R3D(VideoEncoder):
  """A residual net of 3 by 3 by 3 convolutions; the mean of its last map is the output.

  Any size and any number of frames will do.
  """

  stages = ("stem", *(f"layer{n}" for n in range(1, 5)))
  torch_names = tuple((rf"^layers\.{n}\.", f"layer{n + 1}.") for n in range(4))
  # The published classes give way to the recommender's projection, which takes their name.
  torch_dropped = (r"^fc\.",)
  projection_name = "video_net.fc"

  def __init__(self, *, stem: int = 64, depths: Sequence[int] = (2, 2, 2, 2), dtype: Any = jnp.float32, rngs: nnx.Rngs):
    """Builds the net.

    Args:
      stem: channels of the first convolution; stages have 1, 2, 4 and 8 times as many.
      depths: blocks of each stage.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `depths` are not those of four stages of a block or more.
    """
    at_least(1, stem=stem)
    if len(depths) != 4 or min(depths) < 1:
      raise OptionError("depths", f"= {tuple(depths)} must be of four stages, each of at least one block")
    self.spec = dataclasses.replace(SPEC, features=8 * stem)
    self.stem = ConvNorm(3, stem, (3, 7, 7), (1, 2, 2), dtype=dtype, rngs=rngs)
    self.layers: nnx.List[nnx.List[BasicBlock]] = nnx.List([])
    before = stem
    for n, depth in enumerate(depths):
      width = stem * 2**n
      blocks: nnx.List[BasicBlock] = nnx.List([])
      for k in range(depth):
        stride = 2 if n and not k else 1
        blocks.append(BasicBlock(before if not k else width, width, stride, dtype=dtype, rngs=rngs))
      self.layers.append(blocks)
      before = width

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Maps are `[B, T, H, W, C]`; the last stage's result is float32 `[B, spec.features]`."""
    if index == 0:
      _check_clip(x)
      return nnx.relu(self.stem(x, context))
    for block in self.layers[index - 1]:
      x = block(x, context)
    return x.mean((1, 2, 3), dtype=jnp.float32) if index == len(self.layers) else x


class ConvNorm(nnx.Module):
  """A convolution and its normalisation."""

  torch_names = ((r"^conv\.", "0."), (r"^norm\.", "1."))

  def __init__(
    self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], *, dtype: Any, rngs: nnx.Rngs
  ):
    self.conv = Conv3D(inputs, outputs, kernel, stride=stride, dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(outputs)

  def __call__(self, x: Array, context: Context) -> Array:
    return self.norm(self.conv(x), context)


class BasicBlock(nnx.Module):
  """Two convolutions beside a shortcut (He et al., CVPR 2016); the first takes the stride, on all three axes."""

  def __init__(self, inputs: int, outputs: int, stride: int, *, dtype: Any, rngs: nnx.Rngs):
    steps, cube = (stride,) * 3, (3, 3, 3)
    self.conv1 = ConvNorm(inputs, outputs, cube, steps, dtype=dtype, rngs=rngs)
    self.conv2 = ConvNorm(outputs, outputs, cube, (1, 1, 1), dtype=dtype, rngs=rngs)
    moves = stride != 1 or inputs != outputs
    self.downsample = ConvNorm(inputs, outputs, (1, 1, 1), steps, dtype=dtype, rngs=rngs) if moves else None

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, T, H, W, inputs]` to `[B, T / stride, H / stride, W / stride, outputs]`, rounded up."""
    inner = self.conv2(nnx.relu(self.conv1(x, context)), context)
    return nnx.relu(inner + (x if self.downsample is None else self.downsample(x, context)))


def _check_clip(x: Array) -> None:
  if x.ndim != 5 or x.shape[-1] != 3 or 0 in x.shape[1:4]:
    raise ValueError(
      f"clips of shape {tuple(x.shape)} were given; expected [B, T, H, W, 3] with at least 1 frame, {SPEC.frames} of "
      f"{SPEC.size} by {SPEC.size} for published weights"
    )


models.register("r3d_r18", kind=VIDEO_ENCODER)(R3D)
