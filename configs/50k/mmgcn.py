"""MMGCN on item IDs for MicroLens-50k.

  python -m mlrec.main --config=configs/50k/mmgcn.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

MMRec's sizes but for the preferences (64, not 256), at a batch for two CPU cores, not searched: one run of seven
minutes is more than the budget of the others. Validation HR@10 .0217 to .0258 (three seeds) after 6 to 8 epochs. README
has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import integers
from mlrec.search_space import log_uniform
from mlrec.search_space import Space


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "mmgcn", "dim": 64, "latent": 64, "layers": 3, "reg": 1e-3})
  config.optimizer.lr = 3e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 4096
  config.train.epochs = 16
  config.train.patience = 2
  config.eval.every_epochs = 2
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(1e-3, 1e-2),
    "model.layers": integers(2, 3),
  }
