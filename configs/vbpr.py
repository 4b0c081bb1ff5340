"""VBPR (He and McAuley, AAAI 2016) with frozen video vectors, MicroLens-100k.

  python -m mlrec.main --config=configs/vbpr.py --config.data.features=FILE

No row of the benchmark's table: what its code calls VBPR is DSSM_ID+V (`configs/dssm_v.py`). Widths, batch and one
negative are what the MMRec toolkit takes by default. It was not run here. FILE is
MicroLens-100k_video_features_VideoMAE.npy or another of the release, or a folder that `python -m mlrec.features` has
made.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict({"name": "vbpr", "dim": 64, "visual_dim": 64, "negatives": 1})
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 0.01
  config.optimizer.clip_norm = 0.0
  # Interactions in a batch.
  config.train.batch_size = 2048
  config.train.epochs = 200
  config.train.patience = 20
  config.eval.item_batch = 4096
  return config
