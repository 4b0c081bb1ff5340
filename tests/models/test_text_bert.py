import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.items.text.bert import VARIANTS
from mlrec.models.layers.context import Context
from mlrec.models.registry import TEXT_ENCODER
from support import encoder_checks as checks
from support import tiny_encoders as tiny

_TINY = {"dim": 32, "depth": 2, "heads": 4, "hidden": 48, "vocabulary": 50}
_POSITIONS = {"bert_tiny": 12, "roberta_base": 14}


def _built(name="bert_tiny", **options):
  return tiny.zeros(name, **_TINY | {"positions": _POSITIONS[name]} | options)


@pytest.fixture(scope="module")
def loaded(golden):
  """Builds a small net of the golden parameters."""
  arrays = golden("text_bert_tiny")
  return lambda **options: tiny.golden(_built(**options), arrays, "bert/sd/")


@pytest.fixture(scope="module")
def titles(golden):
  return golden("text_bert_tiny")["titles"]


@pytest.mark.parametrize(("name", "of"), [("bert_tiny", "bert"), ("roberta_base", "roberta")])
@pytest.mark.parametrize("feature", ["cls", "mean"])
def test_golden_output(golden, titles, name, of, feature):
  arrays = golden("text_bert_tiny")
  model = tiny.golden(_built(name, feature=feature), arrays, f"{of}/sd/")
  assert model.spec.features == 32
  output = tiny.run(model, titles)
  assert output.dtype == np.float32
  np.testing.assert_allclose(output, arrays[f"{of}/{feature}"], rtol=1e-4, atol=1e-5)


def test_unit_length_keeps_the_direction(golden, loaded, titles):
  wanted = golden("text_bert_tiny")["bert/mean"]
  wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
  np.testing.assert_allclose(tiny.run(loaded(feature="mean", unit_length=True), titles), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("feature", ["cls", "mean"])
def test_padding_has_no_effect(loaded, titles, feature):
  model = loaded(feature=feature)
  output = tiny.run(model, titles)
  padded = np.pad(titles, ((0, 0), (0, 0), (0, 3)))
  padded[:, 0] = np.where(padded[:, 1], padded[:, 0], 17)
  np.testing.assert_allclose(tiny.run(model, padded), output, rtol=1e-5, atol=1e-6)
  assert np.abs(output[0] - output[2]).max() > 0.1


@pytest.mark.parametrize("options", [{"feature": "cls"}, {"feature": "mean", "unit_length": True}])
def test_no_title_gives_finite_vectors_and_gradients(loaded, options):
  graphdef, params, rest = nnx.split(loaded(**options), nnx.Param, ...)
  empty = np.zeros((2, 2, 9), np.int32)

  def total(params):
    outputs = nnx.merge(graphdef, params, rest)(empty)
    return jnp.sin(outputs).sum(), outputs

  gradients, outputs = jax.jit(jax.grad(total, has_aux=True), compiler_options=tiny.QUICK)(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  if options["feature"] == "mean":
    assert (outputs == 0).all()
  else:
    # As a title of the one token 0, however long the row is.
    one = np.array([[[0], [1]]], np.int32)
    np.testing.assert_allclose(outputs, np.repeat(tiny.run(loaded(), one), 2, 0), rtol=1e-5, atol=1e-6)


def test_names_and_shapes_are_the_published_ones(golden_path):
  for name, file, prefix in (
    ("bert_base", "text-bert-base.txt", "text_encoders.bert_model."),
    ("minilm_l6", "minilm_l6.txt", ""),
    ("multilingual_minilm_l12", "multilingual_minilm_l12.txt", ""),
    ("roberta_base", "roberta_base.txt", ""),
  ):
    shapes = tiny.shapes(tiny.full_size(name))
    published = tiny.published(golden_path / "keys" / file, prefix)
    assert {key for key in published if key not in shapes} == {"pooler.dense.weight", "pooler.dense.bias"}
    assert shapes == {key: shape for key, shape in published.items() if key in shapes}, name


def test_the_projection_follows_under_the_benchmarks_name(golden_path):
  model = tiny.full_size("bert_base")
  published = tiny.published(golden_path / "keys" / "text-bert-base.txt", f"text_encoders.{model.projection_name}.")
  projection = nnx.eval_shape(lambda: model.make_projection(512, rngs=nnx.Rngs(0)))
  assert published == {"weight": projection.kernel.shape[::-1], "bias": projection.bias.shape}


def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path):
  parameters = tiny.published(golden_path / "keys" / "text-bert-base.params.txt", "text_encoders.bert_model.")
  # What the benchmark counts, its projection and the unused pooler included.
  assert checks.numbers(parameters) + 512 * 769 == 109_875_968
  model = tiny.full_size("bert_base")
  starts = checks.stage_starts(model.stages, [key for key in parameters if not key.startswith("pooler.")])
  assert starts[model.spec.top] == 165


def test_every_row_of_the_table_is_named_and_sized():
  widths = {"tiny": 128, "mini": 256, "small": 512, "medium": 512, "base": 768, "large": 1024}
  for name, (spec, options) in VARIANTS.items():
    assert name in models.names(TEXT_ENCODER)
    assert spec.licence
    assert spec.source
    assert spec.length == 30
    assert options["dim"] == widths.get(name.removeprefix("bert_"), 384 if "minilm" in name else 768)
  spec = nnx.eval_shape(lambda: models.create("chinese_roberta_wwm_ext", depth=1, rngs=nnx.Rngs(0))).spec
  assert (spec.vocabulary, spec.features, spec.top) == (21_128, 768, "encoder.layer.0")


def test_what_is_loaded_comes_back():
  checks.assert_comes_back(_built())


def test_missing_unused_and_misshapen_entries_are_named():
  key, unused = "encoder.layer.1.attention.self.key.weight", "encoder.layer.2.output.dense.bias"
  checks.assert_misfits_are_named(_built(), key, unused, (32, 16))


@pytest.mark.parametrize("prefix", ["bert.", "roberta."])
def test_files_of_whole_models_and_of_older_spelling_are_read(golden, prefix):
  arrays = tiny.under(golden("text_bert_tiny"), "bert/sd/")
  older = {"weight": "gamma", "bias": "beta"}
  file = {
    prefix + re.sub(r"(LayerNorm\.)(weight|bias)$", lambda match: match[1] + older[match[2]], key): value
    for key, value in arrays.items()
  }
  assert f"{prefix}embeddings.LayerNorm.gamma" in file
  file |= {f"{prefix}embeddings.position_ids": np.arange(12)[None], "cls.predictions.bias": np.zeros(50)}
  file |= {"lm_head.bias": np.zeros(50), "classifier.weight": np.zeros((2, 32))}
  fresh = _built()
  load_torch(fresh, file)
  checks.assert_holds(fresh, {key: value for key, value in arrays.items() if not key.startswith("pooler.")})
  with pytest.raises(ValueError, match=r"two spellings.*'embeddings\.LayerNorm\.weight' are there, but differ"):
    load_torch(fresh, file | {"embeddings.LayerNorm.weight": np.zeros(32)})


def _training():
  return Context(train=True, rngs=nnx.Rngs(dropout=0))


@pytest.mark.parametrize("first_trained", [0, 2])
def test_gradients_stop_at_the_first_trained_stage(loaded, titles, first_trained):
  model = loaded(feature="mean")
  # The softmax removes what a key's bias adds to all scores of a query.
  unmoved = {"least": 1e-5, "unreached": r"key\.bias$"}
  checks.assert_gradients_stop(model, titles, first_trained, context=_training, **unmoved)


def test_dropout_is_drawn_in_training_alone_and_by_option(titles):
  @functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
  def train(graphdef, state, key):
    return nnx.merge(graphdef, state)(titles, Context(train=True, rngs=nnx.Rngs(dropout=key)))

  def trained(seed, remat=False, **options):
    model = tiny.filled(_built(depth=1, **options))
    model.remat = remat
    return np.asarray(train(*nnx.split(model), jax.random.key(seed)))

  exact = trained(0, dropout=0.0, attention_dropout=0.0)
  for options in ({"dropout": 0.0}, {"attention_dropout": 0.0}):
    assert np.abs(trained(0, **options) - exact).max() > 0.01
  both = trained(0)
  np.testing.assert_array_equal(trained(0), both)
  assert (trained(1) != both).any()
  np.testing.assert_allclose(trained(0, remat=True), both, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(tiny.run(tiny.filled(_built(depth=1)), titles), exact, rtol=1e-5, atol=1e-6)


def test_half_precision_is_near_the_exact_output(loaded, titles):
  checks.assert_near_in_half_precision(functools.partial(loaded, feature="mean"), titles)


@pytest.mark.parametrize("shape", [(2, 9), (2, 3, 9), (2, 2, 0)])
def test_what_is_no_title_is_refused(shape):
  with pytest.raises(ValueError, match=r"expected \[B, 2, L\]"):
    _built()(np.zeros(shape, np.int32))


def test_titles_longer_than_the_table_of_positions_are_refused():
  with pytest.raises(ValueError, match=r"titles of 13 tokens.*first_position = 2 have places for 12"):
    _built("roberta_base")(np.zeros((1, 2, 13), np.int32))


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ({"depth": 0}, "depth = 0 must be at least 1"),
    ({"heads": 3}, "dim = 32 must be a multiple of heads = 3"),
    ({"feature": "means"}, "feature = 'means': did you mean 'mean'"),
    ({"first_position": 12}, "positions = 12 must be at least 13"),
    ({"layers": 2}, "layers = 2: 'bert_tiny' has no such option"),
    ({"dropout": 1.0}, "dropout = 1.0 must be at least 0 and below 1"),
  ],
)
def test_options_that_cannot_be_are_refused(option, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    _built(**option)
