"""DeepFM on item IDs, for MicroLens-50k.

python -m mlrec.main --config=configs/50k/deepfm.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Not run: width, learning rate and dropout are untuned.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "deepfm", "dim": 64, "hidden": 64, "dropout": 0.0})
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 0.0
  config.train.batch_size = 64
  config.train.epochs = 40
  config.train.patience = 3
  return config
