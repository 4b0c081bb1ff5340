from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlrec import models
from mlrec.config import default_config
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.models.layers.tables import item_tables
from mlrec.models.layers.tables import ItemTable
from mlrec.train.optimizer import make_optimizer
from mlrec.train.sharding import make_mesh
from mlrec.train.state import make_train_steps
from mlrec.train.state import state_spec
from support import tiny_encoders as tiny


@pytest.fixture
def optimizer():
  config = default_config().optimizer
  config.lr = 1e-2
  return make_optimizer(config, 100)


@pytest.mark.parametrize("user", ["sasrec", pytest.param("gru4rec", marks=pytest.mark.slow)])
def test_steps_are_those_of_whole_gradients(pairs_file, optimizer, user):
  """Item tables are read and differentiated by the batch's rows alone: that must not show in any parameter."""

  tiny_split = leave_one_out(read_pairs(pairs_file))

  def make_model(rngs):
    options = {"name": user, "dropout": 0.0, "blocks": 1}
    return models.create("sequential", num_items=tiny_split.num_items, dim=8, user=options, rngs=rngs)

  mesh = make_mesh(jax.devices()[:1])
  spec = state_spec(make_model, optimizer, mesh, seed=3)
  layout = Layout.of(tiny_split.max_length, packed=user == "sasrec")
  batches = TrainBatches(tiny_split, layout, batch_size=32, seed=0)
  state, losses = make_train_steps(spec, optimizer, mesh, seed=3)(spec.create(), batches.stack(0, 4, 4), 4)

  graphdef, params, rest = nnx.split(tiny.fresh(lambda: make_model(nnx.Rngs(3))), nnx.Param, ...)

  @jax.jit
  def step(params, optimizer_state, batch):
    value, gradients = jax.value_and_grad(lambda params: nnx.merge(graphdef, params, rest).loss(batch))(params)
    updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state, value

  optimizer_state, wanted = optimizer.init(params), []
  for n in range(4):
    params, optimizer_state, value = step(params, optimizer_state, batches.batch(n))
    wanted.append(float(value))
  np.testing.assert_allclose(losses, wanted, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.params, params)


def test_item_tables_are_found_wherever_they_are():
  model = models.create("sequential", num_items=5, dim=4, user={"name": "sasrec", "heads": 1}, rngs=nnx.Rngs(0))
  names = {
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, _ in jax.tree_util.tree_flatten_with_path(nnx.state(model, nnx.Param))[0]
  }
  ((name, table),) = item_tables(model)
  assert name in names
  assert table is model.items.table


def test_a_gathered_table_refuses_ids_that_are_not_the_batchs():
  table = ItemTable(6, 4, rngs=nnx.Rngs(0))
  whole = table(jnp.array([3, 5]))
  np.testing.assert_array_equal(whole, table.embedding[...][jnp.array([3, 5])])
  table.gathered = True
  with pytest.raises(ValueError, match=r"the batch's 6 items"):
    table(jnp.array([3, 5]))
