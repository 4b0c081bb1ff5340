"""EASE on MicroLens-50k.

  python -m mlrec.main --config=configs/50k/ease.py --config.data.source=PATH/MicroLens-50k_pairs.tsv

Validation HR@10 by decay, at a regularization of 200: 1 .0637, .9 .0675, .8 .0692, .7 .0702. A sweep that begins no
trial after five minutes on one core (seed 42) found .0704, the best of five trials. README has the test scores. The
inverse takes 1.4 GiB and a minute on two CPU cores.
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
    "name": "ease", "regularization": 116.8, "decay": 0.596, "max_items": 32_768, "popularity": 1e-6,
  })  # fmt: skip
  return config


def get_search_space() -> Space:
  return {
    "model.regularization": log_uniform(20.0, 1000.0),
    "model.decay": uniform(0.4, 0.95),
  }
