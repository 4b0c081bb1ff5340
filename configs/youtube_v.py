"""YouTube_ID+V, the mean of the history's items by IDs and frozen video vectors, MicroLens-100k.

  python -m mlrec.main --config=configs/youtube_v.py --config.data.features=FILE

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0392, NDCG@10 .0188, HR@20 .0648, NDCG@20 .0252. Its code
and settings were not released: they are those of the released DSSM_ID+V, whose item vectors it has. It was not run
here. FILE is MicroLens-100k_video_features_VideoMAE.npy or another of the release, or a folder that
`python -m mlrec.features` has made.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  item = {"name": "id_features", "fusion": "concat", "id_dropout": 0.0}
  config.model = ConfigDict({"name": "youtube", "dim": 512, "item": item, "hidden": (), "dropout": 0.0})
  config.optimizer.lr = 1e-3
  config.optimizer.encoder_lr = 1e-4
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  # Interactions in a batch.
  config.train.batch_size = 1024
  config.train.epochs = 120
  config.train.patience = 10
  config.train.monitor = "ndcg@10"
  config.eval.item_batch = 4096
  return config
