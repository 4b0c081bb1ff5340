"""SASRec on item IDs and the embedded synthetic data: what finds candidates for the rankers beside it.

python -m mlrec.rerank --retriever=configs/rank/retriever.py --ranker=configs/rank/din.py
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.model.dim = 64
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 2e-3
  config.train.batch_size = 256
  config.train.epochs = 25
  config.train.patience = 0
  return config
