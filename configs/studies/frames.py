"""How many frames an encoder is fed, and how far apart they are (arXiv 2309.15379 takes five, one apart).

  python -m mlrec.study --config=configs/studies/frames.py --workdir=studies/frames
  python -m mlrec.study --config=configs/studies/frames.py:intervals --workdir=studies/intervals

The argument is `frames` (the default) or `intervals`, then, after a comma, `demo` (the default) or `100k`. Each
choice of frames is a data set of its own: those of the demo are rendered on first use, those of MicroLens-100k are
made of its mp4 files, once, as in `python -m tfds_microlens 100k-videos-10x224-i5`. On the demo, whose clips have 24
frames, a small vision transformer is trained from a random start; on MicroLens-100k the slow pathway of SlowFast, at
its top, over the frames that the released scripts mention: 1, 5 and 10, five apart, and five frames that are 1, 5 and
25 apart.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.registry import closest
from mlrec.runs.study import LINES
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_AXES, _RELEASES = ("frames", "intervals"), ("demo", "100k")
_FRAMES = 5
# Numbers of frames by how far apart they are, and intervals between five frames.
_NUMBERS = {"demo": {1: (1, 2, 3, 4, 5), 5: (2, 3, 4, 5)}, "100k": {5: (1, 5, 10)}}
_INTERVALS = {"demo": (1, 2, 3, 5), "100k": (1, 5, 25)}
_SIZES = {"demo": 64, "100k": 224}


def _parsed(argument: str) -> tuple[str, str]:
  axis, _, release = argument.partition(",")
  release = release or "demo"
  for name, known in ((axis, _AXES), (release, _RELEASES)):
    if name not in known:
      raise ValueError(f"no study {name!r}: {closest(name, known)}")
  return axis, release


def get_config(argument: str = "frames") -> ConfigDict:
  _, release = _parsed(argument)
  if release == "100k":
    return shipped(__file__, "video_sasrec.py:slow_r50,top")
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.data.videos = "microlens/demo-videos-5x64"
  config.model.dim = 64
  config.model.item = ConfigDict({
    "name": "video", "encoder": "vit_s", "mode": "scratch", "frames": 5, "size": 32,
    "options": {"dim": 96, "depth": 2, "heads": 3, "size": 32},
  })  # fmt: skip
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 1e-3
  config.optimizer.encoder_lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 15
  config.train.patience = 0
  config.train.steps_per_dispatch = 4
  return config


def get_study(argument: str = "frames") -> Study:
  axis, release = _parsed(argument)
  if axis == "frames":
    runs = [
      StudyRun(f"{interval} apart", number, _clips(release, number, interval))
      for interval, numbers in _NUMBERS[release].items()
      for number in numbers
    ]
    return Study("Frames of a clip", "frames", LINES, runs)
  runs = [
    StudyRun(f"{_FRAMES} frames", interval, _clips(release, _FRAMES, interval)) for interval in _INTERVALS[release]
  ]  # fmt: skip
  return Study("Intervals between the frames of a clip", "interval, frames of the video", LINES, runs)


def _clips(release: str, number: int, interval: int) -> dict:
  apart = f"-i{interval}" if interval > 1 else ""
  return {"data.videos": f"microlens/{release}-videos-{number}x{_SIZES[release]}{apart}", "model.item.frames": number}
