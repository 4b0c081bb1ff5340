"""LightGCN on item IDs, MicroLens-100k, with the settings of the benchmark's released script.

  python -m mlrec.main --config=configs/id_lightgcn.py

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0372, NDCG@10 .0177, HR@20 .0618, NDCG@20 .0239. Not run by
us at this size: each step passes over the whole graph, at a batch of 128 interactions. configs/50k/lightgcn.py is a
quick one.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict({"name": "lightgcn", "dim": 512, "layers": 1})
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 128
  config.train.epochs = 100
  config.train.patience = 10
  config.train.monitor = "ndcg@10"
  return config
