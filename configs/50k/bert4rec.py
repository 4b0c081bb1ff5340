"""BERT4Rec on item IDs, for MicroLens-50k.

python -m mlrec.main --config=configs/50k/bert4rec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

It learns slowly, as is known of it: at a width of 128, a rate of 2e-3 and `last_probability` .2 validation HR@10 was
.0201 after 9 epochs. These settings were not searched: they are best after some 26 epochs, at .0773 to .0802 (three
seeds), and fall slowly then. README has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import log_uniform
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict(
    {
      "name": "bert4rec",
      "dim": 64,
      "item": {"name": "id"},
      "heads": 2,
      "blocks": 2,
      "dropout": 0.2,
      "mask_probability": 0.4,
      "last_probability": 0.5,
    }
  )
  config.optimizer.lr = 2e-3
  config.train.batch_size = 256
  config.train.epochs = 60
  config.train.patience = 5
  config.train.ema_decay = 0.998
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(5e-4, 5e-3),
    "model.dropout": uniform(0.1, 0.4),
    "model.mask_probability": uniform(0.2, 0.6),
  }
