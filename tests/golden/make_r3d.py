"""Writes `video_r3d_tiny.npz`: what torchvision's R3D-18 computes when it is made narrow.

It needs PyTorch and a torchvision that fits (made with 2.13.0 and 0.28.0); no test runs it. Weights, norms and running
statistics are drawn from a seed, the latter away from 1 and 0, so that an error in one shows.
"""

import pathlib

import numpy as np
import torch
from torchvision.models.video import resnet

_STEM = 3


class _Narrow(resnet.VideoResNet):
  """The published net at `_STEM` / 64 of its widths, with its features in place of classes."""

  def __init__(self):
    super().__init__(resnet.BasicBlock, [resnet.Conv3DSimple] * 4, [2, 2, 2, 2], self._narrow_stem)
    self.fc = torch.nn.Identity()

  @staticmethod
  def _narrow_stem() -> torch.nn.Module:
    stem = resnet.BasicStem()
    wide = stem[0]
    stem[0] = torch.nn.Conv3d(
      3, _STEM, wide.kernel_size, stride=wide.stride, padding=wide.padding, bias=wide.bias is not None
    )
    stem[1] = torch.nn.BatchNorm3d(_STEM)
    return stem

  def _make_layer(self, block, conv_builder, planes, blocks, stride=1):
    if planes == 64:
      self.inplanes = _STEM
    return super()._make_layer(block, conv_builder, planes * _STEM // 64, blocks, stride)


def main() -> None:
  torch.manual_seed(0)
  net = _Narrow().eval()
  generator = torch.Generator().manual_seed(1)
  with torch.no_grad():
    for module in net.modules():
      if isinstance(module, torch.nn.BatchNorm3d):
        module.weight.uniform_(0.6, 1.4, generator=generator)
        module.bias.uniform_(-0.4, 0.4, generator=generator)
        module.running_mean.uniform_(-0.4, 0.4, generator=generator)
        module.running_var.uniform_(0.5, 1.8, generator=generator)
    # An odd height and width, and a number of frames that halves to 3, 2 and 1: padding is symmetric.
    clips = torch.randn(2, 3, 5, 29, 26, generator=generator)
    output = net(clips)
  arrays = {f"sd/{name}": value.numpy() for name, value in net.state_dict().items()}
  path = pathlib.Path(__file__).with_name("video_r3d_tiny.npz")
  np.savez_compressed(path, input=clips.numpy(), output=output.numpy(), **arrays)


if __name__ == "__main__":
  main()
