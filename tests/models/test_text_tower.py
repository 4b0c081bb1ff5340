"""The text tower's head, and what it reads."""

import math

from flax import nnx
import numpy as np
import pytest

from mlrec.content.base import Need
from mlrec.models.layers.context import Context
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import OptionError

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
  wanted = x @ np.asarray(model.projection.kernel[...]) + np.asarray(model.projection.bias[...])
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
    ({"mode": "tpo"}, r"^mode = 'tpo': did you mean 'top'"),
    ({"mode": "scratch"}, r"^mode = 'scratch' starts at random: it takes no weights"),
    ({"weights": ""}, r"^weights is empty, and the mode 'frozen' needs it: a file, or 'random'"),
    ({"accumulate": 0}, r"^accumulate = 0 must be at least 1 part"),
    ({"frozen_in_training": True}, r"^frozen_in_training = True changes vectors .* cache = False"),
    ({"train_from": "blocks.0"}, r"^train_from = 'blocks.0' is for the mode 'top', not 'frozen'"),
    ({"mode": "top", "train_from": "encoder.layer.7"}, r"^train_from = 'encoder.layer.7': did you mean"),
    ({"options": _SIZES | {"heads": 3}}, r"^options.dim = 8 must be a multiple of heads = 3"),
    ({"options": _SIZES | {"head": 2}}, r"^options.head = 2: 'bert_tiny' has no such option; did you mean 'heads'"),
    ({"options": _SIZES | {"depth": "1"}}, r"^options.depth = '1' must be an integer"),
    ({"options": 3}, r"^options = 3 must be a section of options"),
    ({"lower": "no"}, r"^lower = 'no' must be True or False or None"),
    ({"tokeniser": "x"}, r"^tokeniser = 'x': 'text' has no such option; did you mean 'tokenizer'"),
    ({"encoder": "vit_s"}, r"^encoder = 'vit_s': there is no such text encoder"),
  ],
)
def test_a_tower_that_cannot_be_built_is_refused(options, message):
  with pytest.raises(OptionError, match=message):
    tower(**options)
