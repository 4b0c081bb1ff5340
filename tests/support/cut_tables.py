"""Training steps of tables that are cut over eight devices, to be called where there are so many."""

import dataclasses
import pathlib

import jax
from ml_collections import ConfigDict
import numpy as np

from mlrec.config import default_config
from mlrec.config import validate
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.planning import program
from mlrec.train import checksum
from mlrec.train.loop import TrainingRun

BY_ROWS = (("table", "rows:model"),)
_MIB = 1 << 20


def planned(pairs_file: str, items: int, devices: int = 8, **changes) -> TrainingRun:
  """A run of a sequential model on the pairs, in a catalogue of so many items."""
  split = leave_one_out(read_pairs(pathlib.Path(pairs_file)))
  more = np.arange(10**7, 10**7 + items - split.num_items)
  split = dataclasses.replace(split, item_ids=np.concatenate([split.item_ids, more]))
  config = default_config()
  config.model = ConfigDict({"name": "sequential", "dim": 64, "item": {"name": "id"}, "user": {"name": "sasrec"}})
  config.train.batch_size, config.train.steps_per_dispatch = 64, 2
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return program.planned_run(validate(config), split, jax.devices()[:devices])


def memory_falls(pairs_file: str, item_tables: str, loss: str) -> None:
  """Of eight devices each holds an eighth of the tables, and nothing of the size of a table beside it."""
  items = 1 << 17
  table = (items + 1) * 64 * 4
  options = {"model.loss": loss} if loss else {"optimizer.item_tables": item_tables}
  held = {}
  for parts, rules in ((1, ()), (8, BY_ROWS)):
    run = planned(pairs_file, items, **options, **{"sharding.model": parts, "sharding.rules": rules})
    held[parts] = [one.trace().lower().compile().memory_analysis() for one in program.programs(run)]
  tables = 1 if item_tables == "sgd" else 3
  for name, whole, cut in zip(("training", "encoding", "ranking"), held[1], held[8]):
    arrays = tables if name == "training" else 1
    assert whole.argument_size_in_bytes >= arrays * table, name
    # What is not of tables stays whole.
    assert cut.argument_size_in_bytes < arrays * table / 8 + 4 * _MIB, (name, cut.argument_size_in_bytes)
    assert cut.temp_size_in_bytes < (table / 2 if name == "ranking" else table / 8 + 3 * _MIB), (name, cut)


def checksums_agree() -> None:
  """However an array is cut, and wherever its checksum is computed."""
  rng = np.random.default_rng(0)
  mesh = jax.make_mesh((2, 4), ("data", "model"))
  for dtype in ("float32", "bfloat16", "int32", "uint8", "bool"):
    array = jax.numpy.asarray(rng.normal(size=(16, 8, 3)) * 100).astype(dtype)
    found = {checksum._on_host(np.asarray(array)), int(checksum._on_devices(array))}
    for spec in ((None, "model"), ("data", "model"), (("data", "model"),)):
      cut = jax.device_put(array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
      found.add(int(checksum._on_devices(cut)))
    assert len(found) == 1, (dtype, found)
