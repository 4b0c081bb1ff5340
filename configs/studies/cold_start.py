"""Items that training never names: IDs, content, and both fused (arXiv 2309.15379, on cold items).

  python -m mlrec.study --config=configs/studies/cold_start.py --workdir=studies/cold_start
  python -m mlrec.study --config=configs/studies/cold_start.py:buckets --workdir=studies/cold_start --report_only

Natural cold start is that of the data: the latest items are watched by nobody before the targets. Forced cold start
takes a fifth of the items, drawn by `config.data.cold_seed`, out of training altogether (`mlrec/data/cold_start.py`).
Targets are ranked among all items in either; those that are cold and those that are not stand apart. With `buckets`
the natural runs are shown by how often the targets occur in training: both studies share their workdirs.

Content is a small vision transformer over the demo's clips, trained end to end. The fused tower loses its IDs in four
items of ten of a training step, and for the cold ones always. There are no published figures of it.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.registry import closest
from mlrec.studies import BARS
from mlrec.studies import BUCKETS
from mlrec.studies import Run
from mlrec.studies import Study

_ARGUMENTS = ("bars", "buckets")
_SHARE = 0.2
_ID = {"name": "id"}
_VIDEO = {
  "name": "video", "encoder": "vit_s", "mode": "scratch", "frames": 4, "size": 32,
  "options": {"dim": 96, "depth": 2, "heads": 3, "size": 32, "num_frames": 4},
}  # fmt: skip
_TOWERS = {
  "ID": _ID,
  "content": _VIDEO,
  "ID and content": {"name": "fused", "towers": {"id": _ID, "video": _VIDEO}, "fusion": "sum", "id_dropout": 0.4},
}
_STARTS = {"natural": 0.0, f"forced, {_SHARE:.0%} of items": _SHARE}


def get_config(argument: str = "bars") -> ConfigDict:
  if argument not in _ARGUMENTS:
    raise ValueError(f"no study {argument!r}: {closest(argument, _ARGUMENTS)}")
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.data.videos = "microlens/demo-videos-5x64"
  config.model.dim = 64
  config.model.item = ConfigDict(_ID)
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 1e-3
  config.optimizer.encoder_lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 25
  config.train.patience = 0
  config.train.steps_per_dispatch = 4
  return config


def get_study(argument: str = "bars") -> Study:
  starts = {"natural": 0.0} if argument == "buckets" else _STARTS
  runs = [
    Run(series, start, {"model.item": item, "data.cold_share": share})
    for start, share in starts.items()
    for series, item in _TOWERS.items()
  ]
  if argument == "buckets":
    return Study("Targets by how often training names them", "occurrences in training", BUCKETS, runs)
  return Study("Cold start", "cold start", BARS, runs, metrics=("cold/hr@10", "warm/hr@10", "hr@10"))
