"""What a GPU makes of the training steps, the evaluation and the input: one command, kept in results/gpu_<card>.json.

  python benchmarks/gpu.py                      # on a machine with a GPU: pip install ".[cuda]"
  python benchmarks/gpu.py --tiny --keep none   # the same parts on anything, of a size that says nothing

Each part has a process of its own. `videomae_b`, `vjepa2_l` and `slowfast_r50` are training steps of SASRec through the
encoder, of scratch weights, in bfloat16, over clips of noise; `id_64` and `id_512` are those of item IDs over 20,000
items. MFU is the products of the traced step (what is computed again included) over the card's dense bfloat16 peak
(`mlrec.planning.topology`). `host_*` is the same batches made and put on the device without a step: whether the host
keeps up. `checks` compares ranks and lists of the same parameters on the GPU and on the CPU, and two runs of the same
steps bit by bit.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from compare import RESULTS
import numpy as np

_ENCODERS = {"videomae_b": 24, "vjepa2_l": 8, "slowfast_r50": 32}
_WIDTHS = (64, 512)
_CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
_PARTS = (*_ENCODERS, *(f"id_{width}" for width in _WIDTHS), "checks")
_STEPS = 20
# Sums of many numbers on a GPU come in an order of their own, unless it is told otherwise.
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
  parser.add_argument("--tiny", action="store_true", help="sizes that run anywhere")
  parser.add_argument("--users", type=int, help="of a video step, for all encoders; else as many as fit 80 GB")
  parser.add_argument("--keep", default="", help="the file's name in results/ instead of the card's, or none")
  parser.add_argument("--alone", choices=_PARTS, help="measure one part, and print its figures")
  arguments = parser.parse_args()
  if arguments.alone:
    print(json.dumps(_measured(arguments.alone, arguments)))
    return
  found: dict = {}
  for part in arguments.parts:
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | ({"XLA_FLAGS": f"{flags} {_DETERMINISTIC}"} if part == "checks" else {})
    done = subprocess.run(
      [sys.executable, __file__, *sys.argv[1:], "--alone", part], stdout=subprocess.PIPE, text=True, env=environment
    )
    found[part] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"status": done.returncode}
    print(part, json.dumps(found[part]), flush=True)
  card = next((one["card"] for one in found.values() if "card" in one), "none")
  if arguments.keep != "none":
    RESULTS.mkdir(exist_ok=True)
    name = arguments.keep or f"gpu_{card.replace(' ', '_')}"
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")


def _measured(part: str, arguments: argparse.Namespace) -> dict:
  import jax

  card = {"card": jax.devices()[0].device_kind, "jax": jax.__version__}
  if part == "checks":
    return card | _checks(arguments)
  run = _run(part, arguments)
  return card | _steps(run) | (_evaluation(run) if part.startswith("id_") else {})


def _run(part: str, arguments: argparse.Namespace, devices=None):
  """A planned run of the part, over a log that is made up."""
  from mlrec.config import validate
  from mlrec.planning.population import made_up
  from mlrec.runs.workdir import Workdir
  from mlrec.train.loop import TrainingRun

  config, sources = (_video if part in _ENCODERS else _id)(part, arguments)
  config.data.source = "made up"
  config = validate(config)
  split = made_up(config, items=500 if arguments.tiny else 20_000, users=2_000 if arguments.tiny else 50_000)
  files = Workdir(pathlib.Path(tempfile.mkdtemp())).files
  run = TrainingRun(config, split, files, sources={} if sources is None else sources(split))
  run.plan(devices)
  run.prepare()
  return run


def _id(part: str, arguments: argparse.Namespace):
  from mlrec.config import default_config

  config = default_config()
  config.model.dim = 16 if arguments.tiny else int(part.rpartition("_")[2])
  config.train.batch_size = 64 if arguments.tiny else 2048
  config.train.steps_per_dispatch = 4 if arguments.tiny else 16
  return config, None


def _video(part: str, arguments: argparse.Namespace):
  from video import MadeUp

  spec = importlib.util.spec_from_file_location("video_sasrec", _CONFIGS / "video_sasrec.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(f"{part},scratch")
  config.train.batch_size = 2 if arguments.tiny else arguments.users or _ENCODERS[part]
  config.loss.negative_groups = 1
  config.model.item.frames, config.model.item.size = (2, 32) if arguments.tiny else (5, 224)
  if part == "vjepa2_l":
    config.model.item.remat = True
    config.model.item.frames = 2 if arguments.tiny else 8
  item = config.model.item
  return config, lambda split: {"frames": MadeUp(split.item_ids[1:], item.frames, item.size)}


def _steps(run) -> dict:
  """The step alone, on a batch that is there; the input alone; and both together."""
  import jax

  from mlrec.planning.flops import matmul_flops
  from mlrec.planning.program import training
  from mlrec.planning.topology import CHIPS

  kind = jax.devices()[0].device_kind.lower()
  traced = training(run).trace()
  size = run.config.train.steps_per_dispatch
  users, flops = run.config.train.batch_size, matmul_flops(traced.jaxpr, "cuda")
  state = run.spec.create()
  compiling = time.perf_counter()
  count, batches = next(iter(run.groups(0, size)))
  state, losses = run.train_steps(state, batches, count)
  jax.block_until_ready(losses)
  compiling = time.perf_counter() - compiling
  taken = []
  for _ in range(_STEPS):
    begin = time.perf_counter()
    state, losses = run.train_steps(state, batches, count)
    jax.block_until_ready(losses)
    taken.append((time.perf_counter() - begin) / size)
  begin, made = time.perf_counter(), 0
  for count, batches in run.groups(0, _STEPS * size):
    jax.block_until_ready(batches)
    made += count
  host = (time.perf_counter() - begin) / made
  begin, made = time.perf_counter(), 0
  for count, batches in run.groups(0, _STEPS * size):
    state, losses = run.train_steps(state, batches, count)
    made += count
  jax.block_until_ready(losses)
  whole = (time.perf_counter() - begin) / made
  step = statistics.median(taken)
  peak = next((chip.flops for name, chip in CHIPS.items() if name in kind), None)
  memory = jax.devices()[0].memory_stats() or {}
  return {
    "users": users, "tflop_a_step": flops / 1e12, "compile_and_first_s": compiling, "step_ms": 1e3 * step,
    "users_per_s": users / step, "tflop_per_s": flops / step / 1e12, "mfu": flops / step / peak if peak else None,
    "host_step_ms": 1e3 * host, "whole_step_ms": 1e3 * whole, "loss": float(losses[0]),
    "peak_gib": memory.get("peak_bytes_in_use", 0) / 2**30,
  }  # fmt: skip


def _evaluation(run) -> dict:
  """All users ranked among all items, after a compilation."""
  import jax

  state = run.spec.create()
  run.evaluator.ranks(state.params, state.rest, "valid")
  begin = time.perf_counter()
  ranked = run.evaluator.ranks(state.params, state.rest, "valid")
  jax.block_until_ready(state.params)
  seconds = time.perf_counter() - begin
  return {"ranked_users_per_s": len(ranked.ranks) / seconds}


def _checks(arguments: argparse.Namespace) -> dict:
  """Two runs of the same steps, and the same parameters ranked here and on the CPU."""
  import jax

  def trained():
    run = _run("id_64", arguments)
    state = run.spec.create()
    size = run.config.train.steps_per_dispatch
    for count, batches in run.groups(0, 5 * size):
      state, _ = run.train_steps(state, batches, count)
    return run, state

  run, state = trained()
  _, again = trained()
  leaves = [jax.device_get(jax.tree.leaves(one.params)) for one in (state, again)]
  here = run.evaluator.ranks(state.params, state.rest, "valid")
  on_cpu = _run("id_64", arguments, jax.devices("cpu")[:1])
  params, rest = jax.device_put(
    jax.device_get((state.params, state.rest)),
    jax.tree.map(lambda leaf: leaf.sharding, (on_cpu.spec.abstract.params, on_cpu.spec.abstract.rest)),
  )
  there = on_cpu.evaluator.ranks(params, rest, "valid")
  return {
    "same_bits_again": all(np.array_equal(one, other) for one, other in zip(*leaves)),
    "ranks_as_on_the_cpu": float(np.mean(np.asarray(here.ranks) == np.asarray(there.ranks))),
    "lists_as_on_the_cpu": float(np.mean(np.asarray(here.recommended) == np.asarray(there.recommended))),
    "metrics": [run.evaluator.figures(here, "valid")["hr@10"], on_cpu.evaluator.figures(there, "valid")["hr@10"]],
  }


if __name__ == "__main__":
  main()
