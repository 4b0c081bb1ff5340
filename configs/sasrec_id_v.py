"""SASRec_ID+V, SASRec over IDs and frozen video vectors, MicroLens-100k.

  python -m mlrec.main --config=configs/sasrec_id_v.py --config.data.features=FILE

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0799, NDCG@10 .0415, HR@20 .1217, NDCG@20 .0520. Its code and
settings were not released: they are those of SASRec on IDs (`configs/id_sasrec.py`), with the item vectors of
DSSM_ID+V. It was not run here. FILE is MicroLens-100k_video_features_VideoMAE.npy or another of the release, or a
folder that `python -m mlrec.features` has made. `--config.model.item.fusion=sum` adds the parts instead, and
`--config.model.item.id_dropout=0.3` leaves IDs out now and then, for items that training has hardly seen.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model.dim = 1024
  config.model.item = ConfigDict({"name": "id_features", "fusion": "concat", "id_dropout": 0.0})
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1})
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 512
  config.train.epochs = 50
  config.eval.item_batch = 4096
  return config
