r"""Layers above frozen vectors of the items, in place of training their encoder.

  python -m mlrec.study --config=configs/studies/dnn_layers.py --workdir=studies/dnn_layers
  python -m mlrec.study --config=configs/studies/dnn_layers.py --workdir=studies/dnn_layers_50k \
    --config.data.source=PATH/MicroLens-50k_pairs.tsv --config.data.features=VECTORS

The head is the released one (arXiv 2309.15379): a projection and GELU, then as many layers as the axis says, each of
dropout, a square matrix and GELU. By default vectors are made of the demo's clips by a small encoder at its random
start; VECTORS are a .npy or .json file of MicroLens's release, or a folder that `python -m mlrec.features` prints.
How many layers the paper tried is not in what was released.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.runs.study import LINES
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_LAYERS = range(6)


def get_config() -> ConfigDict:
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.data.videos = "microlens/demo-videos-5x64"
  config.data.whiten = True
  config.model.dim = 64
  config.model.item = ConfigDict({"name": "features", "dnn_layers": 0, "dropout": 0.1})
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 1e-3
  config.train.batch_size = 128
  config.train.epochs = 40
  config.train.patience = 10
  return config


def get_study() -> Study:
  return Study(
    "Layers above frozen vectors", "layers", LINES,
    [StudyRun("frozen vectors", layers, {"model.item.dnn_layers": layers}) for layers in _LAYERS],
    metrics=("hr@10", "cold/hr@10"),
    vectors={
      "name": "video", "encoder": "vit_s", "mode": "frozen", "weights": "random", "frames": 4, "size": 32,
      "options": {"dim": 96, "depth": 2, "size": 32, "num_frames": 4},
    },
  )  # fmt: skip
