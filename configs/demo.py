"""SASRec on the embedded synthetic data: the whole road in about half a minute on two CPU cores.

python -m mlrec.main --config=configs/demo.py
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.model.dim = 64
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 30
  return config
