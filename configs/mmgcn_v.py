"""MMGCN on IDs and frozen video vectors, MicroLens-100k, with MMRec's defaults.

  python -m mlrec.main --config=configs/mmgcn_v.py --config.data.features=PATH/vectors.npy

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0214, NDCG@10 .0103, HR@20 .0374, NDCG@20 .0143; by
which of MMRec's learning rates (1e-4 to 1e-2) and regularisations (0 to .1) is not known. Not run by us at this size.
`features` is a folder that mlrec.features has made, of any frozen encoder, or a file of MicroLens's release.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model = ConfigDict(
    {"name": "mmgcn", "dim": 64, "latent": 256, "layers": 3, "reg": 1e-3, "with_features": True}
  )
  config.optimizer.lr = 1e-3
  config.optimizer.weight_decay = 0.0
  config.optimizer.clip_norm = 0.0
  config.train.batch_size = 2048
  config.train.epochs = 1000
  config.train.patience = 20
  config.train.monitor = "hr@20"
  return config
