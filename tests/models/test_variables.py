"""What variables say of themselves, through splitting, tracing and merging."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.layers import variables
from mlrec.models.layers.tables import item_tables
from mlrec.models.layers.tables import ItemTable
from mlrec.models.layers.tables import UserTable
from mlrec.models.layers.variables import DataArray
from mlrec.models.layers.variables import ENCODER
from mlrec.models.layers.variables import freeze
from mlrec.models.layers.variables import Frozen
from mlrec.models.layers.variables import ITEMS
from mlrec.models.layers.variables import USERS


class _Net(nnx.Module):
  def __init__(self, *, rngs: nnx.Rngs):
    self.encoder = nnx.Linear(2, 3, rngs=rngs)
    self.head = nnx.Linear(3, 2, rngs=rngs)
    self.items, self.users = ItemTable(5, 2, rngs=rngs), UserTable(4, 2, rngs=rngs)
    self.rows = variables.rows_of_items(jnp.ones((5, 2)))
    self.tastes = variables.rows_of_users(jnp.ones((4, 2)))
    self.ages = DataArray(jnp.arange(5.0))
    variables.put_in_group(self.encoder, ENCODER)


_GROUPS = {"encoder.kernel.value": ENCODER, "encoder.bias.value": ENCODER}
_OWNERS = {
  "items.embedding.value": ITEMS, "users.embedding.value": USERS, "rows.value": ITEMS, "tastes.value": USERS,
}  # fmt: skip


@pytest.fixture
def net() -> _Net:
  return _Net(rngs=nnx.Rngs(0))


def _params(model):
  return nnx.state(model, nnx.Param)


def test_parameters_say_their_group_and_whose_rows_they_hold(net):
  assert variables.groups(_params(net)) == _GROUPS
  assert variables.row_owners(_params(net)) == _OWNERS


def test_names_are_those_that_keystr_writes(net):
  names = {
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, _ in jax.tree_util.tree_leaves_with_path(_params(net))
  }
  assert _GROUPS.keys() | _OWNERS.keys() < names
  assert names - _GROUPS.keys() - _OWNERS.keys() == {"head.kernel.value", "head.bias.value"}


def test_what_they_say_survives_shapes_tracing_updates_and_merging(net):
  def said(params):
    return variables.groups(params), variables.row_owners(params)

  wanted = (_GROUPS, _OWNERS)
  shapes = nnx.eval_shape(lambda: _Net(rngs=nnx.Rngs(0)))
  graphdef, params, rest = nnx.split(shapes, nnx.Param, ...)
  assert said(params) == wanted
  assert said(_params(nnx.merge(graphdef, params, rest))) == wanted
  seen = []

  @jax.jit
  def traced(params):
    seen.append(said(params))
    return jax.tree.map(lambda x: x + 1, params)

  assert said(traced(_params(net))) == wanted
  assert seen == [wanted]
  model = nnx.clone(net)
  nnx.update(model, traced(_params(net)))
  assert said(_params(model)) == wanted
  gradients = jax.grad(lambda params: sum(jnp.sum(x) for x in jax.tree.leaves(params)))(_params(net))
  assert said(gradients) == wanted


def test_a_later_group_takes_the_place_of_an_earlier_one(net):
  variables.put_in_group(net, variables.HEAD)
  assert set(variables.groups(_params(net)).values()) == {variables.HEAD}


def test_plain_trees_say_nothing():
  assert variables.groups({"a": jnp.ones(2)}) == variables.row_owners({"a": jnp.ones(2)}) == {}


def test_frozen_parameters_keep_their_values_and_their_rows_and_are_no_parameters(net):
  kernel, table = np.asarray(net.encoder.kernel[...]), np.asarray(net.items.embedding[...])
  freeze(net, [("encoder", "kernel"), ("items", "embedding"), ("ages",)])
  assert isinstance(net.encoder.kernel, Frozen)
  assert isinstance(net.ages, DataArray), "what is no parameter stays what it is"
  np.testing.assert_array_equal(net.encoder.kernel[...], kernel)
  np.testing.assert_array_equal(net.items.embedding[...], table)
  assert variables.groups(_params(net)) == {"encoder.bias.value": ENCODER}
  frozen = nnx.state(net, Frozen)
  assert variables.row_owners(frozen) == {"items.embedding.value": ITEMS}
  assert variables.groups(frozen) == {}
  assert variables.row_owners(_params(net)).keys() == _OWNERS.keys() - {"items.embedding.value"}


def test_the_kinds_of_variables_are_apart(net):
  freeze(net, [("head", "kernel")])
  _, params, frozen, data = nnx.split(net, nnx.Param, Frozen, DataArray)
  assert [".".join(map(str, path)) for path, _ in nnx.to_flat_state(frozen)] == ["head.kernel"]
  assert [".".join(map(str, path)) for path, _ in nnx.to_flat_state(data)] == ["ages"]
  assert not {"head.kernel.value", "ages.value"} & {
    jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree_util.tree_leaves_with_path(params)
  }


def test_item_tables_are_found_under_the_names_of_their_parameters(net):
  found = dict(item_tables(net))
  assert found == {"items.embedding.value": net.items}
  assert found.keys() <= {
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, _ in jax.tree_util.tree_leaves_with_path(_params(net))
  }


def test_an_item_table_reads_rows_or_is_given_them(net):
  table = np.asarray(net.items.embedding[...])
  np.testing.assert_array_equal(net.items(jnp.array([[3, 0], [99, 1]])), table[[[3, 0], [4, 1]]])
  net.items.gathered = True
  np.testing.assert_array_equal(net.items(jnp.arange(5)), table)
  with pytest.raises(ValueError, match=r"reads the batch's 5 items in training, not ids \(2,\)"):
    net.items(jnp.arange(2))
