"""NFM on item IDs, MicroLens-100k, with the settings of the benchmark's released script.

  python -m mlrec.main --config=configs/id_nfm.py

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0313, NDCG@10 .0159, HR@20 .0480, NDCG@20 .0201, by code
whose scores end in a ReLU (`--config.model.reference=True`; here they do not). Not run here.
The data set is prepared by `python -m tfds_microlens 100k-sequences`.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict({"name": "nfm", "dim": 1024, "hidden": 0, "dropout": 0.0, "reference": False})
  config.seed = 2020
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  # Interactions, each scored with the items of all.
  config.train.batch_size = 64
  config.train.epochs = 120
  config.train.patience = 5
  config.train.monitor = "ndcg@10"
  return config
