"""GRCN on item IDs, MicroLens-100k, with MMRec's defaults.

  python -m mlrec.main --config=configs/id_grcn.py

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0282, NDCG@10 .0131, HR@20 .0497, NDCG@20 .0185; by
which of MMRec's learning rates (1e-4 to 1) and regularisations (0 to .1) is not known. Not run by us at this size.
GRCN_ID has no definition in MMRec: this is ours, in which items' features are one-hot.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict({"name": "grcn", "dim": 64, "latent": 64, "routing": 3, "reg": 1e-3})
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 2048
  config.train.epochs = 1000
  config.train.patience = 20
  config.train.monitor = "hr@20"
  return config
