"""gSASRec on item IDs, MicroLens-100k: SASRec under gBCE, all else as in `configs/id_sasrec.py`.

  python -m mlrec.main --config=configs/gsasrec.py

No row of the benchmark. 256 negatives and a calibration of .75 are those of the paper (Petrov and Macdonald, RecSys
2023), which draws them for each place; here a batch shares its negatives, and scores start at the prior, without which
it did not learn on MicroLens-50k (`configs/50k/gsasrec.py`). Not run here.
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
      "loss": "gbce",
      "negatives": 256,
      "calibration": 0.75,
      "from_prior": True,
    }
  )
  config.optimizer.lr = 1e-4
  config.optimizer.weight_decay = 0.1
  config.train.batch_size = 512
  config.train.epochs = 50
  return config
