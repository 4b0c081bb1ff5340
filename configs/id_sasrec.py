"""SASRec on item IDs, MicroLens-100k, with the settings of the benchmark's released ID script.

  python -m mlrec.main --config=configs/id_sasrec.py
  python -m mlrec.main --config=configs/id_sasrec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0909, NDCG@10 .0517, HR@20 .1278, NDCG@20 .0610.
The data set is prepared by `python -m tfds_microlens 100k-sequences`.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model.dim = 1024
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1})
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 512
  config.train.epochs = 50
  return config
