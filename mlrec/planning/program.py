"""The programs of a run as training and evaluation compile them, traced for devices that need not exist."""

from collections.abc import Iterator
from collections.abc import Sequence
import os
import pathlib
from typing import Any
from typing import NamedTuple

import jax
from jax import ShapeDtypeStruct
from jax.sharding import NamedSharding
from ml_collections import ConfigDict
import numpy as np

from mlrec.config import ConfigError
from mlrec.data.batches import eval_batches
from mlrec.data.impression_batches import ImpressionBatches
from mlrec.data.interaction_batches import InteractionBatches
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.data.static_shapes import round_up
from mlrec.models.registry import choose
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.planning.population import SampledSplit
from mlrec.registry import OptionError
from mlrec.registry import options_of
from mlrec.train.impression_evaluator import ImpressionEvaluator
from mlrec.train.loop import TrainingRun
from mlrec.train.run_files import RunFiles
from mlrec.train.sharding import over_items
from mlrec.train.sharding import put_shapes
from mlrec.train.sharding import replicated

TRAINING, RANKING, ITEMS, JUDGING = "training step", "ranking users", "encoding items", "judging impressions"


class Program(NamedTuple):
  """A program of a run.

  Attributes:
    name: for people.
    function: compiled by `jax.jit`.
    arguments: shapes, dtypes and shardings of what it takes.
  """

  name: str
  function: Any
  arguments: tuple[Any, ...]

  def trace(self) -> Any:
    """Its `jax.stages.Traced`."""
    return self.function.trace(*self.arguments)


def planned_run(config: ConfigDict, split: Split, devices: Sequence[jax.Device]) -> TrainingRun:
  """The run, planned for the devices; nothing is read or written.

  Raises:
    ConfigError: an option is wrong, the recommender is not trained by steps, or some devices would have no users.
    DataError: what the model asks of the data cannot be had.
  """
  try:
    _check_recommender(config, split)
    users = config.train.batch_size
    if users < len(devices):
      raise ConfigError(
        f"config.train.batch_size = {users} does not give each of {len(devices)} devices a user: name "
        f"{round_up(users, len(devices))} or more, best a multiple of {len(devices)}"
      )
    nowhere = RunFiles(*[pathlib.Path(os.devnull)] * len(RunFiles._fields))
    run = TrainingRun(config, split, nowhere)
    run.plan(devices)
    run.check_devices()
  except OptionError as error:
    raise ConfigError(str(error)) from error
  return run


def programs(run: TrainingRun) -> Iterator[Program]:
  """What a planned run compiles: its group of training steps, then what evaluation runs, each for itself."""
  yield training(run)
  yield from evaluation(run)


def training(run: TrainingRun) -> Program:
  """The group of steps that one dispatch takes; its batches are made as training makes them."""
  group = run.config.train.steps_per_dispatch
  stacked = run.batches.stack(0, min(group, run.batches.steps_per_epoch), group)
  batches = put_shapes(run.mesh, stacked, axis=1)
  content = _content(run, stacked.items.shape, axis=1)
  if content:
    batches = batches._replace(content=content)
  return Program(TRAINING, run.train_steps, (run.spec.in_training, batches, ShapeDtypeStruct((), np.int32)))


def evaluation(run: TrainingRun) -> Iterator[Program]:
  """The encoding of items, a chunk at a time where content is read; then that of ranking users, or impressions."""
  state, evaluator = run.spec.abstract, run.evaluator
  model = (state.eval_params, state.rest)
  if run.abstract_model().reads:
    size = round_up(min(evaluator.item_batch, run.split.num_items + 1), run.mesh.size)
    items = put_shapes(run.mesh, ShapeDtypeStruct((size,), jax.dtypes.canonicalize_dtype(np.int64)))
    encoding = Program(ITEMS, evaluator.encode, (*model, items, _content(run, (size,))))
  else:
    encoding = Program(ITEMS, evaluator.encode_all, model)
  yield encoding
  if not run.split.cuts.targets:
    return
  vectors = jax.eval_shape(encoding.function, *encoding.arguments)
  table = jax.tree.map(lambda x: ShapeDtypeStruct((evaluator.rows, *x.shape[1:]), x.dtype), vectors)
  table = _laid(table, over_items(run.mesh))
  if isinstance(evaluator, ImpressionEvaluator):
    size = round_up(evaluator.batch_size, run.mesh.size)
    shapes = [ShapeDtypeStruct(shape, np.dtype(np.int32)) for shape in ((size, run.split.max_length), (size,))]
    yield Program(JUDGING, evaluator.judge, (*model, table, *put_shapes(run.mesh, shapes)))
    return
  lying = _laid(jax.eval_shape(evaluator.laid, *model, table), over_items(run.mesh))
  users = _laid(jax.eval_shape(evaluator.encode_users, *model), replicated(run.mesh))
  split = TEST if TEST in run.split.cuts.targets else next(iter(run.split.cuts.targets))
  batch = next(
    eval_batches(
      run.split, split, evaluator.layout, batch_size=evaluator.batch_size,
      multiple_of=evaluator.users_multiple,
    )
  )  # fmt: skip
  folds = None if run.split.trained.all() else put_shapes(run.mesh, ShapeDtypeStruct(batch.users.shape, np.dtype(bool)))
  yield Program(RANKING, evaluator.rank_batch, (*model, lying, users, put_shapes(run.mesh, batch), folds))


def filler_share(run: TrainingRun) -> float:
  """The share of a batch's rows of users that no user fills, for the devices do not divide the batch."""
  users = run.config.train.batch_size
  return 1 - users / round_up(users, run.mesh.size)


def slots(run: TrainingRun) -> dict[str, int]:
  """What a training step holds, over all devices."""
  batch: Any = run.batches.batch(0)
  held = {"items": batch.items.size}
  if isinstance(run.batches, InteractionBatches):
    return held | {"interactions": batch.targets.shape[0]}
  if isinstance(run.batches, ImpressionBatches):
    return held | {"impressions": batch.targets.size}
  return held | {"users": batch.slots[..., 0].size, "places": batch.targets.size}


def _content(run: TrainingRun, shape: tuple[int, ...], axis: int = 0) -> dict[str, ShapeDtypeStruct]:
  """Shapes of what the model reads of items of a `shape [..., U]`, cut along an axis of it, as training gives it."""
  needs = run.abstract_model().reads
  arrays = {name: ShapeDtypeStruct((*shape, *need.shape), np.dtype(need.dtype)) for name, need in needs.items()}
  return put_shapes(run.mesh, arrays, axis=axis)


def _laid(arrays: Any, sharding: NamedSharding) -> Any:
  return jax.tree.map(lambda x: ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arrays)


def _check_recommender(config: ConfigDict, split: Split) -> None:
  with options_of("config.model"):
    name, _ = choose(config.model.to_dict(), RECOMMENDER)
  if models.get(name, kind=RECOMMENDER).fitted:
    raise ConfigError(f"config.model.name = {name!r} is computed at once, on the host: there is no step to plan")
  if isinstance(split, SampledSplit) and len(split.rows) < split.num_users and "train" in models.options(name):
    raise ConfigError(
      f"config.model.name = {name!r} computes on all interactions at once: it can be planned for up to "
      f"{len(split.rows):,} made-up users, or with the data there"
    )
