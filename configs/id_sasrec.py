"""SASRec on item IDs."""

from ml_collections import ConfigDict

from mlrec.config import default_config


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/100k-sequences"
  config.model.dim = 1024
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1})
  return config
