"""LightGCN on item IDs for MicroLens-50k.

  python -m mlrec.main --config=configs/50k/lightgcn.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

One layer, as the benchmark trains it. One run of seed 42 and of this learning rate alone, 14 s an epoch on two busy
cores: validation HR@10 .0478, NDCG@10 .0233 (epoch 10; .0451 after 4, .0475 after 6), test HR@10 .0237, NDCG@10 .0110.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import integers
from mlrec.search_space import log_uniform
from mlrec.search_space import Space


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "lightgcn", "dim": 64, "layers": 1})
  config.optimizer.lr = 5e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 4096
  config.train.epochs = 40
  config.train.patience = 3
  config.eval.every_epochs = 2
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(1e-3, 2e-2),
    "model.layers": integers(1, 3),
  }
