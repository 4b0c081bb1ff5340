"""SASRec trained through a video encoder on MicroLens-100k, as Fig. 4 of arXiv 2309.15379 has it.

  python -m mlrec.main --config=configs/video_sasrec.py:slowfast_r50,top --config.model.item.weights=FILE

The argument is ENCODER[,MODE], MODE one of frozen, top (the default), full and scratch. `weights` is the published file
as `python -m mlrec.convert` writes it, by default under weights/. The published batch is so many users on each of four
devices, which see their own negatives only; stages, batches and learning rates are those of the released scripts.
Encoders that the paper does not have take its settings too, and their own clips where the paper's do not fit.
Published test HR@10 of slowfast_r50 in the modes frozen, top, full: .0415, .0949, .0883. None of it was run by us at
this size: the videos are not redistributed.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import closest

_DEVICES = 4
# Users on each device in the modes frozen, top and full.
_BATCHES = {
  "videomae_b": (45, 45, 10),
  "r3d_r18": (32, 32, 20),
  "r2plus1d_r50": (70, 70, 10),
  "c2d_r50": (45, 45, 10),
  "i3d_r50": (45, 45, 15),
  "csn_r101": (45, 45, 10),
  "slow_r50": (45, 45, 10),
  "x3d_xs": (110, 110, 20),
  "x3d_s": (110, 110, 20),
  "x3d_m": (110, 110, 20),
  "x3d_l": (90, 90, 12),
  "mvit_b_16x4": (30, 30, 5),
  "mvit_b_32x3": (30, 30, 10),
  "slowfast_r50": (120, 120, 20),
  "slowfast_r101": (120, 120, 15),
}
# For encoders that the paper does not have.
_OTHER_BATCHES = (45, 45, 10)
# Frames, their size and interval: of the paper, and of encoders that cannot be fed such clips.
_CLIP = (5, 224, 1)
_OTHER_CLIPS = {
  "hiera_b": (16, 224, 4), "videoprism_b": (16, 288, 1), "videoprism_lvt_b": (16, 288, 1),
  "videoprism_lvt_l": (8, 288, 1),
}  # fmt: skip
_MODES = ("frozen", "top", "full", "scratch")


def get_config(argument: str = "slowfast_r50,top") -> ConfigDict:
  encoder, _, mode = argument.partition(",")
  mode = mode or "top"
  if encoder not in models.names(VIDEO_ENCODER):
    raise ValueError(f"no video encoder {encoder!r}: {closest(encoder, models.names(VIDEO_ENCODER))}")
  if mode not in _MODES:
    raise ValueError(f"no mode {mode!r}: {closest(mode, _MODES)}")
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  frames, size, interval = _OTHER_CLIPS.get(encoder, _CLIP)
  config.data.videos = f"microlens/100k-videos-{frames}x{size}" + (f"-i{interval}" if interval > 1 else "")
  config.model.dim = 512
  config.model.item = ConfigDict({
    "name": "video",
    "encoder": encoder,
    "mode": mode,
    "weights": "" if mode == "scratch" else f"weights/{encoder}.safetensors",
    "frames": frames,
    "size": size,
    "pixels": "spec",
    "dtype": "bfloat16",
    "remat": False,
    "accumulate": 1,
    "train_from": "",
    "frozen_in_training": False,
    "cache": True,
    # What those encoders have that publish classes.
    "options": {"feature": "classes"} if "feature" in models.options(encoder) else {},
  })  # fmt: skip
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1})
  config.loss.negative_groups = _DEVICES
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.optimizer.encoder_lr = 1e-4
  config.optimizer.encoder_weight_decay = 0.0
  config.train.batch_size = _DEVICES * _BATCHES.get(encoder, _OTHER_BATCHES)[min(_MODES.index(mode), 2)]
  config.train.epochs = 50
  config.train.steps_per_dispatch = 8 if mode == "frozen" else 1
  return config
