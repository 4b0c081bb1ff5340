"""A training step of ID SASRec by the number of items, for each optimiser of item tables; kept in results/.

  python benchmarks/catalogue.py --pairs FILE_pairs.tsv

Batches are those of the file at every size: its items are spread over catalogues of 20,000 to 1.2 million rows, so that
the steps differ in the tables alone. Sizes take turns, group by group; a figure is a median. Batches are made before.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import time
from typing import Any

from compare import RESULTS
import jax
import numpy as np

from mlrec import machine
from mlrec import models
from mlrec.config import default_config
from mlrec.config import TABLE_OPTIMIZERS
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.batches import Batch
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.train.lazy_tables import LazyTables
from mlrec.train.optimizer import make_optimizer
from mlrec.train.sharding import make_mesh
from mlrec.train.state import average_decay
from mlrec.train.state import make_settle
from mlrec.train.state import make_train_steps
from mlrec.train.state import state_spec
from mlrec.train.state import TrainState

RESULT = "catalogue.json"
GROUP = 8


@dataclasses.dataclass
class Case:
  """A state and what advances it, with the milliseconds of each step and of its CPU time that were measured."""

  items: int
  state: TrainState
  step: Any
  settle: Any
  wall: list[float] = dataclasses.field(default_factory=list)
  cpu: list[float] = dataclasses.field(default_factory=list)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--pairs", required=True)
  parser.add_argument("--optimizers", nargs="+", default=list(TABLE_OPTIMIZERS))
  parser.add_argument("--items", type=int, nargs="+", default=[20_000, 200_000, 1_200_000])
  parser.add_argument("--ema", type=float, nargs="+", default=[0.0, 0.998])
  parser.add_argument("--rounds", type=int, default=15, help="groups of steps of each size that count")
  parser.add_argument("--dim", type=int, default=64)
  parser.add_argument("--batch", type=int, default=128)
  arguments = parser.parse_args()
  split = leave_one_out(read_pairs(arguments.pairs))
  if min(arguments.items) < split.num_items:
    raise SystemExit(f"--items: {min(arguments.items):,} rows cannot hold the file's {split.num_items:,} items")
  batches = TrainBatches(split, Layout.of(10, packed=True), batch_size=arguments.batch, seed=0)
  stacks = [batches.stack(n * GROUP, GROUP, GROUP) for n in range(arguments.rounds + 1)]
  rows = []
  for optimizer in arguments.optimizers:
    for ema in arguments.ema:
      cases = [planned(arguments, n, optimizer, ema, stacks[0], batches.steps_per_epoch) for n in arguments.items]
      for stack in stacks:
        for case in cases:
          take_turn(case, spread(stack, split.num_items, case.items))
      rows += [figures(case, optimizer, ema) for case in cases]
      for row in rows[-len(cases) :]:
        print(json.dumps(row), flush=True)
  RESULTS.mkdir(exist_ok=True)
  said = {"dim": arguments.dim, "batch": arguments.batch, "cores": len(os.sched_getaffinity(0)), "rows": rows}
  (RESULTS / RESULT).write_text(json.dumps(said, indent=2) + "\n")


def planned(arguments, items: int, of_tables: str, ema: float, like: Batch, steps_per_epoch: int) -> Case:
  """A case whose step is compiled for groups of batches `like` this one."""
  config = default_config().optimizer
  config.lr, config.item_tables = 1e-3, of_tables
  user = {"name": "sasrec", "heads": 2, "blocks": 2, "dropout": 0.1}
  make = lambda rngs: models.create("sequential", num_items=items, dim=arguments.dim, user=user, rngs=rngs)  # noqa: E731
  lazy = None
  if of_tables != "adamw":
    decay = functools.partial(average_decay, ema)
    lazy = LazyTables(config, 10_000, steps_per_epoch=steps_per_epoch, average_decay=decay)
  optimizer, mesh = make_optimizer(config, 10_000), make_mesh()
  spec = state_spec(make, optimizer, mesh, seed=0, averaged=ema > 0, lazy=lazy)
  train = make_train_steps(spec, optimizer, mesh, seed=0, ema_decay=ema)
  return Case(items, spec.create(), train.lower(spec.abstract, like, GROUP).compile(), make_settle(spec))


def spread(batch: Batch, held: int, items: int) -> Batch:
  """The batch with its ids a constant apart, so that they reach over all rows."""
  return batch._replace(items=(batch.items * (items // held)).astype(np.int32))


def take_turn(case: Case, batches: Batch) -> None:
  wall, cpu = time.perf_counter(), machine.cpu_seconds()
  case.state, losses = case.step(case.state, batches, GROUP)
  losses.block_until_ready()
  case.wall.append((time.perf_counter() - wall) / GROUP * 1e3)
  case.cpu.append((machine.cpu_seconds() - cpu) / GROUP * 1e3)


def figures(case: Case, optimizer: str, ema: float) -> dict:
  """Medians, less the first turn; what the program needs beside its state; and what an epoch's end takes."""
  memory = case.step.memory_analysis()
  state = jax.block_until_ready(case.settle(case.state))  # compiles
  cpu = machine.cpu_seconds()
  case.state = jax.block_until_ready(case.settle(state))
  return {
    "item_tables": optimizer, "ema_decay": ema, "items": case.items,
    "step_ms": round(statistics.median(case.wall[1:]), 2), "step_cpu_ms": round(statistics.median(case.cpu[1:]), 2),
    "epoch_end_cpu_ms": round((machine.cpu_seconds() - cpu) * 1e3),
    "beside_state_mib": round((memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes)
      / 2**20, 1),
  }  # fmt: skip


if __name__ == "__main__":
  main()
