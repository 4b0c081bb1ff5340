r"""Which step of `configs/50k/sasrec_title.py` gives how much: each run is that model with one thing changed.

  python -m mlrec.study --config=configs/studies/titles.py --workdir=studies/titles \
    --config.data.source=PATH/MicroLens-50k_pairs.tsv --config.data.content=PATH/MicroLens-50k_titles.csv

It needs the extras `text` and `minilm`, and on one CPU core some ten minutes a run.
"""

from typing import Any

from ml_collections import ConfigDict

from mlrec.runs.study import BARS
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun


def get_config() -> ConfigDict:
  config = shipped(__file__, "50k/sasrec_title.py")
  with config.unlocked():
    config.model.loss, config.model.negatives = "in_batch_softmax", 0
    config.model.transitions, config.model.members = {}, 1
  return config


def get_study() -> Study:
  item = get_config().model.item.to_dict()
  words = item["towers"]["words"]

  def with_towers(*names: str) -> dict[str, Any]:
    # Without an ID there is none to drop.
    dropout = {} if "id" in names else {"id_dropout": 0.0}
    return {"model.item": item | dropout | {"towers": {name: item["towers"][name] for name in names}}}

  def with_words(**options: Any) -> dict[str, Any]:
    return {"model.item": item | {"towers": item["towers"] | {"words": words | options}}}

  changes = {
    "none": {},
    "IDs alone": {"model.item": {"name": "id"}, "model.new_item_bias": 0.0},
    "no age": with_towers("id", "title", "words"),
    "no words": with_towers("id", "age", "title"),
    "no MiniLM": with_towers("id", "age", "words"),
    "no ID": with_towers("age", "title", "words"),
    "no ID dropout": {"model.item.id_dropout": 0.0},
    "ID dropout .2": {"model.item.id_dropout": 0.2},
    "ID dropout .6": {"model.item.id_dropout": 0.6},
    "all words": with_words(options=words["options"] | {"token_dropout": 0.0}),
    "bigrams": with_words(options=words["options"] | {"bigrams": 1 << 15}),
    "words begin as BERT's": with_words(mode="full", weights="minilm", options=words["options"] | {"dim": 384}),
    "not whitened": {"data.whiten": False},
    "gate": {"model.item.fusion": "gate"},
    "concat": {"model.item.fusion": "concat"},
    "sampled softmax": {
      "model.loss": "sampled_softmax", "model.negatives": 2048, "optimizer.lr": 2e-3,
    },
    "no item dropout": {"model.item_dropout": 0.0},
    "dropout .4": {"model.user.dropout": 0.4},
    "no bias for new items": {"model.new_item_bias": 0.0},
    "a Markov chain's share .2": {"model.transitions": {"share": 0.2, "window": 5, "decay": 0.9}},
    "two members": {"model.members": 2},
    "no averaged weights": {"train.ema_decay": 0.0},
  }  # fmt: skip
  return Study(
    "Titles on MicroLens-50k, step by step", "changed", BARS,
    [StudyRun("one change", name, overrides) for name, overrides in changes.items()],
    metrics=("hr@10", "ndcg@10", "cold/hr@10"),
  )  # fmt: skip
