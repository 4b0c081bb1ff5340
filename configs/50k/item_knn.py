"""Item neighbours by the cosine on MicroLens-50k, with settings found on the validation split.

  python -m mlrec.main --config=configs/50k/item_knn.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Validation HR@10 by shrink, at a decay of .7: 0 .0602, 3 .0640, 10 .0681, 30 .0705, 100 .0698, 300 .0689, 1000 .0682.
Of each item's neighbours only the nearest 50: .0676. A search over both found a shrink of 74 and a decay of .67, .0707.
Test HR@10 .0510, NDCG@10 .0273.
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
    "name": "item_knn", "similarity": "cosine", "shrink": 74.0, "neighbours": 0, "decay": 0.67, "window": 0,
    "popularity": 1e-6,
  })  # fmt: skip
  return config


def get_search_space() -> Space:
  return {
    "model.shrink": log_uniform(1.0, 200.0),
    "model.decay": uniform(0.4, 0.95),
  }
