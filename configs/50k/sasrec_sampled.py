"""SASRec on item IDs against items drawn at random, for MicroLens-50k.

python -m mlrec.main --config=configs/50k/sasrec_sampled.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

The sizes are those of `configs/50k/sasrec.py` with two blocks; as many items are drawn for a batch as one of its
batches holds. Validation HR@10 .0967 (seed 42, one trial).
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
      "dim": 128,
      "item": {"name": "id"},
      "user": {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.4},
      "loss": "sampled_softmax",
      "negatives": 2048,
    }
  )
  config.optimizer.lr = 2e-3
  config.train.batch_size = 256
  config.train.epochs = 40
  config.train.patience = 3
  config.train.ema_decay = 0.998
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(5e-4, 5e-3),
    "model.user.dropout": uniform(0.2, 0.5),
    "model.negatives": choice(2048, 4096),
  }
