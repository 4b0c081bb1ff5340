"""A ranker on the multimodal CTR challenge's files of MicroLens-1M (WWW 2025, EReL@MIR).

  python -m mlrec.main --config=configs/rank/mmctr.py:din --config.data.source=PATH/MicroLens_1M_x1

The argument is `din`, `dcn_v2` or `transformer_ctr`. An item is its ID, its tags and levels, and its vector of 128
numbers. The data could not be had where this was written: settings follow the challenge's baseline (DIN, histories of
64 items, batches of 8192; it states a validation AUC of .8655), and nothing was tuned or measured here.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config

_MODELS = {
  "din": {"name": "din", "attention_hidden": (64,), "hidden": (512, 128, 64), "dropout": 0.1},
  "dcn_v2": {"name": "dcn_v2", "cross_layers": 3, "rank": 0, "hidden": (512, 128, 64), "structure": "parallel",
             "dropout": 0.1},
  "transformer_ctr": {"name": "transformer_ctr", "heads": 2, "blocks": 1, "hidden": (512, 128, 64), "dropout": 0.1},
}  # fmt: skip


def get_config(model: str = "din") -> ConfigDict:
  if model not in _MODELS:
    raise ValueError(f"expected {', '.join(_MODELS)}, not {model!r}")
  config = default_config()
  config.data.source = "data/MicroLens_1M_x1"
  config.data.max_length = 64
  item = {
    "name": "fused",
    "towers": {
      "id": {"name": "id"},
      "fields": {"name": "fields", "embedding": 16},
      "vector": {"name": "features", "activation": "none"},
    },
    "fusion": "concat",
  }
  config.model = ConfigDict({**_MODELS[model], "dim": 64, "item": item})
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 0.0
  config.train.batch_size = 8192
  config.train.epochs = 10
  config.train.patience = 2
  config.train.monitor = "auc"
  return config
