"""NextItNet trained through a video encoder on MicroLens-100k: `video_sasrec.py` under another head.

  python -m mlrec.main --config=configs/video_nextitnet.py:slowfast_r50,top --config.model.item.weights=FILE

Published on 100k (arXiv 2309.15379, Table 2): test HR@10 .0862, NDCG@10 .0466, HR@20 .1246, NDCG@20 .0562.
"""

import pathlib
import runpy

from ml_collections import ConfigDict


def get_config(argument: str = "slowfast_r50,top") -> ConfigDict:
  config = runpy.run_path(str(pathlib.Path(__file__).with_name("video_sasrec.py")))["get_config"](argument)
  config.model.user = ConfigDict({"name": "nextitnet", "blocks": 2})
  return config
