"""SASRec on item IDs, tuned on the validation split of MicroLens-50k.

  python -m mlrec.main --config=configs/50k/sasrec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

What tuning found (validation HR@10, one seed): from the benchmark's two blocks at width 128 with dropout .4 (.0907), an
exponential moving average of the parameters (.0938) and a third block (.0959). One block (.0893), four heads (.0934),
a popularity exponent of .75 (.0926) did worse. README has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import choice
from mlrec.search_space import log_uniform
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model.dim = 128
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 3, "dropout": 0.4})
  config.optimizer.lr = 1e-3
  config.train.batch_size = 256
  config.train.epochs = 40
  config.train.patience = 3
  config.train.ema_decay = 0.998
  return config


def get_search_space() -> Space:
  return {
    "optimizer.lr": log_uniform(5e-4, 3e-3),
    "model.user.dropout": uniform(0.3, 0.6),
    "model.user.blocks": choice(2, 3),
    "train.ema_decay": choice(0.99, 0.998),
  }
