"""SASRec on item IDs, tuned on the validation split of MicroLens-50k.

  python -m mlrec.main --config=configs/50k/sasrec.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

What tuning found (validation HR@10, one seed): from the benchmark's two blocks at width 128 with dropout .4 (.0907), an
exponential moving average of the parameters (.0938) and a third block (.0959). One block (.0893), four heads (.0934),
a popularity exponent of .75 (.0926) did worse. README has the test scores.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


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
