r"""Published weights of an encoder against a random start, all else the same (arXiv 2309.15379, on pre-training).

  python -m mlrec.study --config=configs/studies/pretraining.py --workdir=studies/pretraining
  python -m mlrec.study --config=configs/studies/pretraining.py:r3d_r18 --workdir=studies/pretraining_video

By default the encoder is MiniLM over the demo's titles, whose weights come as a package (the extras `text` and
`minilm`). Any other argument names one video encoder or more, with commas between them; their weights are the files
under weights/ that `python -m mlrec.convert` makes. A run whose file is missing is listed, and the random starts go
on. All of the encoder is trained. The video nets, of full size, are fed two frames of 32 by 32 pixels of the demo, so
that a laptop can train them; with `100k`, as in `pretraining.py:100k,slowfast_r50,mvit_b_16x4`, they are trained on
MicroLens-100k with the settings of `configs/video_sasrec.py`, beside the published figures of the published weights.

  python -m mlrec.study --config=configs/studies/pretraining.py:words --workdir=studies/pretraining_words \
    --config.data.source=PATH/MicroLens-50k_pairs.tsv --config.data.content=PATH/MicroLens-50k_titles.csv

is of real titles, as far as a CPU goes: a bag of tokens that begins with MiniLM's word embeddings, or at random,
trained end to end on MicroLens-50k without IDs, with the settings of `configs/50k/sasrec_title.py`.
"""

from ml_collections import ConfigDict

from mlrec.config import default_config
from mlrec.models.registry import models
from mlrec.models.registry import VIDEO_ENCODER
from mlrec.registry import closest
from mlrec.runs import published
from mlrec.runs.study import BARS
from mlrec.runs.study import PublishedPoint
from mlrec.runs.study import shipped
from mlrec.runs.study import Study
from mlrec.runs.study import StudyRun

_100K, _TITLES, _WORDS = "100k", "titles", "words"
_MINILM, _BAG = "minilm_l6", "bag_of_tokens"
_SERIES = {"full": "published weights", "scratch": "random start"}


def _parsed(argument: str) -> tuple[bool, list[str]]:
  """Whether it is of MicroLens-100k, and the encoders."""
  if argument in (_TITLES, _WORDS):
    return False, [_MINILM if argument == _TITLES else _BAG]
  names = argument.split(",")
  on_100k = names[0] == _100K
  encoders = names[1:] if on_100k else names
  known = models.names(VIDEO_ENCODER)
  for name in encoders or [""]:
    if name not in known:
      raise ValueError(f"no video encoder {name!r}: {closest(name, [_TITLES, _WORDS, _100K, *known])}")
  return on_100k, encoders


def get_config(argument: str = _TITLES) -> ConfigDict:
  on_100k, encoders = _parsed(argument)
  if on_100k:
    return _video_sasrec(encoders[0], "full")
  if argument == _WORDS:
    config = shipped(__file__, "50k/sasrec_title.py")
    words = config.model.item.towers.words.to_dict()
    config.model.item = ConfigDict(words | {"mode": "scratch", "weights": "", "options": {"dim": 384}})
    return config
  config = default_config()
  config.data.source = "microlens/demo-sequences"
  config.data.videos = "microlens/demo-videos-5x64"
  config.model.dim = 64
  if argument == _TITLES:
    config.data.content = "microlens/demo-items"
    item = {"name": "text", "encoder": _MINILM, "tokenizer": "minilm"}
  else:
    item = {"name": "video", "encoder": encoders[0], "frames": 2, "size": 32}
  config.model.item = ConfigDict(item | {"mode": "scratch", "weights": "", "dtype": "float32", "accumulate": 1})
  config.model.user = ConfigDict({"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.2})
  config.optimizer.lr = 1e-3
  config.optimizer.encoder_lr = 1e-4
  config.train.batch_size = 128
  config.train.epochs = 10
  config.train.patience = 0
  config.train.steps_per_dispatch = 1
  return config


def get_study(argument: str = _TITLES) -> Study:
  on_100k, encoders = _parsed(argument)
  runs = [
    StudyRun(series, encoder, _settings(encoder, mode, on_100k))
    for encoder in encoders
    for mode, series in _SERIES.items()
  ]
  figures = published.encoders_100k() if on_100k else {}
  paper = [
    PublishedPoint(_SERIES["full"], encoder, figures[encoder, "full"])
    for encoder in encoders
    if (encoder, "full") in figures
  ]
  data = "MicroLens-100K" if on_100k else "MicroLens-50K" if argument == _WORDS else "the demo"
  return Study(
    f"Pre-training, on {data}", "encoder", BARS, runs, published=paper,
    published_source="SASRec_V on MicroLens-100K, arXiv 2309.15379, Fig. 4 (FT)" if paper else "",
  )  # fmt: skip


def _settings(encoder: str, mode: str, on_100k: bool) -> dict:
  if on_100k:
    config = _video_sasrec(encoder, mode)
    return {
      "model.item": config.model.item.to_dict(), "data.videos": config.data.videos,
      "train.batch_size": config.train.batch_size,
    }  # fmt: skip
  published_weights = "minilm" if encoder in (_MINILM, _BAG) else f"weights/{encoder}.safetensors"
  weights = "" if mode == "scratch" else published_weights
  return {"model.item.encoder": encoder, "model.item.mode": mode, "model.item.weights": weights}


def _video_sasrec(encoder: str, mode: str) -> ConfigDict:
  return shipped(__file__, f"video_sasrec.py:{encoder},{mode}")
