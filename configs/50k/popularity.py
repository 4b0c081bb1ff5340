"""Popularity on MicroLens-50k: what every recommender has to beat.

  python -m mlrec.main --config=configs/50k/popularity.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Test HR@10 .0028, NDCG@10 .0015, HR@20 .0051, NDCG@20 .0020; nothing is drawn or tuned.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "popularity"})
  return config
