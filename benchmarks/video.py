"""Timings of what video adds to training. Prints one JSON object.

python benchmarks/video.py step --pairs FILE_pairs.tsv [--every_slot]
python benchmarks/video.py prepare --videos FOLDER --to FOLDER
python benchmarks/video.py read --data_dir FOLDER
python benchmarks/video.py read_reference --data_dir FOLDER
python benchmarks/video.py features ENCODER --data_dir FOLDER

`step` trains SASRec through a video encoder on the users of a pairs file, whose items have frames made up in memory;
`--every_slot` encodes the item of each slot of each user's row, repeats and padding too, as MicroLens's released code
does. `prepare` makes frames of the mp4 files in a folder, `--copies` items of each, in this process alone. `read` reads
items in a random order, none of them in the page cache; `read_reference` does so from an LMDB file of float32 arrays,
opened again for each item as MicroLens's released code does (it needs `pip install lmdb`). `features` times a frozen
encoder's vectors from reading to writing, compilation left out.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np

from mlrec.config import default_config
from mlrec.config import validate
from mlrec.content.base import Source
from mlrec.content.videos import Frames
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.batches import Batch
from mlrec.models.items.encoded import recipe_options
from mlrec.models.items.video.tower import VideoRecipe
from mlrec.runs.workdir import Workdir
from mlrec.train import frozen_vectors
from mlrec.train.loop import TrainingRun
from mlrec.train.sharding import make_mesh
import tfds_microlens
from tfds_microlens import frame_codecs
from tfds_microlens import video_frames

_SOURCE = "microlens/100k-videos-5x224"
# Times that coded frames are decoded, to see how long that takes.
_READ = 20
_REFERENCE_ARRAY = (5, 3, 224, 224)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("what", choices=["step", "prepare", "read", "read_reference", "features"])
  parser.add_argument("encoder", nargs="?", default="vit_s")
  parser.add_argument("--pairs")
  parser.add_argument("--videos")
  parser.add_argument("--to")
  parser.add_argument("--data_dir")
  parser.add_argument("--form", choices=frame_codecs.FORMS, default=frame_codecs.JPEG, help="of stored frames")
  parser.add_argument("--every_slot", action="store_true")
  parser.add_argument("--options", type=json.loads, default={}, help="the encoder's, as a JSON object")
  parser.add_argument("--batch", type=int, default=120)
  parser.add_argument("--frames", type=int, default=0, help="a clip; 0 for the encoder's own")
  parser.add_argument("--size", type=int, default=0, help="of frames; 0 for the encoder's own")
  parser.add_argument("--steps", type=int, default=8)
  parser.add_argument("--copies", type=int, default=200)
  parser.add_argument("--items", type=int, default=300, help="read of all that there are")
  arguments = parser.parse_args()
  figures = globals()[f"_{arguments.what}"](arguments)
  print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}))


class MadeUp(Source):
  """Clips of noise for any items, at the cost of a copy."""

  fingerprint, in_memory = "made up", True

  def __init__(self, items: np.ndarray, frames: int, size: int):
    self.items = items
    self._noise = np.random.default_rng(0).integers(0, 256, (64, frames, size, size, 3), np.uint8)

  def read(self, ids: np.ndarray, *, frames: int, size: int) -> np.ndarray:
    return self._noise[np.asarray(ids) % 64]


def _step(arguments: argparse.Namespace) -> dict:
  config = default_config()
  item = {"name": "video", "encoder": arguments.encoder, "mode": "scratch", "options": arguments.options}
  config.model.item = item | {"frames": arguments.frames, "size": arguments.size}
  config.model.dim = 64
  config.model.user = {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1}
  config.data.videos = "made up"
  config.train.batch_size = arguments.batch
  config.train.steps_per_dispatch = 1
  split = leave_one_out(read_pairs(arguments.pairs))
  made_up = MadeUp(split.item_ids[1:], arguments.frames or 5, arguments.size or 224)
  with tempfile.TemporaryDirectory() as workdir:
    run = TrainingRun(validate(config), split, Workdir(pathlib.Path(workdir)).files, sources={"frames": made_up})
    run.plan()
    run.prepare()
    state = run.spec.create()
    times, whole, encoded, last = [], [], [], time.perf_counter()
    for count, batches in run.groups(0, arguments.steps + 1):
      if arguments.every_slot:
        batches = jax.jit(_every_slot)(batches)
      jax.block_until_ready(batches)
      begin = time.perf_counter()
      state, losses = run.train_steps(state, batches, count)
      losses.block_until_ready()
      now = time.perf_counter()
      times.append(now - begin)
      whole.append(now - last)
      last = now
      encoded.append(batches.items.shape[1])
  step = statistics.median(times[1:])
  return {"users_per_s": arguments.batch / step, "step_s": step, "whole_s": statistics.median(whole[1:]),
          "clips_a_step": statistics.median(encoded),
          "loss": float(losses[0])}  # fmt: skip


def _every_slot(batches: Batch) -> Batch:
  """A stack of one batch with a column for each slot of each row in place of one for each item."""
  slots = batches.slots[0]
  users, length = slots.shape
  columns = jax.numpy.arange(slots.size, dtype=slots.dtype)
  # Any slot of an item stands for it where the user encoder or the loss looks it up; the work is the same.
  first = jax.numpy.full(batches.items.shape[1], slots.size, slots.dtype).at[slots.ravel()].min(columns)
  real = (slots != 0).ravel()
  counts = batches.counts[0]
  groups = jax.numpy.repeat(jax.numpy.arange(len(counts)), slots.size // len(counts))
  counts = (groups == jax.numpy.arange(len(counts))[:, None]) & real
  history = batches.history._replace(tokens=first[batches.history.tokens])
  return batches._replace(
    items=batches.items[0][slots.ravel()][None], counts=counts[None].astype(batches.counts.dtype),
    log_popularity=batches.log_popularity[0][slots.ravel()][None], slots=columns.reshape(1, users, length),
    history=history, targets=first[batches.targets],
    content={name: array[0][slots.ravel()][None] for name, array in batches.content.items()},
  )  # fmt: skip


def _source(arguments: argparse.Namespace) -> str:
  return _SOURCE + "-h264" * (arguments.form == frame_codecs.H264)


def _prepare(arguments: argparse.Namespace) -> dict:
  """Decoding and coding alone, a thread; then the data set, of links to the same files."""
  paths = sorted(pathlib.Path(arguments.videos).glob("*.mp4"))
  decode, code, read, sizes, errors = [], [], [], [], []
  for path in paths:
    begin = time.perf_counter()
    frames, _ = video_frames.read_frames(path)
    middle = time.perf_counter()
    coded = frame_codecs.encode(frames, arguments.form)
    code.append(time.perf_counter() - middle)
    begin_read = time.process_time()
    for _ in range(_READ):
      decoded = frame_codecs.decode(coded)
    read.append((time.process_time() - begin_read) / _READ)
    decode.append(middle - begin)
    sizes.append(sum(map(len, coded)))
    errors.append(min(video_frames.psnr(*pair) for pair in zip(decoded, frames)))
  root = pathlib.Path(arguments.to)
  folder = root / "manual" / "MicroLens-100k_videos"
  folder.mkdir(parents=True, exist_ok=True)
  items = range(1, len(paths) * arguments.copies + 1)
  for item in items:
    link = folder / f"{item}.mp4"
    if not link.exists():
      link.symlink_to(paths[item % len(paths)].resolve())
  rows = "".join(f"{n + 1}\t{' '.join(map(str, items[n * 5 : n * 5 + 5]))}\n" for n in range(len(items) // 5))
  (root / "manual" / "MicroLens-100k_pairs.tsv").write_text(rows)
  begin = time.perf_counter()
  tfds_microlens.prepare(_source(arguments).partition("/")[2], data_dir=root, manual_dir=root / "manual")
  wall = time.perf_counter() - begin
  return {
    "videos": len(paths), "decode_s": statistics.mean(decode), "code_s": statistics.mean(code),
    "decode_coded_cpu_ms": 1000 * statistics.mean(read),
    "videos_per_s_a_core": 1 / (statistics.mean(decode) + statistics.mean(code)),
    "bytes_an_item": statistics.mean(sizes), "smaller_than_reference": 3_014_861 / statistics.mean(sizes),
    "least_psnr": min(errors), "prepared_items": len(items), "prepared_items_per_s": len(items) / wall,
  }  # fmt: skip


def _read(arguments: argparse.Namespace) -> dict:
  videos = Frames(_source(arguments), arguments.data_dir)
  folder = pathlib.Path(arguments.data_dir) / "microlens" / _source(arguments).partition("/")[2]
  videos.read(videos.items[:2])  # what opening costs once is no part of it
  ids = np.random.default_rng(0).permutation(videos.items)[: arguments.items]
  _drop_from_cache(folder)
  begin, cpu = time.perf_counter(), time.process_time()
  for start in range(0, len(ids), 64):
    videos.read(ids[start : start + 64])
  wall = time.perf_counter() - begin
  return {"items_per_s": len(ids) / wall, "items_per_cpu_s": len(ids) / (time.process_time() - cpu), "items": len(ids)}


def _read_reference(arguments: argparse.Namespace) -> dict:
  import lmdb

  folder = pathlib.Path(arguments.data_dir) / "reference.lmdb"
  if not folder.exists():
    videos = Frames(_source(arguments), arguments.data_dir)
    with lmdb.open(str(folder), map_size=1 << 36) as environment:
      for item in videos.items:
        frames = videos.read([item])[0].astype(np.float32).transpose(0, 3, 1, 2) / 127.5 - 1
        with environment.begin(write=True) as transaction:
          transaction.put(str(item).encode(), frames.tobytes())
  ids = np.random.default_rng(0).permutation(Frames(_source(arguments), arguments.data_dir).items)[: arguments.items]
  _drop_from_cache(folder)
  begin = time.perf_counter()
  for item in ids:
    # readahead, locking and copying as MicroLens's data set classes ask for them
    environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    with environment.begin() as transaction:
      np.frombuffer(transaction.get(str(item).encode()), np.float32).reshape(_REFERENCE_ARRAY).copy()
    environment.close()
  return {"items_per_s": len(ids) / (time.perf_counter() - begin), "items": len(ids)}


def _drop_from_cache(folder: pathlib.Path) -> None:
  os.sync()
  for path in folder.rglob("*"):
    if path.is_file():
      with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _features(arguments: argparse.Namespace) -> dict:
  videos = Frames(_source(arguments), arguments.data_dir)
  spec_frames, spec_size = arguments.frames or 5, arguments.size or 224
  options = recipe_options(arguments.options)
  recipe = VideoRecipe(arguments.encoder, options, "random", "float32", spec_frames, spec_size)
  encode, state = frozen_vectors.encoder_of(recipe, make_mesh())
  times = []
  for start in range(0, arguments.steps * 4 + 4, 4):
    begin = time.perf_counter()
    frames = videos.read(videos.items[start : start + 4], frames=spec_frames, size=spec_size)
    encode(state, frames, False).block_until_ready()
    times.append((time.perf_counter() - begin) / 4)
  clip = statistics.median(times[1:])
  return {"encoder": arguments.encoder, "clips_per_s": 1 / clip, "seconds_a_clip": clip}


if __name__ == "__main__":
  main()
