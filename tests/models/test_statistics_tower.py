"""The tower over ages and counts."""

import math

from flax import nnx
import numpy as np
import pytest

from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import OptionError

_AGES = np.linspace(-2, 2, 7).astype(np.float32)
_COUNTS = np.array([0, 5, 1, 0, 9, 2, 3])


def tower(**options):
  options = {"train_counts": _COUNTS, "item_ages": _AGES, "hidden": 3, "bumps": 4} | options
  return models.create("statistics", 6, 5, kind=ITEM_TOWER, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("counted", [True, False])
def test_an_item_is_what_its_age_and_its_count_give(counted):
  model = tower(counted=counted)
  items = np.array([4, 1, 0])
  ages = _AGES[items].astype(np.float64)[:, None]
  # Centres at -3, -1, 1 and 3.
  parts = [ages, np.exp(-(((ages - np.array([-3, -1, 1, 3])) / 2) ** 2) / 2)]
  parts += [np.log1p(_COUNTS[items])[:, None]] if counted else []
  x = np.concatenate(parts, axis=1) @ np.asarray(model.mlp.up.kernel[...]) + np.asarray(model.mlp.up.bias[...])
  x = x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
  wanted = x @ np.asarray(model.mlp.down.kernel[...]) + np.asarray(model.mlp.down.bias[...])
  np.testing.assert_allclose(model(items), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"item_ages": None}, r"^name = 'statistics' needs the training rows, which this recommender does not hand on"),
    ({"hidden": 0}, "hidden = 0 must be at least 1"),
    ({"bumps": 1}, r"^bumps = 1 must be at least 2"),
  ],
)
def test_a_tower_that_cannot_be_built_is_refused(options, message):
  with pytest.raises(OptionError, match=message):
    tower(**options)


def test_ages_and_counts_of_other_items_are_refused():
  with pytest.raises(ValueError, match="5 ages and 7 counts of 6 items"):
    tower(item_ages=_AGES[:5])
