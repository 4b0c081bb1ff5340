"""HSTU on item IDs, MicroLens-100k: HSTU's layers in the place of SASRec's, all else as in `configs/id_sasrec.py`.

  python -m mlrec.main --config=configs/hstu.py

No row of the benchmark. Not run here.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model.dim = 1024
  config.model.user = ConfigDict({"name": "hstu", "heads": 2, "blocks": 2, "dropout": 0.1})
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 512
  config.train.epochs = 50
  return config
