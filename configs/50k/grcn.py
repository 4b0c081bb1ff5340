"""GRCN on item IDs for MicroLens-50k.

  python -m mlrec.main --config=configs/50k/grcn.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

MMRec's sizes, at a batch for two CPU cores, not searched: one run of seven minutes is more than the budget of the
others. Validation HR@10 .0408 to .0412 (three seeds) after 10 to 12 epochs. README has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import log_uniform
from mlrec.search_space import Space


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "grcn", "dim": 64, "latent": 64, "routing": 3, "reg": 1e-3})
  config.optimizer.lr = 1e-2
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 4096
  config.train.epochs = 12
  config.train.patience = 2
  config.eval.every_epochs = 2
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(3e-3, 3e-2),
    "model.reg": log_uniform(1e-4, 1e-1),
  }
