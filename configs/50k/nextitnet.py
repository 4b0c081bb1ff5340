"""NextItNet on item IDs, with settings found on the validation split of MicroLens-50k.

python -m mlrec.main --config=configs/50k/nextitnet.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Validation HR@10 by setting (one seed each): width 128 without dropout .0817 (weight decay 1; .0791 at .1, .0758 at
2), width 256 .0836, and with dropout .4 of the input .0883. README has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import log_uniform
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model.dim = 256
  config.model.user = ConfigDict({"name": "nextitnet", "blocks": 1, "dropout": 0.4})
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 1.0
  config.train.batch_size = 256
  config.train.epochs = 40
  config.train.patience = 3
  config.train.ema_decay = 0.998
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(5e-4, 5e-3),
    "model.user.dropout": uniform(0.1, 0.6),
    "optimizer.weight_decay": log_uniform(0.05, 2.0),
  }
