"""YouTube_ID, the mean of the history's items, MicroLens-100k.

  python -m mlrec.main --config=configs/id_youtube.py

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0461, NDCG@10 .0229, HR@20 .0747, NDCG@20 .0301. Its code and
settings were not released: width, rate and stopping are those of the released DSSM. It was not run here. The data set
is prepared by `python -m tfds_microlens 100k-sequences`.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict({"name": "youtube", "dim": 512, "item": {"name": "id"}, "hidden": (), "dropout": 0.0})
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  # Interactions in a batch.
  config.train.batch_size = 1024
  config.train.epochs = 120
  config.train.patience = 10
  config.train.monitor = "ndcg@10"
  return config
