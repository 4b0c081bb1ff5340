import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.models.convert import load_torch
from mlrec.models.convert import to_torch
from mlrec.models.items.text.bert import VARIANTS
from mlrec.models.layers.context import Context
from mlrec.models.registry import TEXT_ENCODER

# Tiny models take longer to compile than to run.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_TINY = {"dim": 32, "depth": 2, "heads": 4, "hidden": 48, "vocabulary": 50}
_POSITIONS = {"bert_tiny": 12, "roberta_base": 14}


def _built(name="bert_tiny", **options):
  """A small net without values; drawing them costs more than what is tested."""
  options = _TINY | {"positions": _POSITIONS[name]} | options
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options)))
  return nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state))


def _state(golden, of="bert"):
  prefix = f"{of}/sd/"
  arrays = golden("text_bert_tiny")
  return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def tiny(golden):
  """Builds a small net of the golden parameters."""

  def make(**options):
    model = _built(**options)
    load_torch(model, _state(golden))
    return model

  return make


@pytest.fixture(scope="module")
def titles(golden):
  return golden("text_bert_tiny")["titles"]


@functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
def _compiled(graphdef, state, x):
  return nnx.merge(graphdef, state)(x)


def _run(model, x):
  return np.asarray(_compiled(*nnx.split(model), x))


def _full_size(name):
  graphdef, state = nnx.split(nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0))))
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), state)
  return nnx.merge(graphdef, zeros)


def _published(golden_path, file: str, prefix: str = ""):
  lines = (golden_path / "keys" / file).read_text().splitlines()
  pairs = [re.search(r"(\S+) \(([\d, ]*)\)$", line).groups() for line in lines]
  return {
    key.removeprefix(prefix): tuple(int(n) for n in re.findall(r"\d+", shape))
    for key, shape in pairs
    if key.startswith(prefix)
  }


@pytest.mark.parametrize(("name", "of"), [("bert_tiny", "bert"), ("roberta_base", "roberta")])
@pytest.mark.parametrize("feature", ["cls", "mean"])
def test_golden_output(golden, titles, name, of, feature):
  model = _built(name, feature=feature)
  load_torch(model, _state(golden, of))
  assert model.spec.features == 32
  output = _run(model, titles)
  assert output.dtype == np.float32
  np.testing.assert_allclose(output, golden("text_bert_tiny")[f"{of}/{feature}"], rtol=1e-4, atol=1e-5)


def test_unit_length_keeps_the_direction(golden, tiny, titles):
  wanted = golden("text_bert_tiny")["bert/mean"]
  wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
  np.testing.assert_allclose(_run(tiny(feature="mean", unit_length=True), titles), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("feature", ["cls", "mean"])
def test_padding_has_no_effect(tiny, titles, feature):
  model = tiny(feature=feature)
  output = _run(model, titles)
  padded = np.pad(titles, ((0, 0), (0, 0), (0, 3)))
  padded[:, 0] = np.where(padded[:, 1], padded[:, 0], 17)
  np.testing.assert_allclose(_run(model, padded), output, rtol=1e-5, atol=1e-6)
  assert np.abs(output[0] - output[2]).max() > 0.1


@pytest.mark.parametrize("options", [{"feature": "cls"}, {"feature": "mean", "unit_length": True}])
def test_no_title_gives_finite_vectors_and_gradients(tiny, options):
  graphdef, params, rest = nnx.split(tiny(**options), nnx.Param, ...)
  empty = np.zeros((2, 2, 9), np.int32)

  def total(params):
    outputs = nnx.merge(graphdef, params, rest)(empty)
    return jnp.sin(outputs).sum(), outputs

  gradients, outputs = jax.jit(jax.grad(total, has_aux=True), compiler_options=_QUICK)(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  if options["feature"] == "mean":
    assert (outputs == 0).all()
  else:
    # As a title of the one token 0, however long the row is.
    one = np.array([[[0], [1]]], np.int32)
    np.testing.assert_allclose(outputs, np.repeat(_run(tiny(), one), 2, 0), rtol=1e-5, atol=1e-6)


def test_names_and_shapes_are_the_published_ones(golden_path):
  for name, file, prefix in (
    ("bert_base", "text-bert-base.txt", "text_encoders.bert_model."),
    ("minilm_l6", "minilm_l6.txt", ""),
    ("roberta_base", "roberta_base.txt", ""),
  ):
    shapes = {key: value.shape for key, value in to_torch(_full_size(name)).items()}
    published = _published(golden_path, file, prefix)
    assert {key for key in published if key not in shapes} == {"pooler.dense.weight", "pooler.dense.bias"}
    assert shapes == {key: shape for key, shape in published.items() if key in shapes}, name


def test_the_projection_follows_under_the_benchmarks_name(golden_path):
  model = nnx.eval_shape(lambda: models.create("bert_base", rngs=nnx.Rngs(0)))
  published = _published(golden_path, "text-bert-base.txt", f"text_encoders.{model.projection_name}.")
  projection = nnx.eval_shape(lambda: model.projection(512, rngs=nnx.Rngs(0)))
  assert published == {"weight": projection.kernel.shape[::-1], "bias": projection.bias.shape}


def test_stages_cut_the_published_parameters_where_the_benchmark_does(golden_path):
  parameters = _published(golden_path, "text-bert-base.params.txt", "text_encoders.bert_model.")
  # What the benchmark counts, its projection and the unused pooler included.
  assert sum(int(np.prod(shape)) for shape in parameters.values()) + 512 * 769 == 109_875_968
  parameters = [key for key in parameters if not key.startswith("pooler.")]
  model = nnx.eval_shape(lambda: models.create("bert_base", rngs=nnx.Rngs(0)))
  stages = [next(n for n, stage in enumerate(model.stages) if key.startswith(f"{stage}.")) for key in parameters]
  assert stages == sorted(stages)
  assert set(stages) == set(range(len(model.stages)))
  assert stages.index(model.stages.index(model.spec.top)) == 165


def test_every_row_of_the_table_is_named_and_sized():
  widths = {"tiny": 128, "mini": 256, "small": 512, "medium": 512, "base": 768, "large": 1024}
  for name, (spec, options) in VARIANTS.items():
    assert name in models.names(TEXT_ENCODER)
    assert spec.licence
    assert spec.source
    assert spec.length == 30
    assert options["dim"] == widths.get(name.removeprefix("bert_"), 384 if name == "minilm_l6" else 768)
  spec = nnx.eval_shape(lambda: models.create("chinese_roberta_wwm_ext", depth=1, rngs=nnx.Rngs(0))).spec
  assert (spec.vocabulary, spec.features, spec.top) == (21_128, 768, "encoder.layer.0")


def test_what_is_loaded_comes_back():
  model = _built()
  rng = np.random.default_rng(2)
  arrays = {key: rng.normal(size=value.shape).astype(np.float32) for key, value in to_torch(model).items()}
  load_torch(model, arrays)
  back = to_torch(model)
  assert back.keys() == arrays.keys()
  for key in arrays:
    np.testing.assert_array_equal(back[key], arrays[key])


def test_missing_unused_and_misshapen_entries_are_named(golden):
  model, arrays = _built(), _state(golden)
  key = "encoder.layer.1.attention.self.key.weight"
  with pytest.raises(ValueError, match=f"missing.*{re.escape(repr(key))}"):
    load_torch(model, {other: value for other, value in arrays.items() if other != key})
  with pytest.raises(ValueError, match=r"unused.*'encoder\.layer\.2\.output\.dense\.bias'"):
    load_torch(model, arrays | {"encoder.layer.2.output.dense.bias": np.zeros(32)})
  with pytest.raises(ValueError, match=f"{re.escape(repr(key))} has shape"):
    load_torch(model, arrays | {key: np.zeros((32, 16))})


@pytest.mark.parametrize("prefix", ["bert.", "roberta."])
def test_files_of_whole_models_and_of_older_spelling_are_read(golden, prefix):
  arrays = _state(golden)
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
  for key, value in to_torch(fresh).items():
    np.testing.assert_array_equal(value, arrays[key])
  with pytest.raises(ValueError, match=r"two spellings.*'embeddings\.LayerNorm\.weight' are there, but differ"):
    load_torch(fresh, file | {"embeddings.LayerNorm.weight": np.zeros(32)})


@pytest.mark.parametrize("first_trained", [0, 2])
def test_gradients_stop_at_the_first_trained_stage(tiny, titles, first_trained):
  model = tiny(feature="mean")
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @functools.partial(jax.jit, compiler_options=_QUICK)
  def gradients(params):
    def scalar(params):
      context = Context(train=True, rngs=nnx.Rngs(dropout=0))
      outputs = nnx.merge(graphdef, params, rest)(titles, context, first_trained=first_trained)
      return jnp.sum(outputs * jax.random.normal(jax.random.key(5), outputs.shape))

    return jax.grad(scalar)(params)

  frozen = tuple(f"{stage}." for stage in model.stages[:first_trained])
  for key, value in to_torch(nnx.merge(graphdef, gradients(params), rest)).items():
    assert np.isfinite(value).all(), key
    # The softmax removes what a key's bias adds to all scores of a query.
    stopped = (frozen != () and key.startswith(frozen)) or key.endswith("key.bias")
    assert (np.abs(value).max() < 1e-5) == stopped, key


def test_dropout_is_drawn_in_training_alone_and_by_option(titles):
  arrays = to_torch(_built(depth=1))
  rng = np.random.default_rng(3)
  arrays = {key: rng.normal(0, 0.2, value.shape).astype(np.float32) for key, value in arrays.items()}

  @functools.partial(jax.jit, static_argnums=0, compiler_options=_QUICK)
  def train(graphdef, state, key):
    return nnx.merge(graphdef, state)(titles, Context(train=True, rngs=nnx.Rngs(dropout=key)))

  def trained(seed, remat=False, **options):
    model = _built(depth=1, **options)
    load_torch(model, arrays)
    model.remat = remat
    return np.asarray(train(*nnx.split(model), jax.random.key(seed)))

  exact = trained(0, dropout=0.0, attention_dropout=0.0)
  for options in ({"dropout": 0.0}, {"attention_dropout": 0.0}):
    assert np.abs(trained(0, **options) - exact).max() > 0.01
  both = trained(0)
  np.testing.assert_array_equal(trained(0), both)
  assert (trained(1) != both).any()
  np.testing.assert_allclose(trained(0, remat=True), both, rtol=1e-5, atol=1e-6)
  model = _built(depth=1)
  load_torch(model, arrays)
  np.testing.assert_allclose(_run(model, titles), exact, rtol=1e-5, atol=1e-6)


def test_half_precision_is_near_the_exact_output(tiny, titles):
  model = tiny(feature="mean", dtype=jnp.bfloat16)
  exact, half = _run(tiny(feature="mean"), titles), _run(model, titles)
  assert exact.dtype == half.dtype == np.float32
  assert (exact != half).any()
  np.testing.assert_allclose(half, exact, rtol=0, atol=0.05 * np.abs(exact).max())
  assert all(value.dtype == np.float32 for value in to_torch(model).values())


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
    ({"layers": 2}, "has no option 'layers'"),
    ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
  ],
)
def test_options_that_cannot_be_are_refused(option, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    _built(**option)
