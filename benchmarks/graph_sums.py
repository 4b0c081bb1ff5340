"""Times sums over the neighbours of a graph of interactions, and their gradients, in several forms: a JSON line each.

  python benchmarks/graph_sums.py [--source PATH/MicroLens-50k_pairs.tsv] [--dim 64]

`loop` and `segments` are what `mlrec.models.layers.graph` runs on a CPU and elsewhere, with gradients by sums as well;
`powers_of_two` gathers neighbours padded to the next power of two; `running_sums` takes differences of a cumulative
sum; `bcsr` and `bcoo` are `jax.experimental.sparse`, with its own gradients. Milliseconds, the least of `--runs`, of
each user's weighted sum of its items' vectors; `null` is a gradient that a form was not asked for.
"""

import argparse
import json
import time

import jax
from jax.experimental import sparse
import jax.numpy as jnp
import numpy as np

from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.models.layers import graph as graph_lib
from mlrec.models.layers.graph import Graph


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--source", default="", help="a *_pairs.tsv file; else edges are drawn at the size of 50k")
  parser.add_argument("--dim", type=int, default=64)
  parser.add_argument("--runs", type=int, default=5)
  arguments = parser.parse_args()
  degrees, items, num_items = edges_of(arguments.source)
  graph = Graph(degrees, items, num_items)
  rng = np.random.default_rng(0)
  vectors = jnp.asarray(rng.normal(size=(num_items + 1, arguments.dim)), jnp.float32)
  weights = jnp.asarray(rng.random(len(items)), jnp.float32)
  for name, form, has_gradients in forms(graph, degrees, items):
    record = {"form": name, "edges": len(items), "dim": arguments.dim, "forward_ms": None}
    record["forward_ms"] = timed(form, (vectors, weights), arguments.runs)
    for place, of in enumerate(("vectors", "weights")):
      gradient = jax.grad(lambda *at, form=form: jnp.sum(jnp.square(form(*at))), place)
      record[f"{of}_gradient_ms"] = timed(gradient, (vectors, weights), arguments.runs) if has_gradients else None
    print(json.dumps(record), flush=True)


def edges_of(source: str) -> tuple[np.ndarray, np.ndarray, int]:
  """Each user's number of training interactions, their items end to end, and the number of items."""
  if source:
    split = leave_one_out(read_pairs(source))
    return split.train.lengths, split.train.values, split.num_items
  rng = np.random.default_rng(0)
  degrees = rng.integers(3, 8, 50_000)
  return degrees, 1 + (19_000 * rng.random(degrees.sum()) ** 3).astype(int), 19_000


def forms(graph: Graph, degrees: np.ndarray, items: np.ndarray):
  """`(name, function of (vectors [N + 1, D], weights [E]), whether to time its gradients)`."""
  number, offsets = len(degrees), np.concatenate([[0], np.cumsum(degrees)])
  targets = jnp.asarray(np.repeat(np.arange(number), degrees), jnp.int32)
  sources, starts = jnp.asarray(items, jnp.int32), jnp.asarray(offsets, jnp.int32)
  shape = (number, graph.num_items + 1)

  def running_sums(vectors, weights):
    total = jnp.cumsum(weights[:, None] * vectors[sources], axis=0)
    total = jnp.concatenate([jnp.zeros((1, total.shape[1])), total])
    return total[starts[1:]] - total[starts[:-1]]

  powers = np.maximum(np.ceil(np.log2(np.maximum(degrees, 1))), 0).astype(int)
  buckets = []
  for power in np.unique(powers):
    rows = np.flatnonzero(powers == power)
    place = np.arange(2**power)
    there = place < degrees[rows][:, None]
    buckets.append((jnp.asarray(np.where(there, offsets[rows][:, None] + place, 0)), jnp.asarray(there)))
  back = jnp.asarray(np.argsort(np.argsort(powers, kind="stable"), kind="stable"))

  def powers_of_two(vectors, weights):
    parts = [
      jnp.sum(jnp.where(there, weights[edges], 0.0)[..., None] * vectors[sources[edges]], axis=1)
      for edges, there in buckets
    ]
    return jnp.concatenate(parts)[back]

  def segments(vectors, weights):
    return graph_lib.sum_by_target(graph.edges_to_users, vectors, weights, number, loop=False)

  def bcsr(vectors, weights):
    return sparse.BCSR((weights, sources, starts), shape=shape) @ vectors

  def bcoo(vectors, weights):
    places = jnp.stack([targets, sources], axis=1)
    return sparse.BCOO((weights, places), shape=shape, indices_sorted=True) @ vectors

  # What runs here: the loop, on a CPU.
  yield "loop" if jax.default_backend() == "cpu" else "ours", graph.to_users, True
  yield "segments", segments, True
  yield "powers_of_two", powers_of_two, False
  yield "running_sums", running_sums, False
  yield "bcsr", bcsr, True
  yield "bcoo", bcoo, True


def timed(function, arguments, runs: int) -> float:
  """The least milliseconds of a compiled call."""
  compiled = jax.jit(function)
  jax.block_until_ready(compiled(*arguments))
  times = []
  for _ in range(runs):
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    times.append(time.perf_counter() - start)
  return round(1000 * min(times), 1)


if __name__ == "__main__":
  main()
