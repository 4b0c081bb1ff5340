"""Times a full-size video encoder, forward and with its gradients, and prints one JSON object.

  python benchmarks/encoders.py slowfast_r50 [--loop] [--dtype bfloat16]

Forward as in evaluation; with gradients as in training, in all parameters. Seconds of two clips of as many 224 x 224
frames as `--frames` says, medians of wall and CPU time over `--runs`; `--loop` times a turn of a `fori_loop` instead.
"""

import argparse
from collections.abc import Callable
import json
import statistics
import time

from flax import nnx
import jax
import jax.numpy as jnp

from mlrec import models
from mlrec.models.layers.context import Context

TURNS = 2


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("encoder")
  parser.add_argument("--runs", type=int, default=3)
  parser.add_argument("--clips", type=int, default=2)
  parser.add_argument("--frames", type=int, default=5)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--loop", action="store_true")
  arguments = parser.parse_args()
  dtype = jnp.dtype(arguments.dtype)
  model = models.create(arguments.encoder, rngs=nnx.Rngs(0), dtype=dtype)
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  frames = jax.random.normal(jax.random.key(1), (arguments.clips, arguments.frames, 224, 224, 3), dtype)

  def forward(params):
    return nnx.merge(graphdef, params, rest)(frames)

  def both(params):
    def loss(params):
      context = Context(train=True, rngs=nnx.Rngs(dropout=0, drop_path=1))
      return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(frames, context).astype(jnp.float32)).sum()

    return jax.value_and_grad(loss)(params)

  record: dict[str, object] = {"encoder": arguments.encoder, "loop": arguments.loop, "dtype": arguments.dtype}
  record["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
  for label, run in (("forward", forward), ("both", both)):
    start = time.perf_counter()
    compiled = jax.jit(looped(run) if arguments.loop else run).lower(params).compile()
    record[f"{label}_compile_s"] = round(time.perf_counter() - start, 1)
    memory = compiled.memory_analysis()
    record[f"{label}_temporary_mib"] = memory.temp_size_in_bytes >> 20 if memory else None
    wall, cpu = seconds(compiled, params, arguments.runs)
    turns = TURNS if arguments.loop else 1
    record |= {f"{label}_wall_s": round(wall / turns, 3), f"{label}_cpu_s": round(cpu / turns, 3)}
  print(json.dumps(record), flush=True)


def looped(run: Callable) -> Callable:
  """Several turns, each of which depends on the one before."""

  def loop(params):
    def turn(_, carried):
      nothing = jax.tree.leaves(carried)[0].ravel()[0] * 0
      return run(jax.tree.map(lambda leaf: leaf + nothing.astype(leaf.dtype), params))

    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, params))
    return jax.lax.fori_loop(0, TURNS, turn, none)

  return loop


def seconds(run: Callable, params, runs: int) -> tuple[float, float]:
  """Medians of wall and CPU time."""
  jax.block_until_ready(run(params))
  walls, cpus = [], []
  for _ in range(runs):
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(params))
    walls.append(time.perf_counter() - wall)
    cpus.append(time.process_time() - cpu)
  return statistics.median(walls), statistics.median(cpus)


if __name__ == "__main__":
  main()
