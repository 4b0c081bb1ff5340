r"""The same models under several protocols, and where their order changes.

  python -m mlrec.study --config=configs/studies/protocols.py --workdir=studies/protocols \
    --config.data.source=PATH/MicroLens-50k_pairs.csv --config.seeds="(0, 1, 2, 3, 4)"

runs the models of `configs/50k/` with their settings under leave-one-out, a global split in time and unseen users, and
writes beside the study `report.md`, `report.html` and `protocols.csv`: a table for each protocol with paired tests, and
the ranks that the tests leave each model. A split in time needs timestamps: of a `*_pairs.tsv`, which has none, its
runs are listed as failed, and the others stand side by side. `protocols.py:labels` adds the labels of a file in MMRec's
format:

  python -m mlrec.study --config=configs/studies/protocols.py:labels --workdir=studies/protocols_mmrec \
    --config.data.source=PATH/microlens.inter

`protocols.py:ease,markov,sasrec` runs those of `configs/50k/`, and no others. By default data are the demo's.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.config import flatten
from mlrec.registry import closest
from mlrec.runs.study import BARS
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_LABELS = "labels"
_PROTOCOLS = {
  "leave-one-out": "leave_one_out", "time": "time:0.8,0.1", "unseen users": "users:0.8,0.1",
}  # fmt: skip
_MODELS = ("popularity", "item_knn_bm25", "ease", "markov", "lightgcn", "gru4rec", "sasrec")
# Where data lie is the same for all runs.
_SHARED = ("data.source", "data.data_dir", "data.content", "data.videos", "data.features")


def _parsed(argument: str) -> tuple[list[str], bool]:
  """The models, and whether labels are among the protocols."""
  words = list(filter(None, argument.split(",")))
  known = sorted(path.stem for path in (pathlib.Path(__file__).parents[1] / "50k").glob("*.py"))
  for word in words:
    if word not in (*known, _LABELS):
      raise ValueError(f"no model {word!r}: {closest(word, [*known, _LABELS])}")
  return [word for word in words if word != _LABELS] or list(_MODELS), _LABELS in words


def _settings(model: str) -> dict[str, Any]:
  """What the shipped config of a model says of it."""
  config = shipped(__file__, f"50k/{model}.py")
  defaults = dict(flatten(default_config()))
  found: dict[str, Any] = {
    key: value
    for key, value in flatten(config)
    if not key.startswith("model.") and key not in _SHARED and value != defaults[key]
  }
  return found | {"model": config.model.to_dict()}


def get_config(argument: str = "") -> ConfigDict:
  _parsed(argument)
  config = default_config()
  config.data.source = "microlens/demo-interactions"
  return config


def get_study(argument: str = "") -> Study:
  models, labels = _parsed(argument)
  splits = _PROTOCOLS | ({_LABELS: "labels"} if labels else {})
  settings = {model: _settings(model) for model in models}
  runs = [
    StudyRun(model, protocol, {**settings[model], "data.split": split})
    for protocol, split in splits.items()
    for model in models
  ]
  return Study(
    "Protocols", "protocol", BARS, runs, metrics=("ndcg@10", "hr@10"), report=True,
    note="Each model has the settings that validation chose under leave-one-out: another protocol may ask for others.",
  )  # fmt: skip
