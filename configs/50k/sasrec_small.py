"""A small SASRec on item IDs for MicroLens-50k: two to three minutes on two CPU cores.

  python -m mlrec.main --config=configs/50k/sasrec_small.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

README has its time and memory. One seed: test HR@10 .0720, NDCG@10 .0401.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model.dim = 64
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 40
  config.train.patience = 2
  config.train.ema_decay = 0.998
  return config
