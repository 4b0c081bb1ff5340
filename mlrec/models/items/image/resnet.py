"""Residual nets over images (He et al., CVPR 2016), as torchvision publishes them."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import nnx
from jax import Array
import jax.numpy as jnp

from mlrec.models.items.encoder import IMAGENET
from mlrec.models.items.image.encoder import ImageEncoder
from mlrec.models.items.image.encoder import Spec
from mlrec.models.layers.batch_norm import BatchNorm
from mlrec.models.layers.context import Context
from mlrec.models.layers.convolution import max_pool
from mlrec.models.layers.initializers import kaiming_normal_fan_out
from mlrec.models.registry import IMAGE_ENCODER
from mlrec.models.registry import models
from mlrec.registry import at_least
from mlrec.registry import OptionError
from mlrec.registry import variant


class ResNet(ImageEncoder):
  """Residual blocks in four stages; the mean of the last map is the output.

  Any size will do. MicroLens's code puts its projection in the place of the published classes.
  """

  projection_name = "image_net.fc"
  # A convolution and its norm are two stages: no name is before both.
  stages = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
  torch_names = tuple((rf"^layers\.{n}\.", f"layer{n + 1}.") for n in range(4))
  torch_dropped = (r"^fc\.",)

  def __init__(
    self,
    *,
    spec: Spec,
    stem: int = 64,
    depths: Sequence[int] = (2, 2, 2, 2),
    bottleneck: bool = False,
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the net.

    Args:
      spec: what it expects, but for `features`.
      stem: channels of the first convolution; blocks have 1, 2, 4 and 8 times as many within.
      depths: blocks of each stage.
      bottleneck: whether blocks have three convolutions, and four times as many channels outside as within.
      dtype: of the computation; parameters are float32.
      rngs: the stream `params`.

    Raises:
      ValueError: `depths` are not those of four stages of a block or more.
    """
    at_least(1, stem=stem)
    if len(depths) != 4 or min(depths) < 1:
      raise OptionError("depths", f"= {tuple(depths)} must be of four stages, each of at least one block")
    block = Bottleneck if bottleneck else BasicBlock
    self.conv1 = _conv(3, stem, 7, 2, dtype=dtype, rngs=rngs)
    self.bn1 = BatchNorm(stem)
    self.layers: Any = nnx.List([])
    before = stem
    for n, depth in enumerate(depths):
      blocks: Any = nnx.List([])
      for k in range(depth):
        blocks.append(block(before, stem * 2**n, 2 if n and not k else 1, dtype=dtype, rngs=rngs))
        before = stem * 2**n * block.widening
      self.layers.append(blocks)
    self.spec = dataclasses.replace(spec, features=before)

  def stage(self, index: int, x: Array, context: Context) -> Array:
    """Maps are `[B, H, W, C]`; the last stage's result is float32 `[B, spec.features]`."""
    if index == 0:
      if x.ndim != 4 or x.shape[-1] != 3 or 0 in x.shape:
        raise ValueError(f"expected images [B, H, W, 3], not an array of shape {tuple(x.shape)}")
      return self.conv1(x)
    if index == 1:
      x = nnx.relu(self.bn1(x, context))
      return max_pool(x[:, None], (1, 3, 3), (1, 2, 2), (0, 1, 1))[:, 0]
    for block in self.layers[index - 2]:
      x = block(x, context)
    return x.mean((1, 2), dtype=jnp.float32) if index == len(self.stages) - 1 else x


class BasicBlock(nnx.Module):
  """Two convolutions of 3 by 3 beside a shortcut; the first takes the stride."""

  widening = 1

  def __init__(self, inputs: int, width: int, stride: int, *, dtype: Any, rngs: nnx.Rngs):
    self.conv1 = _conv(inputs, width, 3, stride, dtype=dtype, rngs=rngs)
    self.bn1 = BatchNorm(width)
    self.conv2 = _conv(width, width, 3, 1, dtype=dtype, rngs=rngs)
    self.bn2 = BatchNorm(width)
    self.downsample = _shortcut(inputs, width, stride, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, H, W, inputs]` to `[B, H / stride, W / stride, width]`, rounded up."""
    inner = nnx.relu(self.bn1(self.conv1(x), context))
    inner = self.bn2(self.conv2(inner), context)
    return nnx.relu(inner + (x if self.downsample is None else self.downsample(x, context)))


class Bottleneck(nnx.Module):
  """Three convolutions, narrow within, beside a shortcut; the middle one, of 3 by 3, takes the stride."""

  widening = 4

  def __init__(self, inputs: int, width: int, stride: int, *, dtype: Any, rngs: nnx.Rngs):
    outputs = self.widening * width
    self.conv1 = _conv(inputs, width, 1, 1, dtype=dtype, rngs=rngs)
    self.bn1 = BatchNorm(width)
    self.conv2 = _conv(width, width, 3, stride, dtype=dtype, rngs=rngs)
    self.bn2 = BatchNorm(width)
    self.conv3 = _conv(width, outputs, 1, 1, dtype=dtype, rngs=rngs)
    self.bn3 = BatchNorm(outputs)
    self.downsample = _shortcut(inputs, outputs, stride, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array, context: Context) -> Array:
    """`[B, H, W, inputs]` to `[B, H / stride, W / stride, 4 * width]`, rounded up."""
    inner = nnx.relu(self.bn1(self.conv1(x), context))
    inner = nnx.relu(self.bn2(self.conv2(inner), context))
    inner = self.bn3(self.conv3(inner), context)
    return nnx.relu(inner + (x if self.downsample is None else self.downsample(x, context)))


class ConvNorm(nnx.Module):
  """A convolution and its normalisation."""

  torch_names = ((r"^conv\.", "0."), (r"^norm\.", "1."))

  def __init__(self, inputs: int, outputs: int, stride: int, *, dtype: Any, rngs: nnx.Rngs):
    self.conv = _conv(inputs, outputs, 1, stride, dtype=dtype, rngs=rngs)
    self.norm = BatchNorm(outputs)

  def __call__(self, x: Array, context: Context) -> Array:
    return self.norm(self.conv(x), context)


def _shortcut(inputs: int, outputs: int, stride: int, *, dtype: Any, rngs: nnx.Rngs) -> ConvNorm | None:
  if stride == 1 and inputs == outputs:
    return None
  return ConvNorm(inputs, outputs, stride, dtype=dtype, rngs=rngs)


def _conv(inputs: int, outputs: int, size: int, stride: int, *, dtype: Any, rngs: nnx.Rngs) -> nnx.Conv:
  # The same padding on both sides, whatever the stride; `SAME` would shift.
  return nnx.Conv(
    inputs, outputs, (size, size), strides=(stride, stride), padding=((size // 2,) * 2,) * 2, use_bias=False,
    kernel_init=kaiming_normal_fan_out, dtype=dtype, rngs=rngs,
  )  # fmt: skip


def _spec(weights: str) -> Spec:
  return Spec(
    size=224, **IMAGENET, features=512, weights=weights, licence="BSD-3-Clause", top="layer4", half="layer3",
    source="torchvision, ImageNet-1k",
  )  # fmt: skip


# Name: options, specification.
VARIANTS: dict[str, tuple[dict[str, Any], Spec]] = {
  "resnet18": ({}, _spec("resnet18-f37072fd.pth")),
  "resnet34": ({"depths": (3, 4, 6, 3)}, _spec("resnet34-b627a593.pth")),
  "resnet50": ({"depths": (3, 4, 6, 3), "bottleneck": True}, _spec("resnet50-0676ba61.pth")),
  "resnet101": ({"depths": (3, 4, 23, 3), "bottleneck": True}, _spec("resnet101-63fe2227.pth")),
  "resnet152": ({"depths": (3, 8, 36, 3), "bottleneck": True}, _spec("resnet152-394f9c45.pth")),
}


for _name, (_options, _published) in VARIANTS.items():
  models.register(_name, kind=IMAGE_ENCODER)(variant(ResNet, spec=_published, **_options))
