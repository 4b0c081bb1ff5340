import re

import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.text.modernbert import VARIANTS
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import OptionError
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_TINY = {"dim": 32, "depth": 4, "heads": 4, "hidden": 24, "vocabulary": 50, "window": 4}
_HEADS = {"head.dense.weight", "head.norm.weight", "decoder.weight", "decoder.bias"}


def _built(**options):
  return tiny.zeros("modernbert_base", **_TINY | options)


@pytest.fixture(scope="module")
def loaded(golden):
  """Builds a small net of the golden parameters."""
  arrays = golden("text_modernbert_tiny")
  return lambda **options: tiny.golden(_built(**options), arrays)


@pytest.fixture(scope="module")
def titles(golden):
  return golden("text_modernbert_tiny")["titles"]


@pytest.mark.parametrize("feature", ["mean", pytest.param("cls", marks=pytest.mark.slow)])
def test_golden_output(golden, loaded, titles, feature):
  output = tiny.run(loaded(feature=feature), titles)
  assert output.dtype == np.float32
  tiny.assert_near(output, golden("text_modernbert_tiny")[feature], 1e-5)


def test_the_golden_output_needs_the_window_and_its_own_frequencies(golden, loaded, titles):
  wanted = golden("text_modernbert_tiny")["mean"]
  output = tiny.run(loaded(window=6, local_base=160_000.0), titles)
  assert np.abs(output - wanted).max() > 1e-3 * np.abs(wanted).max()


def test_padding_has_no_effect_and_no_title_is_finite(loaded, titles):
  model = loaded()
  padded = np.pad(titles, ((0, 0), (0, 0), (0, 3)))
  padded[:, 0] = np.where(padded[:, 1], padded[:, 0], 17)
  np.testing.assert_allclose(tiny.run(model, padded), tiny.run(model, titles), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(tiny.run(model, np.zeros_like(titles)), 0)


@pytest.mark.parametrize("name", ["modernbert_base", pytest.param("modernbert_large", marks=pytest.mark.slow)])
def test_names_and_shapes_are_the_published_ones(golden_path, name):
  published = tiny.published(golden_path / "keys" / f"{name}.txt")
  wanted = {key.removeprefix("model."): shape for key, shape in published.items()}
  model = tiny.full_size(name)
  shapes = tiny.shapes(model)
  assert set(wanted) - set(shapes) == _HEADS
  assert shapes == {key: shape for key, shape in wanted.items() if key not in _HEADS}
  starts = checks.stage_starts(model.stages, [key for key in wanted if key not in _HEADS])
  assert starts["embeddings"] == 0
  assert {model.spec.top, model.spec.half} < set(model.stages)
  assert (model.spec.vocabulary, model.spec.features) == wanted["embeddings.tok_embeddings.weight"]


def test_every_row_of_the_table_is_named():
  for name, (spec, options) in VARIANTS.items():
    assert name in models.names(TEXT_ENCODER)
    assert (spec.licence, spec.length) == ("Apache-2.0", 30)
    assert ("unit_length" in options) == name.startswith("gte")


def test_what_is_loaded_comes_back_with_the_heads_of_the_pre_training_or_without():
  model = _built()
  checks.assert_comes_back(model)
  arrays = to_torch(model)
  file = {f"model.{key}": value for key, value in arrays.items()} | {key: np.zeros(3) for key in _HEADS}
  load_torch(_built(), file)
  checks.assert_misfits_are_named(model, "layers.1.mlp.Wi.weight", unused="layers.0.attn_norm.weight")


def test_gradients_stop_at_the_first_trained_stage(loaded, titles):
  checks.assert_gradients_stop(loaded(), titles, first_trained=3)


def test_half_precision_is_near_the_exact_output(titles):
  checks.assert_near_in_half_precision(lambda **options: tiny.filled(_built(**options)), titles)


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ({"depth": 0}, "depth = 0 must be at least 1"),
    ({"heads": 3}, "dim = 32 must give each of heads = 3"),
    ({"window": 1}, "window = 1 must be at least 2"),
    ({"feature": "means"}, "feature = 'means': did you mean 'mean'"),
  ],
)
def test_options_that_cannot_be_are_refused(option, message):
  with pytest.raises(OptionError, match=re.escape(message)):
    _built(**option)
