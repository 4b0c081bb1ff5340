"""SASRec under a sampled softmax on item IDs, MicroLens-100k, all else as in `configs/id_sasrec.py`.

  python -m mlrec.main --config=configs/sasrec_sampled.py

No row of the benchmark. A batch draws 4096 items uniformly, which all its places share. Not run here.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict(
    {
      "name": "sequential",
      "dim": 1024,
      "item": {"name": "id"},
      "user": {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1},
      "loss": "sampled_softmax",
      "negatives": 4096,
    }
  )
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 512
  config.train.epochs = 50
  return config
