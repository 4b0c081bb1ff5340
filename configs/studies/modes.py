"""How much of an encoder to train, from pre-trained weights and from a random start (arXiv 2309.15379, Figs. 4 and 5).

  python -m mlrec.pretrain --config=configs/pretrain_demo.py --workdir=runs/pretrain_demo
  python -m mlrec.study --config=configs/studies/modes.py --workdir=studies/modes

The small VideoMAE of `configs/pretrain_demo.py` on the demo's clips, without IDs, with the settings of
`configs/demo.py`: frozen, its last block trained, or all of it; from that recipe's weights, which other clips with
labels have made as Kinetics makes those of the paper, or at random. Three seeds each, whose random starts differ, those
of frozen encoders too. The three modes are tested against one another, user by user, on either start, and the starts in
each mode.

A pre-trained encoder that learns as fast as a new one forgets what it knew, and one that learns slowly holds back its
projection, which is of its group. So two more runs have the projection learn as the head does: frozen, and in full with
a fifth of the encoder's learning rate.

`modes.py:WEIGHTS`, the path of a safetensors file, takes other weights than those of runs/pretrain_demo.
"""

import itertools

from ml_collections import ConfigDict

from mlrec.runs.study import BARS
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_WEIGHTS = "runs/pretrain_demo/encoder.safetensors"
_MODES = ("frozen", "top", "full")
_PRETRAINED, _RANDOM = "pre-trained", "random start"
_QUICK, _SLOW, _SLOW_LR = "frozen, quick projection", "full, slow encoder", 1e-4


def get_config(argument: str = _WEIGHTS) -> ConfigDict:
  config = shipped(__file__, "demo.py")
  config.seeds = (0, 1, 2)
  config.baselines = ()
  config.model.item = ConfigDict(_item("frozen", argument))
  return config


def get_study(argument: str = _WEIGHTS) -> Study:
  runs = {
    (start, mode): StudyRun(mode, start, {"model.item": _item(mode, weights)})
    for start, weights in ((_PRETRAINED, argument), (_RANDOM, "random"))
    for mode in _MODES
  }
  for name, mode, more in ((_QUICK, "frozen", {}), (_SLOW, "full", {"optimizer.encoder_lr": _SLOW_LR})):
    item = _item(mode, argument, projection_group="head")
    runs[_PRETRAINED, name] = StudyRun(name, _PRETRAINED, {"model.item": item} | more)
  # What trains more of the encoder comes first, so that a gain is positive.
  pairs = [
    (runs[start, more].name, runs[start, less].name)
    for start in (_PRETRAINED, _RANDOM)
    for less, more in itertools.combinations(_MODES, 2)
  ]
  pairs += [(runs[_PRETRAINED, _SLOW].name, runs[_PRETRAINED, frozen].name) for frozen in ("frozen", _QUICK)]
  pairs += [(runs[_PRETRAINED, mode].name, runs[_RANDOM, mode].name) for mode in _MODES]
  return Study(
    "Modes and starts of an encoder, on the demo", "start", BARS, list(runs.values()),
    metrics=("hr@10", "ndcg@10", "cold/hr@10"), compared=pairs,
    note="Pre-trained on the labels of other clips of the demo's sort, configs/pretrain_demo.py, in place of Kinetics.",
  )  # fmt: skip


def _item(mode: str, weights: str, **options: str) -> dict:
  video = shipped(__file__, "pretrain_demo.py").model.item.to_dict() | {
    "mode": mode, "weights": weights, "train_from": "encoder.layer.1" if mode == "top" else "",
    # A frozen encoder whose vectors are kept would have one random start for all seeds.
    "cache": weights != "random",
  } | options  # fmt: skip
  # Fused, if with nothing: so are its vectors normalised. Else those of pre-trained encoders are so long that the first
  # losses are far above those of a guess, and to bring them down spoils what the encoder knows.
  return {"name": "fused", "towers": {"video": video}}
