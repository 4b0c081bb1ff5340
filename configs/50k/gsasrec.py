"""gSASRec on item IDs, for MicroLens-50k.

python -m mlrec.main --config=configs/50k/gsasrec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

It does not learn here: after 40 epochs validation HR@10 is still that of popularity (.0060), with 16 to 4,096
negatives, a calibration of 0 to .9, and starts of .01 to 1, where the softmax over the same draws
(`configs/50k/sasrec_sampled.py`) reaches .0967.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import choice
from mlrec.search_space import log_uniform
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict(
    {
      "name": "sequential",
      "dim": 64,
      "item": {"name": "id", "std": 0.1},
      "user": {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2},
      "loss": "gbce",
      "negatives": 256,
      "calibration": 0.5,
    }
  )
  config.optimizer.lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 100
  config.train.patience = 10
  config.train.ema_decay = 0.998
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(5e-4, 5e-3),
    "model.user.dropout": uniform(0.2, 0.5),
    "model.calibration": uniform(0.0, 0.9),
    "model.negatives": choice(64, 256),
  }
