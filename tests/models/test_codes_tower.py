"""The tower over codes: rows of codes, or of their prefixes, alone and beside IDs."""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import OptionError

# Items 1 and 2 are told apart by their last codes alone; 1 and 4 share the second code, not the first.
_CODES = np.array([[-1, -1, -1], [0, 1, 0], [0, 1, 1], [0, 2, 0], [1, 1, 0]], np.int32)


def _tower(name="codes", **options):
  options = {"codes": _CODES} | options if name == "codes" else options
  return models.create(name, 4, 6, kind=ITEM_TOWER, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("combination", ["sum", "concat"])
@pytest.mark.parametrize("prefixes", [False, True])
def test_an_item_is_what_the_rows_of_its_codes_come_to(combination, prefixes):
  model = _tower(combination=combination, prefixes=prefixes)
  table = np.asarray(model.embedding.table[...])
  # The second level's rows follow the two of the first: a row for each code, or for (0, 1), (0, 2) and (1, 1).
  rows = {1: [0, 2], 2: [0, 2], 3: [0, 3], 4: [1, 4]} if prefixes else {1: [0, 3], 2: [0, 3], 3: [0, 4], 4: [1, 3]}
  assert len(table) == 5
  found = np.asarray(model(jnp.array([4, 0, 1, 2, 3])))
  for item, vector in zip((4, 1, 2, 3), found[[0, 2, 3, 4]]):
    parts = table[rows[item]]
    wanted = parts.sum(0) if combination == "sum" else parts.ravel() @ np.asarray(model.projection.kernel[...])
    np.testing.assert_allclose(vector, wanted, rtol=1e-5, atol=1e-6)
  assert not found[1].any(), "the padding has no codes"


def test_codes_stand_beside_ids_in_a_fused_tower():
  towers = {"id": {"name": "id"}, "code": {"name": "codes", "prefixes": True}}
  counts = np.array([0, 3, 0, 2, 1])
  model = _tower("fused", towers=towers, norm="none", item_data={"codes": _CODES, "train_counts": counts})
  items = jnp.arange(5)
  ids, code = model.towers["id"](items), model.towers["code"](items)
  # Of an item that training never names there is no ID.
  wanted = np.where((counts > 0)[:, None] | (np.arange(5) == 0)[:, None], ids, 0) + code
  np.testing.assert_allclose(model(items), wanted, rtol=1e-5, atol=1e-6)
  assert np.abs(model(items)[2]).max() > 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"codes": None}, r"^name = 'codes' needs codes of the items"),
    ({"combination": "add"}, r"^combination = 'add': expected one of 'concat', 'sum'"),
    ({"dropout": 1.0}, r"^dropout = 1\.0 must be at least 0 and below 1"),
  ],
)
def test_a_tower_that_cannot_be_built_is_refused(options, message):
  with pytest.raises(OptionError, match=message):
    _tower(**options)


def test_codes_of_other_items_are_refused():
  with pytest.raises(ValueError, match=r"codes \(4, 3\) of 4 items"):
    _tower(codes=_CODES[:4])
