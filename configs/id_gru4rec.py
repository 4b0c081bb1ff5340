"""GRU4Rec on item IDs, MicroLens-100k.

  python -m mlrec.main --config=configs/id_gru4rec.py

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0782, NDCG@10 .0423, HR@20 .1147, NDCG@20 .0515.
No script of this row was released: the width and batch are those of the released SASRec ID script, two layers are the
released code's default, and the rest is common to all released runs.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model.dim = 1024
  config.model.user = ConfigDict({"name": "gru4rec", "blocks": 2, "dropout": 0.1})
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 512
  config.train.epochs = 50
  return config
