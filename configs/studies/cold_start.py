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
names for new, which by nature it is, and by force is not. By default content is the demo's clips, with the settings of
`configs/demo.py`. There are no published figures of it.
"""

from ml_collections import ConfigDict

from mlrec.registry import closest
from mlrec.runs.study import BARS
from mlrec.runs.study import BUCKETS
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_TITLES, _BUCKETS = "titles", "buckets"
# The config of the demo's clips, and that of the 50k's titles.
_SHIPPED = "demo.py", "50k/sasrec_title.py"
_SHARE, _ID, _AGE = 0.2, {"name": "id"}, "age"
_STARTS = {"natural": 0.0, f"forced, {_SHARE:.0%} of items": _SHARE}


def _parsed(argument: str) -> set[str]:
  words = set(filter(None, argument.split(",")))
  for word in words:
    if word not in (_TITLES, _BUCKETS):
      raise ValueError(f"no study {word!r}: {closest(word, (_TITLES, _BUCKETS))}")
  return words


def get_config(argument: str = "") -> ConfigDict:
  config = shipped(__file__, _SHIPPED[_TITLES in _parsed(argument)])
  config.baselines = ()
  config.model.item = ConfigDict(_ID)
  return config


def get_study(argument: str = "") -> Study:
  words = _parsed(argument)
  fused = shipped(__file__, _SHIPPED[_TITLES in words]).model.item.to_dict()
  towers = fused["towers"]
  content = {name: tower for name, tower in towers.items() if name not in (_ID["name"], _AGE)}
  alone = {name: option for name, option in fused.items() if not name.startswith("id_")}
  items = {
    "ID": _ID,
    "content": alone | {"towers": content},
    "ID and content": fused | {"towers": {"id": _ID} | content},
  }
  if _AGE in towers:
    items["ID, content and age"] = fused | {"towers": {"id": _ID} | content | {_AGE: towers[_AGE]}}
  runs = [
    StudyRun(series, start, {"model.item": item, "data.cold_share": share})
    for start, share in _STARTS.items()
    for series, item in items.items()
    if not share or _BUCKETS not in words
  ]
  if _BUCKETS in words:
    return Study("Targets by how often training names them", "occurrences in training", BUCKETS, runs, name=_BUCKETS)
  return Study("Cold start", "cold start", BARS, runs, metrics=("cold/hr@10", "warm/hr@10", "hr@10"))
