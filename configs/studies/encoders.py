"""Video encoders by what they know and how they are trained (arXiv 2309.15379, Fig. 4).

  python -m mlrec.study --config=configs/studies/encoders.py --workdir=studies/encoders
  python -m mlrec.study --config=configs/studies/encoders.py:100k --workdir=studies/encoders_100k

Test HR@10 against the top-1 accuracy on Kinetics-400 of each encoder's published weights, in the modes frozen, top
and full. `100k` is the paper's study: its fifteen encoders on MicroLens-100k, with the settings of
`configs/video_sasrec.py` and the files under weights/ that `python -m mlrec.convert` makes. The four encoders for which
the released scripts mention it are also trained from a random start, scratch, of which no figures were published.

Without an argument the same is done on the demo, on a laptop, with nets of four of the families that are far
smaller and start at random. They stand at the accuracy of the published net of their family, which is not
theirs: that study shows what training through an encoder is worth, not what its pre-training is, and full is scratch.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.registry import closest
from mlrec.runs import published
from mlrec.runs.study import PublishedPoint
from mlrec.runs.study import SCATTER
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_ARGUMENTS = ("demo", "100k")
_MODES = ("frozen", "top", "full")
_SCRATCH = ("slowfast_r50", "slowfast_r101", "mvit_b_16x4", "mvit_b_32x3")
_SOURCE = (
  "SASRec_V on MicroLens-100K, arXiv 2309.15379, Fig. 4; accuracies are those that the publishers of the weights state"
)
# Nets for the demo, and the first stage that is trained in the mode `top`.
_ONE_BLOCK = {"depths": (1, 1, 1, 1)}
_SMALL = {
  "r3d_r18": ({"stem": 8} | _ONE_BLOCK, "layer3"),
  "slow_r50": ({"stem": 8, "feature": "pooled"} | _ONE_BLOCK, "blocks.4"),
  "slowfast_r50": ({"widths": (8, 2), "feature": "pooled"} | _ONE_BLOCK, "blocks.4"),
  "videomae_b": ({"dim": 64, "depth": 2, "heads": 2, "hidden": 128, "patch": 8}, "encoder.layer.1"),
}


def _checked(argument: str) -> str:
  if argument not in _ARGUMENTS:
    raise ValueError(f"no study {argument!r}: {closest(argument, _ARGUMENTS)}")
  return argument


def get_config(argument: str = "demo") -> ConfigDict:
  if _checked(argument) == "100k":
    return _video_sasrec("slowfast_r50", "top")
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.data.videos = "microlens/demo-videos-5x64"
  config.model.dim = 64
  config.model.item = ConfigDict(_small_item("r3d_r18", "frozen"))
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 1e-3
  config.optimizer.encoder_lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 15
  config.train.patience = 0
  config.train.steps_per_dispatch = 4
  return config


def get_study(argument: str = "demo") -> Study:
  accuracy = published.kinetics_400()
  paper = [
    PublishedPoint(mode, accuracy[encoder], value, label=encoder)
    for (encoder, mode), value in published.encoders_100k().items()
  ]
  if _checked(argument) == "100k":
    title, note = "Encoders and modes on MicroLens-100K", ""
    runs = [
      StudyRun(mode, accuracy[encoder], _published_settings(encoder, mode), label=encoder)
      for encoder in dict.fromkeys(one.label for one in paper)
      for mode in (*_MODES, *(("scratch",) if encoder in _SCRATCH else ()))
    ]
  else:
    title = "Encoders and modes on the demo"
    note = (
      "Our nets are small and start at random; each stands at the accuracy of its family's published net, which is not "
      "its own. The published figures are of other data: only the order of the modes compares."
    )
    runs = [
      StudyRun(mode, accuracy[encoder], {"model.item": _small_item(encoder, mode)}, label=encoder)
      for encoder in _SMALL
      for mode in _MODES
    ]
  return Study(
    title, "top-1 accuracy on Kinetics-400, %", SCATTER, runs, published=paper, published_source=_SOURCE, note=note
  )


def _small_item(encoder: str, mode: str) -> dict:
  options, top = _SMALL[encoder]
  return {
    "name": "video", "encoder": encoder, "mode": mode, "weights": "random", "frames": 5, "size": 32,
    "train_from": top if mode == "top" else "", "options": options,
  }  # fmt: skip


def _published_settings(encoder: str, mode: str) -> dict:
  config = _video_sasrec(encoder, mode)
  return {
    "model.item": config.model.item.to_dict(), "data.videos": config.data.videos,
    "train.batch_size": config.train.batch_size, "train.steps_per_dispatch": config.train.steps_per_dispatch,
  }  # fmt: skip


def _video_sasrec(encoder: str, mode: str) -> ConfigDict:
  return shipped(__file__, f"video_sasrec.py:{encoder},{mode}")
