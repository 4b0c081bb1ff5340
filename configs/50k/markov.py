"""A Markov chain over the history on MicroLens-50k, with settings found on the validation split.

  python -m mlrec.main --config=configs/50k/markov.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Validation HR@10 by window, at its best decay of .5, .6, .7, .8 and .9 (.6 or .7): 1 .0625, 2 .0702, 3 .0735, 4 .0755,
6 .0765, 10 .0772. A search found .67. Test HR@10 .0558, NDCG@10 .0324.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.search_space import integers
from mlrec.search_space import Space
from mlrec.search_space import uniform


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/50k-sequences"
  config.model = ConfigDict({"name": "markov", "window": 10, "decay": 0.67, "popularity": 1e-6})
  return config


def get_search_space() -> Space:
  return {
    "model.window": integers(2, 10),
    "model.decay": uniform(0.4, 0.95),
  }
