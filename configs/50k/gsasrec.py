"""gSASRec on item IDs, for MicroLens-50k.

python -m mlrec.main --config=configs/50k/gsasrec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Not run: the settings are those of `configs/50k/sasrec_small.py` with the paper's negatives and calibration.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict(
    {
      "name": "sequential",
      "dim": 64,
      "item": {"name": "id"},
      "user": {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2},
      "loss": "gbce",
      "negatives": 256,
      "calibration": 0.75,
    }
  )
  config.optimizer.lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 40
  config.train.patience = 3
  config.train.ema_decay = 0.998
  return config
