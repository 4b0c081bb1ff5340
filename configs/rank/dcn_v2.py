"""DCN-V2 on item IDs and the embedded synthetic data.

  python -m mlrec.main --config=configs/rank/dcn_v2.py
  python -m mlrec.rerank --retriever=configs/rank/retriever.py --ranker=configs/rank/dcn_v2.py --mix

The settings are those of `configs/rank/din.py`; its scores were not measured.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.model = ConfigDict({
    "name": "dcn_v2", "dim": 32, "item": {"name": "id"}, "cross_layers": 2, "rank": 16, "hidden": (64, 32),
    "structure": "parallel", "dropout": 0.1,
  })  # fmt: skip
  config.impressions.popularity_power = 1.0
  config.optimizer.lr = 5e-3
  config.train.batch_size = 256
  config.train.epochs = 30
  config.train.patience = 8
  config.train.monitor = "gauc"
  return config
