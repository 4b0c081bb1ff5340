"""A small VideoMAE pre-trained on what synthetic clips show, as published encoders are on Kinetics.

  python -m mlrec.pretrain --config=configs/pretrain_demo.py --workdir=runs/pretrain_demo

The clips are drawn as those of the demo, and none of them is one of its 400: 2,500 ids above the demo's, with
attributes of another seed. The encoder learns to tell all five of them together; a fifth of the clips is held out.
"""

from ml_collections import ConfigDict
import numpy as np

from mlrec.config import default_config
from mlrec.content.base import Source
from mlrec.content.media import pillow
from mlrec.data.item_labels import Labels
from mlrec.runs.pretraining import Labelled

_CLIPS, _SEED, _FIRST = 2500, 1, 1_000_001
_STORED = 64  # the side of the demo's frames, which are scaled down from there
ENCODER = {"dim": 64, "depth": 2, "heads": 2, "hidden": 128, "patch": 8}


def get_config() -> ConfigDict:
  config = default_config()
  config.data.cold_share = 0.2
  config.model.dim = 64
  config.model.item = ConfigDict({
    "name": "video", "encoder": "videomae_b", "mode": "scratch", "frames": 5, "size": 32, "options": ENCODER,
  })  # fmt: skip
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 0.05
  config.optimizer.encoder_weight_decay = 0.05
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 100
  config.train.batch_size = 64
  config.train.epochs = 60
  config.train.patience = 0
  config.train.steps_per_dispatch = 8
  return config


def get_labelled() -> Labelled:
  from tfds_microlens import demo

  rng = np.random.default_rng(_SEED)
  codes = np.stack([rng.integers(len(values), size=_CLIPS) for values in demo.ATTRIBUTES.values()], axis=1)
  items = np.arange(_FIRST, _FIRST + _CLIPS)
  values = {
    name: [classes[code] for code in column] for (name, classes), column in zip(demo.ATTRIBUTES.items(), codes.T)
  }
  return Labelled(Labels.of(items, values), DrawnClips(items, codes))


class DrawnClips(Source):
  """The frames of clips, drawn where they are asked for."""

  key = "videos"
  noun = "clip"

  def __init__(self, items: np.ndarray, attributes: np.ndarray):
    self.items, self._attributes = items, attributes
    self.fingerprint = f"drawn{len(items)}-{_SEED}"

  def read(self, ids: np.ndarray, *, frames: int, size: int) -> np.ndarray:
    """`[n, frames, size, size, 3]` uint8, RGB: the frames around the middle of clips, scaled as the demo's are."""
    from tfds_microlens import demo_videos
    from tfds_microlens.video_frames import choose_frames

    image, chosen = pillow(), choose_frames(demo_videos.NUM_FRAMES, frames)
    ids = np.asarray(ids).reshape(-1)
    out = np.empty((len(ids), frames, size, size, 3), np.uint8)
    for row, place in enumerate(np.searchsorted(self.items, ids).tolist()):
      clip = demo_videos.draw(self._attributes[place], int(self.items[place]))
      for column, pixels in enumerate(clip[chosen]):
        for side in (_STORED, size):
          pixels = np.asarray(image.fromarray(pixels).resize((side, side), image.Resampling.BILINEAR))
        out[row, column] = pixels
    return out
