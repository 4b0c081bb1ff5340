"""Item towers over ready vectors against plain statements of their layers."""

import math

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.models.layers.context import Context
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import OptionError

_ITEMS, _WIDTH = 12, 5
_FEATURES = np.random.default_rng(5).normal(size=(_ITEMS + 1, _WIDTH)).astype(np.float32)
_FEATURES[0] = 0


def _array(x):
  return np.asarray(x, np.float64)


def _tower(name, dim=6, **options):
  return models.create(name, _ITEMS, dim, kind=ITEM_TOWER, feature_dim=_WIDTH, rngs=nnx.Rngs(0), **options)


def _call(tower, items, context=None):
  items = jnp.asarray(items)
  content = {"features": jnp.asarray(_FEATURES)[items]}
  return np.asarray(tower(items, content, *(() if context is None else (context,))))


def _gelu(x):
  return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


@pytest.mark.parametrize(("activation", "hidden"), [("none", 0), ("gelu", 0), ("none", 7)])
def test_the_feature_tower_is_its_layers(activation, hidden):
  tower = _tower("features", activation=activation, hidden=hidden, dnn_layers=2)
  x = _array(_FEATURES)
  if hidden:
    x = _gelu(x @ _array(tower.hidden.kernel[...]) + _array(tower.hidden.bias[...]))
    assert x.shape[1] == hidden
  x = x @ _array(tower.projection.kernel[...]) + _array(tower.projection.bias[...])
  x = _gelu(x) if activation == "gelu" else x
  for layer in tower.layers:
    x = _gelu(x @ _array(layer.kernel[...]) + _array(layer.bias[...]))
  np.testing.assert_allclose(_call(tower, range(_ITEMS + 1)), x, rtol=1e-4, atol=1e-6)
  training = Context(True, nnx.Rngs(dropout=0), None)
  assert not np.allclose(_call(tower, range(_ITEMS + 1), training), x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_ids_and_vectors_are_put_side_by_side_or_added(fusion):
  tower = _tower("id_features", fusion=fusion)
  ids = _array(tower.ids.table.embedding[...])
  projected = _FEATURES @ _array(tower.projection.kernel[...])
  wanted = np.concatenate([ids, projected], axis=1) if fusion == "concat" else ids + projected
  np.testing.assert_allclose(_call(tower, range(_ITEMS + 1)), wanted, rtol=1e-5, atol=1e-6)
  assert wanted.shape == (_ITEMS + 1, 6)


def test_id_dropout_leaves_out_whole_ids_and_keeps_their_mean():
  tower = _tower("id_features", id_dropout=0.5)
  items = np.tile(np.arange(_ITEMS + 1), 200)
  ids = _call(tower, items)[:, :3]
  found = _call(tower, items, Context(True, nnx.Rngs(dropout=0), None))
  np.testing.assert_array_equal(found[:, 3:], _call(tower, items)[:, 3:])
  dropped = ~found[:, :3].any(axis=1)
  np.testing.assert_allclose(found[~dropped & (items > 0), :3], 2 * ids[~dropped & (items > 0)], rtol=1e-6)
  assert dropped[items > 0].mean() == pytest.approx(0.5, abs=0.05)
  np.testing.assert_array_equal(found[items == 0, :3], ids[items == 0])


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("features", {"activation": "glu"}, r"^activation = 'glu': did you mean 'gelu'"),
    ("features", {"dnn_layers": -1}, "dnn_layers = -1 must be at least 0"),
    ("id_features", {"fusion": "add"}, r"^fusion = 'add': expected one of 'concat', 'sum'"),
    ("id_features", {"dim": 5}, r"^fusion = 'concat' gives ID and vector half of the width each, and 5 is odd"),
    ("id_features", {"id_dropout": 1.0}, r"^id_dropout = 1\.0 must be at least 0 and below 1"),
    ("features", {"dropout": 1.0}, r"^dropout = 1\.0 must be at least 0 and below 1"),
    ("features", {"hidden": -1}, r"^hidden = -1 must be at least 0"),
    ("features", {"hidden": 2.5}, r"^hidden = 2\.5 must be an integer"),
  ],
)
def test_a_tower_that_cannot_be_built_is_refused_by_name(name, options, message):
  with pytest.raises(OptionError, match=message):
    _tower(name, **options)


@pytest.mark.parametrize("name", ["features", "id_features"])
def test_a_tower_of_vectors_needs_some(name):
  with pytest.raises(DataError, match=f"config.data.features is empty, and the item tower '{name}' reads vectors"):
    models.create(name, _ITEMS, 6, kind=ITEM_TOWER, rngs=nnx.Rngs(0))
