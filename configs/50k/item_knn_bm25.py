"""Item neighbours by BM25 on MicroLens-50k, with settings found on the validation split.

  python -m mlrec.main --config=configs/50k/item_knn_bm25.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Validation HR@10 by b, at a decay of .7: 0 .0666, .25 .0713, .5 .0706, .75 .0666. With a k1 of 3
it stays .0713. Test HR@10 .0528, NDCG@10 .0282, HR@20 .0751, NDCG@20 .0339.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import log_uniform
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({
    "name": "item_knn", "similarity": "bm25", "k1": 1.2, "b": 0.25, "neighbours": 0, "decay": 0.7, "window": 0,
    "popularity": 1e-6,
  })  # fmt: skip
  return config


def get_search_space() -> Space:
  return {
    "model.k1": log_uniform(0.3, 5.0),
    "model.b": uniform(0.0, 1.0),
    "model.decay": uniform(0.4, 0.95),
  }
