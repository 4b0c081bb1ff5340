"""GRCN on item IDs for MicroLens-50k.

  python -m mlrec.main --config=configs/50k/grcn.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

MMRec's sizes, at a batch for two CPU cores. Its scores have not been measured.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "grcn", "dim": 64, "latent": 64, "routing": 3, "reg": 1e-3})
  config.optimizer.lr = 1e-2
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 4096
  config.train.epochs = 60
  config.train.patience = 3
  config.eval.every_epochs = 2
  return config
