"""NextItNet on item IDs, with settings found on the validation split of MicroLens-50k.

python -m mlrec.main --config=configs/50k/nextitnet.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Validation HR@10 by setting (one seed each): width 128 without dropout .0817 (weight decay 1; .0791 at .1, .0758 at
2), width 256 .0836, and with dropout .4 of the input .0883. README has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model.dim = 256
  config.model.user = ConfigDict({"name": "nextitnet", "blocks": 1, "dropout": 0.4})
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 1.0
  config.train.batch_size = 256
  config.train.epochs = 40
  config.train.patience = 3
  config.train.ema_decay = 0.998
  return config
