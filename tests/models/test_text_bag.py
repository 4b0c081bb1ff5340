from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.layers.context import Context
from mlrec.registry import OptionError
from support import encoder_checks as checks

_TITLES = np.array([
  [[5, 6, 7, 0], [1, 1, 1, 0]],
  [[9, 0, 0, 0], [1, 0, 0, 0]],
  [[6, 5, 7, 0], [1, 1, 1, 0]],
], np.int32)  # fmt: skip


def _bag(**options):
  model = models.create("bag_of_tokens", dim=8, vocabulary=12, **options, rngs=nnx.Rngs(0))
  emphasis = np.random.default_rng(0).normal(size=model.emphasis.shape)
  model.emphasis[...] = jnp.asarray(emphasis, jnp.float32)
  return model


def _stated(model, terms):
  """Softmax weights and mean of one title's terms, in float64, then the norm."""
  table, emphasis = np.asarray(model.embeddings.embedding[...], np.float64), np.asarray(model.emphasis[...], np.float64)
  weights = np.exp(emphasis[terms])
  mean = (weights / weights.sum()) @ table[terms]
  return (mean - mean.mean()) / np.sqrt(mean.var() + 1e-6)


def test_output_is_the_normalised_weighted_mean_of_the_tokens():
  model = _bag()
  output = np.asarray(model(_TITLES))
  assert output.dtype == np.float32
  for row, terms in enumerate(([5, 6, 7], [9], [6, 5, 7])):
    np.testing.assert_allclose(output[row], _stated(model, terms), atol=1e-5)
  np.testing.assert_allclose(output[0], output[2], atol=1e-6)


def test_bigrams_tell_orders_apart_and_weigh_in_as_terms():
  model = _bag(bigrams=1000)
  output = np.asarray(model(_TITLES))
  assert np.abs(output[0] - output[2]).max() > 0.1
  np.testing.assert_allclose(output[1], _stated(model, [9]), atol=1e-5)

  def bucket(first, second):
    return 12 + ((first * 2_654_435_761 + second * 2_246_822_519) % 2**32 >> 8) % 1000

  np.testing.assert_allclose(output[0], _stated(model, [5, 6, 7, bucket(5, 6), bucket(6, 7)]), atol=1e-5)


@pytest.mark.parametrize("bigrams", [0, 50])
def test_what_the_mask_leaves_out_has_no_effect(bigrams):
  model = _bag(bigrams=bigrams)
  padded = np.pad(_TITLES, ((0, 0), (0, 0), (0, 2)))
  padded[:, 0] = np.where(padded[:, 1], padded[:, 0], 3)
  np.testing.assert_allclose(model(padded), model(_TITLES), atol=1e-6)


def test_no_title_gives_finite_vectors_and_gradients():
  graphdef, params, rest = nnx.split(_bag(bigrams=50), nnx.Param, ...)

  def total(params):
    return jnp.sin(nnx.merge(graphdef, params, rest)(np.zeros((2, 2, 4), np.int32))).sum()

  gradients = jax.jit(jax.grad(total))(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_token_dropout_leaves_tokens_out_in_training_alone_and_never_all():
  model = _bag(token_dropout=0.5)
  plain = _bag()
  np.testing.assert_array_equal(model(_TITLES), plain(_TITLES))
  many = np.tile(_TITLES, (200, 1, 1))
  outputs = np.asarray(model(many, Context(True, nnx.Rngs(dropout=1)))).reshape(200, 3, 8)
  subsets = [_stated(model, terms) for terms in ([5], [6], [7], [5, 6], [5, 7], [6, 7], [5, 6, 7])]
  nearest = np.array([[np.abs(subset - row).max() for subset in subsets] for row in outputs[:, 0]])
  assert (nearest.min(1) < 1e-4).all()
  shares = np.bincount(nearest.argmin(1), minlength=7) / 200
  # All of three are kept with 1/8, or where none would be, with another 1/8.
  assert (shares[:6] > 0.05).all()
  assert shares[6] == pytest.approx(0.25, abs=0.1)
  np.testing.assert_allclose(outputs[:, 1], np.tile(outputs[0, 1], (200, 1)), atol=1e-6)


def test_it_starts_from_word_embeddings_without_their_mean():
  words = np.random.default_rng(1).normal(3, 1, (12, 8)).astype(np.float32)
  file = {"bert.embeddings.word_embeddings.weight": words, "bert.pooler.dense.weight": np.zeros((8, 8))}
  model = _bag(bigrams=5)
  buckets = np.asarray(model.embeddings.embedding[...])[12:]
  load_torch(model, file)
  np.testing.assert_allclose(model.embeddings.embedding[...][:12], words - words.mean(0), atol=1e-6)
  np.testing.assert_array_equal(model.embeddings.embedding[...][12:], buckets)
  assert (np.asarray(model.emphasis[...]) == 0).all()
  with pytest.raises(ValueError, match=r"has shape \(12, 7\); options\.dim of this encoder is 8"):
    load_torch(model, {"embeddings.word_embeddings.weight": words[:, :7]})


def test_what_is_loaded_comes_back():
  checks.assert_comes_back(_bag())


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"bigrams": -1}, "bigrams = -1 must be at least 0"),
    ({"vocabulary": 0}, "vocabulary = 0 must be at least 1"),
    ({"token_dropout": 1.0}, r"token_dropout = 1\.0 must be at least 0 and below 1"),
  ],
)
def test_options_out_of_range_are_refused(options, message):
  with pytest.raises(OptionError, match=message):
    models.create("bag_of_tokens", **options, rngs=nnx.Rngs(0))


def test_titles_of_another_shape_are_refused():
  with pytest.raises(ValueError, match=r"expected \[B, 2, L\]"):
    _bag()(np.zeros((2, 3, 4), np.int32))
