"""Times the encoders' convolutions and pools, forward and with gradients, against XLA's own, one JSON line a layer.

  python benchmarks/convolutions.py [--only depthwise stem_1x7x7] [--own] [--loop]

`ours` is what `Conv3D` and `max_pool` run; with `--own`, `xla` is `conv_general_dilated` and `reduce_window`, which
take minutes for some layers on a CPU; `--loop` adds the same inside a `fori_loop`, of which a turn's time is given.
Wall and CPU milliseconds, medians over `--runs`. `torch_convolutions.py` prints the same of PyTorch.
"""

import argparse
from collections.abc import Callable
import functools
import json
import statistics
import time

from convolution_cases import Case
from convolution_cases import CASES
from convolution_cases import CLIPS
import jax
from jax import Array
import jax.numpy as jnp

from mlrec.models.layers import convolution_forms
from mlrec.models.layers import convolution_shifts

TURNS = 2


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", nargs="*", default=[""], help="beginnings of layers' names")
  parser.add_argument("--runs", type=int, default=5)
  parser.add_argument("--own", action="store_true", help="also XLA's own convolutions")
  parser.add_argument("--loop", action="store_true", help="also inside a loop")
  parser.add_argument("--dtype", default="float32")
  arguments = parser.parse_args()
  for name, case in CASES.items():
    if name.startswith(tuple(arguments.only)):
      record = {"layer": name, "where": case.where, "form": case.kind}
      for label, function in (("ours", ours(case)), *([("xla", xla(case))] if arguments.own else [])):
        record |= {f"{label}_{key}": value for key, value in timed(function, case, arguments).items()}
      print(json.dumps(record), flush=True)


def ours(case: Case) -> Callable[..., Array]:
  if case.pool:
    return lambda x, kernel: convolution_shifts.largest(x, case.kernel, case.stride, case.padding)
  return lambda x, kernel: convolution_forms.convolve(x, kernel, case.stride, case.padding, case.groups)


def xla(case: Case) -> Callable[..., Array]:
  pads = [(size, size) for size in case.padding]
  if case.pool:
    window, stride, edges = (1, *case.kernel, 1), (1, *case.stride, 1), [(0, 0), *pads, (0, 0)]
    return lambda x, kernel: jax.lax.reduce_window(x, jnp.array(-jnp.inf, x.dtype), jax.lax.max, window, stride, edges)
  return lambda x, kernel: jax.lax.conv_general_dilated(
    x, kernel, case.stride, pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), feature_group_count=case.groups
  )


def timed(function: Callable[..., Array], case: Case, arguments: argparse.Namespace) -> dict[str, list[float]]:
  keys = jax.random.split(jax.random.key(0), 3)
  dtype = jnp.dtype(arguments.dtype)
  x = jax.random.normal(keys[0], (CLIPS, *case.sizes, case.inputs), dtype)
  kernel = jax.random.normal(keys[1], (*case.kernel, case.inputs // case.groups, case.outputs), dtype)
  grad = jax.random.normal(keys[2], jax.eval_shape(function, x, kernel).shape, dtype)

  def both(x: Array, kernel: Array, grad: Array) -> tuple[Array, ...]:
    # A stem's input is data: nobody asks for its gradient.
    if case.inputs == 3:
      y, pull = jax.vjp(functools.partial(function, x), kernel)
    else:
      y, pull = jax.vjp(function, x, kernel)
    return y, *pull(grad)

  def forward(x: Array, kernel: Array, grad: Array) -> tuple[Array, ...]:
    return (function(x, kernel),)

  found = {}
  for label, run in (("forward", forward), ("both", both)):
    found[label] = milliseconds(jax.jit(run), (x, kernel, grad), arguments.runs)
    if arguments.loop:
      found[f"{label}_loop"] = milliseconds(jax.jit(looped(run)), (x, kernel, grad), arguments.runs, TURNS)
  return found


def looped(run: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
  def loop(x: Array, kernel: Array, grad: Array) -> tuple[Array, ...]:
    # Each turn depends on the one before, by its kernel, so that none is moved out of the loop.
    def turn(number: Array, results: tuple[Array, ...]) -> tuple[Array, ...]:
      nothing = results[0][(0,) * results[0].ndim] * 0
      return run(x, kernel + nothing, grad + nothing)

    none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(run, x, kernel, grad))
    return jax.lax.fori_loop(0, TURNS, turn, none)

  return loop


def milliseconds(run: Callable, arrays: tuple[Array, ...], runs: int, turns: int = 1) -> list[float]:
  """Medians of wall and CPU time."""
  jax.block_until_ready(run(*arrays))
  walls, cpus = [], []
  for _ in range(runs):
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(*arrays))
    walls.append((time.perf_counter() - wall) * 1e3 / turns)
    cpus.append((time.process_time() - cpu) * 1e3 / turns)
  return [round(statistics.median(values), 1) for values in (walls, cpus)]


if __name__ == "__main__":
  main()
