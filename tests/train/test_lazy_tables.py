"""Item tables whose rows a step moves only where it reads them: what comes of it is what moving all rows gives."""

import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlrec import models
from mlrec.config import ConfigError
from mlrec.config import default_config
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.data.interactions import Interactions
from mlrec.models.layers.tables import ItemTable
from mlrec.train import lazy_tables
from mlrec.train.lazy_tables import LazyTables
from mlrec.train.optimizer import make_optimizer
from mlrec.train.sharding import make_mesh
from mlrec.train.state import average_decay
from mlrec.train.state import make_settle
from mlrec.train.state import make_train_steps
from mlrec.train.state import state_spec
from support.tiny_runs import assert_same_run
from support.tiny_runs import read_json
from support.tiny_runs import run_to_the_end
from support.tiny_runs import StopAt

_ITEMS, _STEPS, _EPOCH, _EMA = 60, 24, 12, 0.9
# Rows that are in no batch's shape.
_MANY = 5002


def _config(**values):
  config = default_config().optimizer
  config.update({"lr": 3e-3, "weight_decay": 0.5} | values)
  return config


@pytest.fixture(scope="module")
def batches():
  """Two epochs of 12 steps of 2 users: most items are read by few of the steps, and some by none."""
  rng = np.random.default_rng(0)
  lists = [rng.permutation(_ITEMS)[: rng.integers(5, 8)] + 1 for _ in range(2 * _EPOCH - 1)]
  missing = sorted(set(range(1, _ITEMS + 1)) - {item for row in lists for item in row[:-2]})
  rows = Rows.from_lists([*lists, np.array([*lists[0][:4], *(missing or [1])])])
  split = leave_one_out(Interactions(np.arange(len(rows)), rows))
  assert split.num_items == _ITEMS
  made = TrainBatches(split, Layout.of(10, packed=True), batch_size=2, seed=0)
  assert made.steps_per_epoch == _EPOCH
  assert (made.batch(0).items == 0).sum() > 1, "filler repeats the padding's column"
  return made


class _Means(nnx.Module):
  """Scores of a batch's items by the mean of a row's: as little as has an item table, a bias for each, and a layer."""

  def __init__(self, rngs, items=_ITEMS):
    self.table, self.bias = ItemTable(items + 1, 4, rngs=rngs), ItemTable(items + 1, 1, rngs=rngs)
    self.layer = nnx.Linear(4, 4, rngs=rngs)

  def loss(self, batch, *, rngs=None):
    del rngs
    real = (batch.items != 0)[:, None]
    vectors = jnp.where(real, self.table(batch.items), 0)
    means = self.layer(vectors[batch.slots].mean(axis=1))
    scores = jnp.where(real.T, means @ vectors.T + self.bias(batch.items).T, -1e9)
    newest = batch.slots[:, -1]
    each = -jax.nn.log_softmax(scores, axis=-1)[jnp.arange(len(means)), newest]
    return jnp.where(newest > 0, each, 0).sum() / (newest > 0).sum()


_many = functools.partial(_Means, items=_MANY)


def _spec(config, *, ema=0.0, lazily=True, make_model=_Means, lanes=0):
  lazy = None
  if lazily:
    decay = functools.partial(average_decay, ema)
    lazy = LazyTables(config, _STEPS, steps_per_epoch=_EPOCH, average_decay=decay)
  optimizer, mesh = make_optimizer(config, _STEPS), make_mesh(jax.devices()[:1])
  spec = state_spec(make_model, optimizer, mesh, seed=3, averaged=ema > 0, lazy=lazy, lanes=lanes)
  return spec, make_train_steps(spec, optimizer, mesh, seed=3, ema_decay=ema)


def _trained(config, batches, *, ema=0.0, group=4, settled=True):
  """The state after some steps, and their losses."""
  spec, train = _spec(config, ema=ema)
  settle = make_settle(spec)
  state, losses = spec.create(), []
  for first in range(0, _STEPS, group):
    state, found = train(state, batches.stack(first, group, group), group)
    losses += list(np.asarray(found))
    if (first + group) % _EPOCH == 0 and (settled or first + group < _STEPS):
      state = settle(state)
  return state, losses


def _stated(config, batches, *, ema=0.0):
  """The same of whole gradients and updates of every row."""
  optimizer = make_optimizer(config, _STEPS)
  graphdef, params, rest = nnx.split(_Means(nnx.Rngs(3)), nnx.Param, ...)
  average = params

  @jax.jit
  def step(params, optimizer_state, average, batch, n):
    loss, gradients = jax.value_and_grad(lambda params: nnx.merge(graphdef, params, rest).loss(batch))(params)
    updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
    params = optax.apply_updates(params, updates)
    kept = average_decay(ema, n)
    return params, optimizer_state, jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, average, params), loss

  optimizer_state, losses = optimizer.init(params), []
  for n in range(_STEPS):
    params, optimizer_state, average, loss = step(params, optimizer_state, average, batches.batch(n), n)
    losses.append(float(loss))
  return params, average, losses


# Momentum in its three forms, and what has none.
_OPTIMIZERS = {
  "lazy_adamw": {},
  "lazy_adamw, b1 = .99": {"b1": 0.99},
  "lazy_adamw, no momentum": {"b1": 0.0},
  "sgd": {"item_tables_lr": 0.3},
  "adagrad": {"item_tables_lr": 0.05},
}
_FALLING = {"schedule": "cosine", "warmup_steps": 3, "clip_norm": 0.05}


@pytest.mark.parametrize(
  ("name", "schedule", "ema"),
  [("lazy_adamw", {}, 0.0), *((name, _FALLING, _EMA) for name in _OPTIMIZERS)],
  ids=["plain", *_OPTIMIZERS],
)
def test_rows_that_steps_do_not_read_end_as_if_each_had_moved_them(batches, name, schedule, ema):
  config = _config(item_tables=name.split(",")[0], **_OPTIMIZERS[name], **schedule)
  state, losses = _trained(config, batches, ema=ema)
  params, average, wanted = _stated(config, batches, ema=ema)
  np.testing.assert_allclose(losses, wanted, rtol=2e-5)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  jax.tree.map(close, state.params, params)
  if ema:
    jax.tree.map(close, state.average, average)


@pytest.mark.parametrize("name", ["adamw", "lazy_adamw", "sgd", "adagrad"])
def test_tables_in_lines_train_as_tables_do(batches, name):
  """Lines of eight numbers, of two rows of the table and eight of the biases, the last of which are nobody's."""
  config, found = _config(item_tables=name, **_FALLING), []
  for lanes in (0, 8):
    spec, train = _spec(config, ema=_EMA, lazily=name != "adamw", lanes=lanes)
    settle = make_settle(spec)
    state, losses = spec.lines.laid(spec.create()), []
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, spec.in_training)
    for first in range(0, _STEPS, 4):
      state, of_steps = train(state, batches.stack(first, 4, 4), 4)
      losses += list(np.asarray(of_steps))
      if (first + 4) % _EPOCH == 0:
        state = settle(state)
    assert {leaf.shape[1] for leaf in jax.tree.leaves(state.params) if len(leaf) > 4} == ({8} if lanes else {1, 4})
    state = spec.lines.taken(state)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, spec.abstract)
    found.append((losses, state))
  (losses, one), (of_lines, other) = found
  np.testing.assert_allclose(losses, of_lines, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def test_rows_are_behind_until_they_are_read_or_settled(batches):
  """That what the other tests compare is made up for, and not small enough to be missed."""
  config = _config(item_tables="lazy_adamw")
  state, _ = _trained(config, batches, settled=False)
  settled, _ = _trained(config, batches)
  current = np.asarray(state.clock.current)
  assert current.min() == _EPOCH, "all were settled there"
  assert current.max() == _STEPS
  assert (np.asarray(settled.clock.current) == _STEPS).all()
  moved = np.abs(_table(settled.params) - _table(state.params)).max(axis=1)
  assert moved[current < _STEPS].min() > 1e-4
  np.testing.assert_allclose(moved[current == _STEPS], 0, atol=1e-7)


def test_one_step_a_dispatch_is_the_same(batches):
  config = _config(item_tables="lazy_adamw")
  for one, four in zip(*(jax.tree.leaves(_trained(config, batches, group=group)[0]) for group in (1, 4))):
    np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-5)


def _sasrec(rngs):
  options = {"name": "sasrec", "blocks": 1, "heads": 1}
  return models.create("sequential", num_items=_MANY, dim=4, user=options, rngs=rngs)


def _whole_table_work(name, batches, group, make_model):
  """What the compiled step makes with a row for each item, but for rows set in place; and what it needs of memory.

  The latter beside its state, and in tables.
  """
  spec, train = _spec(_config(item_tables=name), ema=_EMA, lazily=name != "adamw", make_model=make_model)
  compiled = train.lower(spec.abstract, batches.stack(0, group, group), group).compile()
  made = re.findall(rf"= \(?\w+\[{_MANY + 1}(?:,\d+)*\]\S* ([\w-]+)\(", compiled.as_text())
  in_place = {"parameter", "get-tuple-element", "scatter", "dynamic-update-slice", "fusion", "bitcast"}
  memory = compiled.memory_analysis()
  beside = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
  return set(made) - in_place, beside / (4 * 4 * _MANY)


@pytest.mark.parametrize(
  ("name", "group", "make_model"),
  [("lazy_adamw", 4, _sasrec), ("lazy_adamw", 1, _many), ("sgd", 4, _many), ("adagrad", 4, _many)],
)
def test_no_part_of_a_step_makes_what_has_a_row_for_each_item(batches, name, group, make_model):
  work, beside = _whole_table_work(name, batches, group, make_model)
  assert work == set()
  assert beside < 0.5


def test_a_dense_step_is_told_apart_from_a_lazy_one(batches):
  work, _ = _whole_table_work("adamw", batches, 4, _many)
  assert {"multiply", "sqrt"} <= work


def test_the_paddings_row_is_set_once_whatever_fills_up_columns(batches):
  """Filler columns repeat it: were they set too, which of them is last would not be told."""
  items, size = jnp.array([0, 7, 3, 0, 0]), 8
  places = np.asarray(lazy_tables.places(items, size))
  assert places[:3].tolist() == [0, 7, 3]
  assert len(set(places.tolist())) == len(places)
  assert (places[3:] >= size).all()


@pytest.mark.slow
def test_a_lazy_run_is_resumed_bit_for_bit(run_tiny, tmp_path):
  settings = {"train.ema_decay": 0.9, "train.epochs": 2, "optimizer.item_tables": "lazy_adamw"}
  run_tiny(tmp_path / "whole", **settings)
  run_to_the_end(run_tiny, tmp_path / "run", stop=StopAt(2), stops=1, **settings)
  assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_lazy_run_scores_as_a_dense_one(run_tiny, finished, tmp_path):
  run_tiny(tmp_path / "lazy", **{"optimizer.item_tables": "lazy_adamw"})
  lazy, dense = (read_json(workdir / "result.json") for workdir in (tmp_path / "lazy", finished))
  for split in ("valid", "test"):
    for metric in ("hr@10", "ndcg@10", "mrr"):
      assert lazy[split][metric] == pytest.approx(dense[split][metric], abs=0.01), (split, metric)


def test_a_model_without_such_a_table_refuses(run_tiny, tmp_path):
  with pytest.raises(ConfigError, match=r"config\.optimizer\.item_tables = 'sgd': lightgcn has no table"):
    run_tiny(tmp_path, model={"name": "lightgcn", "dim": 8}, **{"optimizer.item_tables": "sgd"})


def _table(params):
  return np.asarray(params["table"]["embedding"][...])
