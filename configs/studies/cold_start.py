r"""Items that training never names: IDs, content, and both fused (arXiv 2309.15379, on cold items).

  python -m mlrec.study --config=configs/studies/cold_start.py --workdir=studies/cold_start
  python -m mlrec.study --config=configs/studies/cold_start.py:buckets --workdir=studies/cold_start --report_only

Natural cold start is that of the data: the latest items are watched by nobody before the targets. Forced cold start
takes a fifth of the items, drawn by `config.data.cold_seed`, out of training altogether (`mlrec/data/cold_start.py`);
users who are left with fewer than three items to train on are dropped, so its users are not quite those of the natural.
Targets are ranked among all items in either; those that are cold and those that are not stand apart. With `buckets`
the natural runs are shown by how often the targets occur in training, in `buckets.md` and the like: both studies share
their workdirs.

  python -m mlrec.study --config=configs/studies/cold_start.py:titles --workdir=studies/cold_start_50k \
    --config.data.source=PATH/MicroLens-50k_pairs.tsv --config.data.content=PATH/MicroLens-50k_titles.csv

does so on MicroLens-50k, where content is the titles, with the settings of `configs/50k/sasrec_title.py`, whose tower
of ages makes a fourth series; `titles,buckets` shows the buckets of its natural runs. Ages take what training never
names for new, which by nature it is, and by force is not. By default content is a small vision transformer over the
demo's clips, trained end to end. The fused tower loses its IDs in four items of ten of a training step, and for the
cold ones always. There are no published figures of it.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.registry import closest
from mlrec.runs.study import BARS
from mlrec.runs.study import BUCKETS
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_TITLES, _BUCKETS = "titles", "buckets"
_SHIPPED = "50k/sasrec_title.py"
_SHARE, _ID_DROPOUT = 0.2, 0.4
_ID = {"name": "id"}
_VIDEO = {
  "name": "video", "encoder": "vit_s", "mode": "scratch", "frames": 4, "size": 32,
  "options": {"dim": 96, "depth": 2, "heads": 3, "size": 32, "num_frames": 4},
}  # fmt: skip
_STARTS = {"natural": 0.0, f"forced, {_SHARE:.0%} of items": _SHARE}


def _parsed(argument: str) -> set[str]:
  words = set(filter(None, argument.split(",")))
  for word in words:
    if word not in (_TITLES, _BUCKETS):
      raise ValueError(f"no study {argument!r}, {word!r}: {closest(word, (_TITLES, _BUCKETS))}")
  return words


def get_config(argument: str = "") -> ConfigDict:
  if _TITLES in _parsed(argument):
    config = shipped(__file__, _SHIPPED)
    config.model.item = ConfigDict(_ID)
    return config
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


def get_study(argument: str = "") -> Study:
  words = _parsed(argument)
  content, age = {"content": _VIDEO}, {}
  if _TITLES in words:
    towers = shipped(__file__, _SHIPPED).model.item.towers.to_dict()
    content, age = {name: towers[name] for name in ("title", "words")}, {"age": towers["age"]}
  fused = {"name": "fused", "fusion": "sum"}
  both = fused | {"towers": {"id": _ID} | content, "id_dropout": _ID_DROPOUT}
  items = {"ID": _ID, "content": fused | {"towers": content, "id_dropout": 0.0}, "ID and content": both}
  if age:
    items["ID, content and age"] = both | {"towers": both["towers"] | age}
  runs = [
    StudyRun(series, start, {"model.item": item, "data.cold_share": share})
    for start, share in _STARTS.items()
    for series, item in items.items()
    if not share or _BUCKETS not in words
  ]
  if _BUCKETS in words:
    return Study("Targets by how often training names them", "occurrences in training", BUCKETS, runs, name=_BUCKETS)
  return Study("Cold start", "cold start", BARS, runs, metrics=("cold/hr@10", "warm/hr@10", "hr@10"))
