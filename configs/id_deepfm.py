"""DeepFM on item IDs, MicroLens-100k, with the settings of the benchmark's released script.

  python -m mlrec.main --config=configs/id_deepfm.py

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0350, NDCG@10 .0170, HR@20 .0571, NDCG@20 .0225, by code that
scores otherwise than it trains (`--config.model.reference=True`; here it does not). Not run here.
The data set is prepared by `python -m tfds_microlens 100k-sequences`.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict({"name": "deepfm", "dim": 1024, "hidden": 0, "dropout": 0.0, "reference": False})
  config.seed = 2020
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  # Interactions, each scored with the items of all.
  config.train.batch_size = 64
  config.train.epochs = 120
  config.train.patience = 5
  config.train.monitor = "ndcg@10"
  return config
