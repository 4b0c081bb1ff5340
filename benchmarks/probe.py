"""What encoders still tell of labels: a linear probe of their output, on the labelled clips of a pre-training recipe.

  python benchmarks/probe.py --config configs/pretrain_demo.py random runs/pretrain_demo/encoder.safetensors \
    studies/modes/full_pre-trained/seed_0

Of each `random`, file of weights or workdir of one seed, the share of held-out clips of which each label is told right
by ridge regression on one-hot classes, from the encoder's output, standardised: how much of what labels say lies in it
along straight lines. Clips, held-out share and encoder are those of the recipe.
"""

import argparse
import json
import pathlib

from flax import nnx
from ml_collections import ConfigDict
import numpy as np

from mlrec import config as config_lib
from mlrec.data import kept_split
from mlrec.data.cold_start import cold_items
from mlrec.data.id_map import IdMap
from mlrec.models import convert
from mlrec.models.items.encoded import EncodedTower
from mlrec.models.items.recipe import RANDOM
from mlrec.runs import pretraining
from mlrec.runs.workdir import Workdir
from mlrec.train.loop import TrainingRun
from mlrec.train.pretraining import Pretraining

_BATCH = 250
_RIDGE = 1.0  # on standardised features, of a few thousand clips


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("encoders", nargs="+")
  parser.add_argument("--config", required=True)
  arguments = parser.parse_args()
  config = config_lib.validate(config_lib.from_file(arguments.config, "get_config", "it is the recipe"))
  labelled = pretraining.load(arguments.config, "")
  recipe = Pretraining(config, labelled.labels, Workdir(pathlib.Path("none")).files, source=labelled.source)
  recipe.plan()
  clips = labelled.source.read(labelled.labels.items, **recipe.recipe.reading())
  held_out = cold_items(len(clips), share=config.data.cold_share, seed=config.data.cold_seed) - 1
  for name in arguments.encoders:
    features = encoded(encoder_of(name, recipe.recipe), recipe.recipe, clips)
    print(json.dumps({"encoder": name} | probed(features, labelled.labels, held_out)), flush=True)


def encoder_of(name: str, recipe):
  """The encoder at random, of a file, or of a run."""
  encoder = recipe.build(rngs=nnx.Rngs(0))
  if name == RANDOM:
    return encoder
  path = pathlib.Path(name)
  if path.is_file():
    convert.load_torch(encoder, path)
    return encoder
  workdir = Workdir(path)
  run = TrainingRun(
    config_lib.validate(ConfigDict(workdir.saved_config())),
    kept_split.read(workdir.files.data, IdMap.read(workdir.files.ids)), workdir.files,
  )  # fmt: skip
  run.plan(training=False)
  best = run.best()
  model = nnx.merge(run.spec.graphdef, best.params, best.rest)
  return next(one.encoder for _, one in nnx.iter_modules(model) if isinstance(one, EncodedTower))


def encoded(encoder, recipe, clips: np.ndarray) -> np.ndarray:
  """`[clips, features]` float64."""

  @nnx.jit
  def encode(encoder, batch):
    return encoder(recipe.inputs(batch, np.zeros(len(batch), bool), encoder.spec))

  parts = [encode(encoder, clips[start : start + _BATCH]) for start in range(0, len(clips), _BATCH)]
  return np.concatenate([np.asarray(part, np.float64) for part in parts])


def probed(features: np.ndarray, labels, held_out: np.ndarray) -> dict[str, float]:
  """Accuracy of each label on the items at places `held_out`, of a probe that is fitted on the others."""
  trained = np.setdiff1d(np.arange(len(features)), held_out)
  scale = features[trained].std(0)
  x = (features - features[trained].mean(0)) / np.where(scale > 0, scale, 1)
  x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
  solve = np.linalg.solve(x[trained].T @ x[trained] + _RIDGE * np.eye(x.shape[1]), x[trained].T)
  found = {}
  for place, (name, classes) in enumerate(labels.classes.items()):
    codes = labels.codes[:, place]
    told = (x[held_out] @ (solve @ np.eye(len(classes))[codes[trained]])).argmax(1)
    found[name] = round(float((told == codes[held_out]).mean()), 4)
  return found | {"mean": round(float(np.mean(list(found.values()))), 4)}


if __name__ == "__main__":
  main()
