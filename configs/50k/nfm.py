"""NFM on item IDs, for MicroLens-50k.

python -m mlrec.main --config=configs/50k/nfm.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

A sweep that begins no trial after five minutes on one core (seed 42) ran these settings alone: validation HR@10 .0340
after 2 epochs; it then falls (.0294 after 6). An epoch takes 50 s of a core, an evaluation 105. README has the test
scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import log_uniform
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "nfm", "dim": 64, "hidden": 64, "dropout": 0.0})
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 0.0
  config.train.batch_size = 64
  config.train.epochs = 6
  config.train.patience = 2
  config.eval.every_epochs = 2
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(5e-4, 5e-3),
    "model.dropout": uniform(0.0, 0.5),
  }
