"""The full-size nets of `encoders.py` in PyTorch, which this script alone needs; prints one JSON object.

  OTHER_PYTHON benchmarks/torch_encoders.py slowfast_r50 [--threads 2]

The nets are PyTorchVideo's and Hugging Face's own (`pip install torch transformers`, and without their dependencies
`pytorchvideo fvcore iopath`, which need `parameterized tqdm yacs portalocker termcolor tabulate`), at a random start,
with the pools that MicroLens's paper uses for five frames. Figures have the names and the meaning of `encoders.py`'s.
Channels lie last, in which PyTorch's depthwise convolutions are ten times as fast; `--contiguous` leaves them first.
"""

import argparse
from collections.abc import Callable
import importlib.util
import json
import os
import statistics
import sys
import time
import types

# Threads that spin while they wait would count as work, and where cores are shared keep others from theirs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import nn

# PyTorchVideo imports a layer for detection from torchvision, which no net here has.
if importlib.util.find_spec("torchvision") is None:
  absent = types.ModuleType("torchvision")
  absent.ops = types.ModuleType("torchvision.ops")
  absent.ops.RoIAlign = None
  sys.modules |= {"torchvision": absent, "torchvision.ops": absent.ops}

SIZE = 224
POOL = (1, 7, 7)
# Where windows over height and width end a net, and time is averaged over scores.
POOLED = {"head_pool_kernel_size": POOL}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("encoder", choices=NETS)
  parser.add_argument("--runs", type=int, default=3)
  parser.add_argument("--clips", type=int, default=2)
  parser.add_argument("--frames", type=int, default=5)
  parser.add_argument("--threads", type=int, default=2)
  parser.add_argument("--contiguous", action="store_true")
  arguments = parser.parse_args()
  torch.set_num_threads(arguments.threads)
  torch.manual_seed(0)
  layout = torch.contiguous_format if arguments.contiguous else torch.channels_last_3d
  net = NETS[arguments.encoder](arguments.frames).to(memory_format=layout)
  clips = torch.randn(arguments.clips, 3, arguments.frames, SIZE, SIZE).to(memory_format=layout)

  def scores():
    # A net of two pathways takes a list, which it overwrites.
    return net([clips[:, :, ::4], clips] if arguments.encoder.startswith("slowfast") else clips)

  def forward():
    net.eval()
    with torch.no_grad():
      return scores()

  def both():
    net.train()
    net.zero_grad(set_to_none=True)
    scores().square().sum().backward()

  record = {"encoder": arguments.encoder, "parameters": sum(each.numel() for each in net.parameters())}
  for label, run in (("forward", forward), ("both", both)):
    wall, cpu = seconds(run, arguments.runs)
    record |= {f"{label}_wall_s": round(wall, 3), f"{label}_cpu_s": round(cpu, 3)}
  print(json.dumps(record), flush=True)


def seconds(run: Callable, runs: int) -> tuple[float, float]:
  """Medians of wall and CPU time."""
  run()
  walls, cpus = [], []
  for _ in range(runs):
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    walls.append(time.perf_counter() - wall)
    cpus.append(time.process_time() - cpu)
  return statistics.median(walls), statistics.median(cpus)


# --- Nets, from the number of frames ----------------------------------------------------------------------------------


def videomae(frames: int) -> nn.Module:
  from transformers import VideoMAEConfig
  from transformers import VideoMAEModel

  class Encoder(nn.Module):
    def __init__(self):
      super().__init__()
      self.net = VideoMAEModel(VideoMAEConfig(num_frames=frames, use_mean_pooling=True))

    def forward(self, frames):
      return self.net(frames.transpose(1, 2)).last_hidden_state.mean(1)

  return Encoder()


def slowfast(frames: int) -> nn.Module:
  from pytorchvideo.models.hub import slowfast_r50

  # The fast pathway's windows over time leave it the slow one's length.
  return slowfast_r50(head_pool_kernel_sizes=(POOL, (frames - (frames + 3) // 4 + 1, *POOL[1:])))


def slow(frames: int) -> nn.Module:
  from pytorchvideo.models.resnet import create_resnet

  return create_resnet(stem_conv_kernel_size=POOL, **POOLED)


def c2d(frames: int) -> nn.Module:
  from pytorchvideo.models.hub import c2d_r50

  return c2d_r50(**POOLED)


def i3d(frames: int) -> nn.Module:
  from pytorchvideo.models.hub import i3d_r50

  return i3d_r50(**POOLED)


def csn(frames: int) -> nn.Module:
  from pytorchvideo.models.csn import create_csn

  return create_csn(model_depth=101, stem_pool=nn.MaxPool3d, **POOLED)


def r2plus1d(frames: int) -> nn.Module:
  from pytorchvideo.models.hub import r2plus1d_r50

  return r2plus1d_r50(head_activation=None, **POOLED)


def x3d(frames: int, **options) -> nn.Module:
  from pytorchvideo.models.x3d import create_x3d

  # The head's windows cover as many frames as the clip is said to have.
  return create_x3d(input_clip_length=1, input_crop_size=SIZE, head_activation=None, **options)


def mvit(frames: int) -> nn.Module:
  from pytorchvideo.models.hub import mvit_base_16x4

  return mvit_base_16x4(temporal_size=frames + frames % 2, head_num_classes=400)


NETS: dict[str, Callable[[int], nn.Module]] = {
  "videomae_b": videomae,
  "slowfast_r50": slowfast,
  "slow_r50": slow,
  "c2d_r50": c2d,
  "i3d_r50": i3d,
  "csn_r101": csn,
  "r2plus1d_r50": r2plus1d,
  "x3d_s": x3d,
  "x3d_l": lambda frames: x3d(frames, depth_factor=5.0),
  "mvit_b_16x4": mvit,
}


if __name__ == "__main__":
  main()
