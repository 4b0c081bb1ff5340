"""GFLOP/s a core of the products that a video transformer is made of, by each library that is there; prints JSON.

  python benchmarks/products.py

Those of VideoMAE-B on two clips of five frames, 784 places: its widest layer, the two products of that layer's
gradients, and attention's of 24 heads over 392 places. Each is timed by itself in one thread, in CPU time, the best of
several: other work can only slow it.
"""

from collections.abc import Callable
import importlib.util
import json
import os
import time

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np

_RUNS = 9
_PLACES, _WIDTH, _HIDDEN = 784, 768, 3072
_HEADS, _LENGTH, _HEAD = 24, 392, 64
# Products by name: the shapes of both sides, and the sum.
_PRODUCTS = {
  "x @ w": ((_PLACES, _WIDTH), (_WIDTH, _HIDDEN), "mk,kn->mn"),
  "x.T @ g": ((_PLACES, _WIDTH), (_PLACES, _HIDDEN), "km,kn->mn"),
  "g @ w.T": ((_PLACES, _HIDDEN), (_WIDTH, _HIDDEN), "mk,nk->mn"),
  "q @ k.T": ((_HEADS, _LENGTH, _HEAD), (_HEADS, _LENGTH, _HEAD), "bqd,bkd->bqk"),
  "p @ v": ((_HEADS, _LENGTH, _LENGTH), (_HEADS, _LENGTH, _HEAD), "bqk,bkd->bqd"),
  "p.T @ g": ((_HEADS, _LENGTH, _LENGTH), (_HEADS, _LENGTH, _HEAD), "bqk,bqd->bkd"),
}


def main() -> None:
  # Each library's own pool of threads would otherwise be as large as there are cores.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  rng = np.random.default_rng(0)
  found: dict[str, dict[str, float]] = {}
  for name, (left, right, how) in _PRODUCTS.items():
    sizes = dict(zip(how.partition("->")[0].replace(",", ""), left + right))
    flops = 2 * np.prod([float(size) for size in sizes.values()])
    sides = [rng.normal(size=shape).astype(np.float32) for shape in (left, right)]
    found[name] = {
      library: round(float(flops) / _seconds(make(how, *sides)) / 1e9, 1)
      for library, make in _LIBRARIES.items()
      if importlib.util.find_spec(library)
    }
  print(json.dumps(found, indent=2))


def _numpy(how: str, left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
  # What einsum makes of a plain product, without its search for one.
  if how in ("mk,nk->mn", "bqd,bkd->bqk"):
    return lambda: left @ right.swapaxes(-1, -2)
  if how in ("km,kn->mn", "bqk,bqd->bkd"):
    return lambda: left.swapaxes(-1, -2) @ right
  return lambda: left @ right


def _jax(how: str, left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
  import jax
  import jax.numpy as jnp

  sides = jnp.asarray(left), jnp.asarray(right)
  product = jax.jit(lambda left, right: jnp.einsum(how, left, right))
  return lambda: product(*sides).block_until_ready()


def _torch(how: str, left: np.ndarray, right: np.ndarray) -> Callable[[], object]:
  import torch

  torch.set_num_threads(1)
  sides = torch.from_numpy(left), torch.from_numpy(right)
  return lambda: torch.einsum(how, *sides)


_LIBRARIES = {"numpy": _numpy, "jax": _jax, "torch": _torch}


def _seconds(run: Callable[[], object]) -> float:
  run()
  taken = []
  for _ in range(_RUNS):
    start = time.process_time()
    run()
    taken.append(time.process_time() - start)
  return min(taken)


if __name__ == "__main__":
  main()
