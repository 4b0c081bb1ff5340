"""MMGCN on item IDs for MicroLens-50k.

  python -m mlrec.main --config=configs/50k/mmgcn.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

MMRec's sizes but for the preferences' (64 in place of 256), at a batch for two CPU cores. Its scores have not been
measured.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "mmgcn", "dim": 64, "latent": 64, "layers": 3, "reg": 1e-3})
  config.optimizer.lr = 3e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 4096
  config.train.epochs = 60
  config.train.patience = 3
  config.eval.every_epochs = 2
  return config
