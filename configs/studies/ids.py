r"""Which step of `configs/50k/sasrec_markov.py` gives how much: each run is that model with one thing changed.

  python -m mlrec.study --config=configs/studies/ids.py --workdir=studies/ids \
    --config.data.source=PATH/MicroLens-50k_pairs.tsv

On one CPU core some ten minutes a run.
"""

from typing import Any

from ml_collections import ConfigDict

from mlrec.runs.study import BARS
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun


def get_config() -> ConfigDict:
  config = shipped(__file__, "50k/sasrec_markov.py")
  with config.unlocked():
    config.model.loss, config.model.negatives, config.model.members = "in_batch_softmax", 0, 1
  return config


def get_study() -> Study:
  config = get_config().model.to_dict()

  def with_user(**options: Any) -> dict[str, Any]:
    return {"model.user": config["user"] | options}

  def with_transitions(**options: Any) -> dict[str, Any]:
    return {"model.transitions": config["transitions"] | options}

  changes = {
    "none": {},
    "no transitions": {"model.transitions": {}},
    "no item dropout": {"model.item_dropout": 0.0},
    "neither": {"model.transitions": {}, "model.item_dropout": 0.0},
    "item dropout .1": {"model.item_dropout": 0.1},
    "item dropout .3": {"model.item_dropout": 0.3},
    "transitions' share .1": with_transitions(share=0.1),
    "transitions' share .3": with_transitions(share=0.3),
    "next items alone": with_transitions(window=1, decay=0.5),
    "two blocks": with_user(blocks=2),
    "two members of two blocks": {"model.members": 2} | with_user(blocks=2),
    "dropout .3": with_user(dropout=0.3),
    "hstu": {"model.user": {"name": "hstu", "heads": 2, "blocks": 3, "dropout": 0.4}},
    "width 192": {"model.dim": 192},
    "popularity to the .75": {"loss.popularity_power": 0.75},
    "sampled softmax": {"model.loss": "sampled_softmax", "model.negatives": 2048, "optimizer.lr": 2e-3},
    "cosine schedule": {"optimizer.schedule": "cosine", "optimizer.warmup_steps": 200},
    "no averaged weights": {"train.ema_decay": 0.0},
  }  # fmt: skip
  return Study(
    "IDs on MicroLens-50k, step by step", "changed", BARS,
    [StudyRun("one change", name, overrides) for name, overrides in changes.items()],
    metrics=("hr@10", "ndcg@10"),
  )  # fmt: skip
