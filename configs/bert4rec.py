"""BERT4Rec on item IDs, MicroLens-100k, with the benchmark's width and optimiser and two layers of two heads.

  python -m mlrec.main --config=configs/bert4rec.py

No row of the benchmark. Two layers and heads are those of the paper (Sun et al., CIKM 2019, section 4.3). Not run here.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict(
    {
      "name": "bert4rec",
      "dim": 1024,
      "item": {"name": "id"},
      "heads": 2,
      "blocks": 2,
      "dropout": 0.1,
      "mask_probability": 0.4,
      "last_probability": 0.2,
    }
  )
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 512
  config.train.epochs = 50
  return config
