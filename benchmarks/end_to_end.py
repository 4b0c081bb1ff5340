"""Times whole training steps of SASRec through a full-size video encoder, all of it trained. Prints one JSON object.

  python benchmarks/end_to_end.py slowfast_r50 --pairs FILE_pairs.tsv --keep FOLDER
  OTHER_PYTHON benchmarks/torch_end_to_end.py slowfast_r50 --kept FOLDER
  python benchmarks/compare.py --name end_to_end_slowfast_r50 --figure users_per_s peak_rss_mib --runs 1 \
    --ours "python benchmarks/end_to_end.py …" --theirs "OTHER_PYTHON benchmarks/torch_end_to_end.py …"

Histories are a file's, clips are noise of five 224 x 224 frames, the same for the same item. `--keep` leaves the first
batch, the weights and the loss in a folder, from which PyTorch goes on. That loss is of evaluation, without dropout and
with running statistics of batch norms: those of a batch depend on how often an item is in it, and repeats and padding
are encoded there.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import tempfile
import time

from flax import nnx
import jax
import numpy as np
from video import MadeUp

from mlrec.config import default_config
from mlrec.config import validate
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.models.convert import to_torch
from mlrec.runs.workdir import Workdir
from mlrec.train.loop import TrainingRun

_FRAMES, _SIZE = 5, 224


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("encoder")
  parser.add_argument("--pairs", required=True)
  parser.add_argument("--keep", help="a folder for the batch and the weights")
  parser.add_argument("--users", type=int, default=8, help="of a batch")
  parser.add_argument("--steps", type=int, default=3)
  arguments = parser.parse_args()
  split = leave_one_out(read_pairs(arguments.pairs))
  made_up = MadeUp(split.item_ids[1:], _FRAMES, _SIZE)
  with tempfile.TemporaryDirectory() as workdir:
    files = Workdir(pathlib.Path(workdir)).files
    run = TrainingRun(validate(_config(arguments)), split, files, sources={"frames": made_up})
    run.plan()
    run.prepare()
    figures = _figures(run, arguments)
  figures |= {
    "encoder": arguments.encoder, "users": arguments.users, "jax": jax.__version__, "load": os.getloadavg()[0],
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  }  # fmt: skip
  print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))


def _config(arguments: argparse.Namespace):
  config = default_config()
  config.data.videos = "made up"
  config.model.dim = 512
  config.model.item = {
    "name": "video", "encoder": arguments.encoder, "mode": "scratch", "frames": _FRAMES, "size": _SIZE,
    "options": {},
  }  # fmt: skip
  config.model.user = {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1}
  config.train.batch_size = arguments.users
  config.train.steps_per_dispatch = 1
  return config


def _figures(run: TrainingRun, arguments: argparse.Namespace) -> dict:
  state = run.spec.create()
  times, clips = [], []
  for count, batches in run.groups(0, arguments.steps + 1):
    if arguments.keep and not times:
      _keep(pathlib.Path(arguments.keep), run, state, batches)
    jax.block_until_ready(batches)
    begin = time.perf_counter()
    state, losses = run.train_steps(state, batches, count)
    losses.block_until_ready()
    times.append(time.perf_counter() - begin)
    clips.append(int((batches.items != 0).sum()))
  # The first compiles.
  step = statistics.median(times[1:])
  return {"users_per_s": arguments.users / step, "step_s": step, "clips_a_step": statistics.median(clips[1:])}


def _keep(folder: pathlib.Path, run: TrainingRun, state, batches) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  model = nnx.merge(run.spec.graphdef, state.params, state.rest, copy=True)
  np.savez(folder / "weights.npz", **to_torch(model))  # type: ignore[arg-type]
  batch = jax.tree.map(lambda array: np.asarray(array[0]), batches)
  loss, weight = jax.jit(lambda batch: model.loss_sums(batch))(batch)
  spec = model.items.spec
  np.savez(
    folder / "batch.npz", slots=batch.slots, log_popularity=batch.log_popularity, frames=batch.content["frames"],
    mean=spec.mean, std=spec.std, real=batch.items != 0, loss=np.asarray(loss / weight),
  )  # fmt: skip


if __name__ == "__main__":
  main()
