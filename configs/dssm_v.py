"""DSSM_ID+V, IDs and frozen video vectors, MicroLens-100k, with the settings of the benchmark's released script.

  python -m mlrec.main --config=configs/dssm_v.py --config.data.features=FILE

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0279, NDCG@10 .0137, HR@20 .0461, NDCG@20 .0183. It was not
run here. FILE is MicroLens-100k_video_features_VideoMAE.npy or another of the release, or a folder that
`python -m mlrec.features` has made. `--config.model.reference=True` adds the released code's untrained term to scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict({"name": "dssm", "dim": 256, "visual_dim": 256, "reference": False})
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
