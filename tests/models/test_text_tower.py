"""The text tower's head, and what it reads."""

import math

from flax import nnx
import numpy as np
import pytest

from mlrec.data.content import Need
from mlrec.models.layers.context import Context
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models

_SIZES = {"dim": 8, "depth": 1, "heads": 2, "hidden": 16, "vocabulary": 20, "positions": 8}


def tower(**options):
  options = {"encoder": "bert_tiny", "mode": "frozen", "weights": "random", "options": _SIZES} | options
  return models.create("text", 9, 4, kind=ITEM_TOWER, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("hidden", [0, 6])
def test_kept_vectors_pass_a_layer_where_asked_and_the_projection(hidden):
  model = tower(hidden=hidden, dropout=0.5)
  assert model.reads == {"features": Need((8,), "float32")}
  features = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
  x = features.astype(np.float64)
  if hidden:
    x = x @ np.asarray(model.hidden.kernel[...]) + np.asarray(model.hidden.bias[...])
    x = x / 2 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
  wanted = x @ np.asarray(model.output.kernel[...]) + np.asarray(model.output.bias[...])
  items = np.arange(3)
  np.testing.assert_allclose(model(items, {"features": features}), wanted, rtol=1e-4, atol=1e-6)
  # Only the layer's output is dropped.
  trained = model(items, {"features": features}, Context(True, nnx.Rngs(dropout=0)))
  assert np.allclose(trained, wanted, rtol=1e-4, atol=1e-6) == (hidden == 0)


def test_where_the_tokenizer_lies_is_no_part_of_what_vectors_depend_on():
  one, other = tower(tokenizer="here").frozen, tower(tokenizer="there").frozen
  assert one.stated() == other.stated()
  assert one.stated() != tower(length=7).frozen.stated()


def test_titles_are_read_where_the_encoder_runs():
  assert tower(mode="full", length=7).reads == {"title": Need((2, 7), "int32")}
  assert tower(mode="full").reads == {"title": Need((2, 30), "int32")}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"length": -1}, "length = -1 must be at least 1"),
    ({"hidden": -1}, "hidden = -1 must be at least 0"),
    ({"encoder": "vit_s"}, "unknown text encoder 'vit_s'"),
  ],
)
def test_a_tower_that_cannot_be_built_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    tower(**options)
