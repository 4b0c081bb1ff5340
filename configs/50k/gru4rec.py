"""GRU4Rec on item IDs, with settings found on the validation split of MicroLens-50k.

python -m mlrec.main --config=configs/50k/gru4rec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Validation HR@10 by setting (one seed each): one layer of width 128 with dropout .4 .0883, with .5 .0886, at either of
the learning rates 3e-3 and 5e-3 (1e-3 is far too slow); two layers .0852, width 256 .0844. README has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import log_uniform
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model.dim = 128
  config.model.user = ConfigDict({"name": "gru4rec", "blocks": 1, "dropout": 0.5})
  config.optimizer.lr = 5e-3
  config.train.batch_size = 256
  config.train.epochs = 40
  config.train.patience = 3
  config.train.ema_decay = 0.998
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(2e-3, 1e-2),
    "model.user.dropout": uniform(0.3, 0.6),
  }
