import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.content.base import Need
from mlrec.models.convert import to_torch
from mlrec.models.layers import variables
from mlrec.models.layers.context import Context
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ENCODERS = {"image": "vit_image_s", "audio": "ast_b"}
_CONTENT = {"image": "cover", "audio": "audio"}
_DIM = 6


def _options(kind, **options):
  encoder = _ENCODERS[kind]
  given = {"encoder": encoder, "options": tiny.TINY[encoder] | {"depth": 1}, "mode": "scratch"}
  return given | ({"samples": 2000} if kind == "audio" else {}) | options


@functools.cache
def _made(kind):
  """A small tower of drawn parameters."""
  return tiny.filled(tiny.blank(lambda: models.create(kind, num_items=9, dim=_DIM, rngs=nnx.Rngs(0), **_options(kind))))


def _raw(kind, number=4):
  rng = np.random.default_rng(0)
  need = _made(kind).reads[_CONTENT[kind]]
  low, high = (0, 256) if need.dtype == "uint8" else (-9000, 9000)
  return rng.integers(low, high, (number, *need.shape)).astype(need.dtype)


@functools.cache
def _compiled(kind):
  graphdef, _ = nnx.split(_made(kind))
  call = lambda state, items, content: nnx.merge(graphdef, state)(items, content)  # noqa: E731
  return jax.jit(call, compiler_options=tiny.QUICK)


def _run(kind, items, array):
  return np.asarray(_compiled(kind)(nnx.state(_made(kind)), items, {_CONTENT[kind]: array}))


def test_towers_read_bytes_of_covers_and_waveforms():
  assert _made("image").reads == {"cover": Need((16, 16, 3), "uint8")}
  assert _made("audio").reads == {"audio": Need((2000,), "int16")}
  assert _made("image").recipe.reading() == {"size": 16}
  assert _made("audio").recipe.reading() == {"samples": 2000, "rate": 16_000}


@pytest.mark.parametrize("kind", ["image", "audio", "text", "video"])
def test_only_the_projection_of_videos_is_trained_as_their_encoder_is(kind):
  encoder = {"text": "bert_tiny", "video": "vit_s"} | _ENCODERS
  model = nnx.eval_shape(
    lambda: models.create(kind, num_items=9, dim=_DIM, encoder=encoder[kind], mode="scratch", rngs=nnx.Rngs(0))
  )
  params = nnx.state(model, nnx.Param)
  names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(params)}
  groups = {name.removesuffix(".value"): group for name, group in variables.groups(params).items()}
  assert groups.keys() <= names
  of_the_head = {name for name in names if groups.get(name, variables.HEAD) == variables.HEAD}
  assert {name for name in names if not name.startswith("encoder.")} - of_the_head == (
    {"projection.kernel", "projection.bias"} if kind == "video" else set()
  )
  assert not any(name.startswith("encoder.") for name in of_the_head)


def test_sizes_are_the_encoders_own_unless_they_are_given():
  def needed(kind, **more):
    options = _options(kind, **more)
    return nnx.eval_shape(lambda: models.create(kind, num_items=9, rngs=nnx.Rngs(0), **options)).recipe.need()

  assert needed("image", size=32) == Need((32, 32, 3), "uint8")
  assert needed("audio", samples=0) == Need((42 * 160,), "int16")


def test_images_are_normalised_by_the_encoder_and_there_is_no_activation_after_the_projection():
  tower, covers, items = _made("image"), _raw("image"), np.array([3, 1, 0, 2])
  pixels = (covers / np.float32(255) - np.float32(tower.spec.mean)) / np.float32(tower.spec.std)
  pixels[2] = 0
  wanted = tiny.run(tower.encoder, pixels.astype(np.float32)) @ np.asarray(tower.projection.kernel[...])
  wanted += np.asarray(tower.projection.bias[...])
  found = _run("image", items, covers)
  tiny.assert_near(found, wanted, 1e-4)
  # A GELU would have moved these.
  assert wanted.min() < 0.5


@pytest.mark.parametrize("kind", _ENCODERS)
def test_what_the_padding_item_is_given_has_no_effect(kind):
  array, items = _raw(kind), np.array([0, 5, 0, 2])
  other = array.copy()
  other[[0, 2]] = array[[1, 3]]
  np.testing.assert_array_equal(_run(kind, items, array), _run(kind, items, other))
  assert (_run(kind, items, array)[1] != _run(kind, items[::-1].copy(), array)[1]).any()


@pytest.mark.parametrize("kind", _ENCODERS)
def test_names_are_those_of_the_benchmarks_modules(kind):
  names = set(to_torch(_made(kind)))
  assert {f"{kind}_encoder.{kind}_proj.weight", f"{kind}_encoder.{kind}_proj.bias"} < names
  assert all(re.match(rf"{kind}_encoder\.({kind}_net\.|{kind}_proj\.)", name) for name in names)


@pytest.mark.parametrize("kind", _ENCODERS)
def test_a_frozen_tower_reads_vectors(kind):
  options = _options(kind, mode="frozen", weights="random")
  tower = nnx.eval_shape(lambda: models.create(kind, num_items=9, dim=_DIM, rngs=nnx.Rngs(0), **options))
  assert tower.reads == {"features": Need((32,), "float32")}
  assert tower.frozen.kind == f"{kind} encoder"
  assert tower.frozen.content == _CONTENT[kind]
  assert not any("encoder" in path for path, _ in nnx.to_flat_state(nnx.state(tower)))


def test_an_encoder_of_another_kind_is_refused():
  with pytest.raises(OptionError, match=r"^encoder = 'ast_b': there is no such image encoder"):
    models.create("image", num_items=9, encoder="ast_b", mode="scratch", rngs=nnx.Rngs(0))
  with pytest.raises(OptionError, match=r"^encoder = 'vit_s': there is no such audio encoder"):
    models.create("audio", num_items=9, encoder="vit_s", mode="scratch", rngs=nnx.Rngs(0))


def test_parts_of_a_batch_have_the_gradient_of_the_whole():
  covers, items = _raw("image", 5), np.arange(5)
  towers = [nnx.clone(_made("image")) for _ in range(2)]
  towers[1].accumulate = 2

  def gradient(graphdef, params):
    def scalar(params):
      vectors = nnx.merge(graphdef, params)(items, {"cover": covers}, Context(True))
      return jnp.sum(vectors * jax.random.normal(jax.random.key(1), vectors.shape))

    return jax.grad(scalar)(params)

  (whole_tower, params), (parted_tower, _) = (nnx.split(tower) for tower in towers)
  both = jax.jit(lambda params: [gradient(tower, params) for tower in (whole_tower, parted_tower)])
  for whole, parted in zip(*map(jax.tree.leaves, both.lower(params).compile(tiny.QUICK)(params))):
    np.testing.assert_allclose(parted, whole, rtol=1e-3, atol=1e-5 * max(1, float(jnp.abs(whole).max())))
