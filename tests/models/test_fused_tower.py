"""Fusion of an item's ID with its content, and what stands in for what an item lacks."""

import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.items.fused import FUSIONS
from mlrec.models.layers.context import Context
from mlrec.models.registry import ITEM_TOWER
from mlrec.models.registry import models
from mlrec.registry import OptionError
from support import tiny_encoders as tiny

_ITEMS, _DIM, _WIDTH = 30, 8, 5
_TOWERS = {"id": {"name": "id"}, "vectors": {"name": "features", "activation": "none"}}


def fused(towers=_TOWERS, train_counts=None, norm="none", **options):
  known = {"feature_dim": _WIDTH} | ({} if train_counts is None else {"train_counts": train_counts})
  options |= {"towers": towers, "item_data": known, "norm": norm}
  model = tiny.fresh(lambda: models.create("fused", _ITEMS, _DIM, kind=ITEM_TOWER, rngs=nnx.Rngs(0), **options))
  for name, absence in model.absences.items():
    absence[...] = jnp.asarray(np.full(_DIM, 0.5 if name == "id" else -0.25, np.float32))
  return model


@functools.partial(jax.jit, static_argnums=0, compiler_options=tiny.QUICK)
def _compiled(graphdef, state, items, read):
  return nnx.merge(graphdef, state)(items, read)


def run(model, items, read):
  """The vectors of items."""
  return np.asarray(_compiled(*nnx.split(model), items, read))


def content(number, there=True):
  rng = np.random.default_rng(1)
  features = rng.normal(size=(number, _WIDTH)).astype(np.float32)
  return {"vectors/features": features, "vectors/features_present": np.broadcast_to(there, number)}


def parts(model, items, read):
  """What the towers make of the items by themselves."""
  return np.asarray(model.towers["id"](items)), np.asarray(
    model.towers["vectors"](items, {"features": read["vectors/features"]})
  )


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def stated(fusion, layer, ids, vectors, counts):
  """Each fusion in NumPy, in float64."""
  both = np.stack([ids, vectors], axis=1).astype(np.float64)
  kernel = lambda linear: np.asarray(linear.kernel[...], np.float64)  # noqa: E731
  bias = lambda linear: np.asarray(linear.bias[...], np.float64)  # noqa: E731
  flat = both.reshape(len(both), -1)
  if fusion == "sum":
    return both.sum(1)
  if fusion == "concat":
    hidden = flat @ kernel(layer.mlp.up) + bias(layer.mlp.up)
    return np.asarray(jax.nn.gelu(hidden, approximate=False)) @ kernel(layer.mlp.down) + bias(layer.mlp.down)
  if fusion == "gate":
    known = np.concatenate([flat, np.log1p(counts)[:, None]], axis=1)
    return (sigmoid(known @ kernel(layer.gates) + bias(layer.gates)).reshape(both.shape) * both).sum(1)
  if fusion == "film":
    change = vectors @ kernel(layer.modulations[0]) + bias(layer.modulations[0])
    return (1 + change[:, :_DIM]) * ids + change[:, _DIM:]
  origins, query = np.asarray(layer.origins[...]), np.asarray(layer.query[...])
  tokens = np.concatenate([both + origins, np.zeros((len(both), 1, _DIM)) + np.asarray(layer.nothing[...])], axis=1)
  keys, values = (tokens @ kernel(linear) + bias(linear) for linear in (layer.keys, layer.values))
  out = []
  for head in range(4):
    part = slice(2 * head, 2 * head + 2)
    scores = keys[:, :, part] @ query[head] / np.sqrt(2)
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    out.append((weights[..., None] * values[:, :, part]).sum(1))
  return np.concatenate(out, axis=1) @ kernel(layer.out) + bias(layer.out)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusions_are_what_their_equations_say(fusion):
  counts = np.arange(_ITEMS + 1)
  model = fused(fusion=fusion, train_counts=counts)
  # Starts at which a part is without effect would hide a mistake in it.
  for _, variable in nnx.to_flat_state(nnx.state(model.fusion, nnx.Param)):
    variable[...] = jnp.asarray(np.random.default_rng(0).normal(size=variable.shape), jnp.float32)
  items, read = np.array([3, 7, 1, 30]), content(4)
  found = run(model, items, read)
  wanted = stated(fusion, model.fusion, *parts(model, items, read), counts[items])
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_item_without_content_has_a_learned_absence_and_no_trace_of_the_array(fusion):
  model, items = fused(fusion=fusion), np.array([3, 7])
  read = content(2, np.array([True, False]))
  other = dict(read) | {"vectors/features": read["vectors/features"] * np.array([[1.0], [np.nan]], np.float32)}

  def total(model, read):
    return jnp.square(model(items, read)).sum()

  found = run(model, items, read)
  np.testing.assert_array_equal(found, run(model, items, other))
  assert not np.allclose(found[1], run(model, items, content(2))[1])
  gradient = nnx.jit(nnx.grad(total))(model, read)
  # Attention does not look at what is absent.
  assert np.abs(gradient["absences"]["vectors"][...]).max() > 0 or fusion == "attention"
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_an_item_that_training_never_names_has_no_id():
  counts = np.arange(_ITEMS + 1) % 2
  model, items = fused(train_counts=counts), np.array([2, 3])
  read = content(2)
  ids, vectors = parts(model, items, read)
  np.testing.assert_allclose(run(model, items, read), [0.5 + vectors[0], ids[1] + vectors[1]], rtol=1e-6)


def test_dropout_in_training_takes_ids_and_content_by_their_rates_but_never_all():
  model = fused(id_dropout=0.4, modality_dropout=0.2)
  items = np.repeat(np.arange(1, _ITEMS + 1), 400)
  read = content(len(items), np.arange(len(items)) % 10 > 0)
  there = read["vectors/features_present"]
  found = model.present(items, read, Context(True, nnx.Rngs(dropout=0)))
  ids, vectors = np.asarray(found).T
  assert found.any(1).all()
  # Where both were drawn, neither is dropped; without content the ID is never dropped.
  assert ids[~there].all()
  np.testing.assert_allclose(1 - ids[there].mean(), 0.4 - 0.4 * 0.2, atol=0.01)
  np.testing.assert_allclose(1 - vectors[there].mean(), 0.2 - 0.4 * 0.2, atol=0.01)
  assert not vectors[~there].any()
  # Evaluation drops nothing.
  np.testing.assert_array_equal(model.present(items, read, Context()).T, [np.ones(len(items), bool), there])


def test_the_padding_item_keeps_its_id():
  model = fused(id_dropout=0.9, train_counts=np.zeros(_ITEMS + 1, int))
  items = np.zeros(50, int)
  for context in (Context(), Context(True, nnx.Rngs(dropout=0))):
    assert model.present(items, content(50, False), context)[:, 0].all()


def normalised(part):
  return (part - part.mean(1, keepdims=True)) / np.sqrt(part.var(1, keepdims=True) + 1e-6)


def test_towers_are_normalised_where_asked():
  model = fused(norm="layer")
  items, read = np.array([3, 7]), content(2)
  wanted = sum(normalised(part) for part in parts(model, items, read))
  np.testing.assert_allclose(run(model, items, read), wanted, rtol=1e-4, atol=1e-5)


def test_content_starts_as_loud_as_ids():
  model = models.create(
    "fused", _ITEMS, 64, kind=ITEM_TOWER, rngs=nnx.Rngs(0), towers=_TOWERS, item_data={"feature_dim": _WIDTH}
  )
  items, read = np.arange(1, _ITEMS + 1), content(_ITEMS)
  ids, vectors = parts(model, items, read)
  loudness = np.sqrt(2 / (_ITEMS + 1 + 64))
  np.testing.assert_allclose(run(model, items, read), ids + loudness * normalised(vectors), rtol=1e-4, atol=1e-5)
  assert ids.std() == pytest.approx(loudness, rel=0.1)


def test_an_id_counts_by_how_often_training_names_its_item():
  counts = np.zeros(_ITEMS + 1, int)
  counts[[4, 5, 6]] = 1, 3, 300
  model = fused(train_counts=counts, id_shrinkage=3.0)
  items, read = np.array([0, 3, 4, 5, 6]), content(5)
  ids, vectors = parts(model, items, read)
  shares = np.array([1, 0, 1 / 4, 1 / 2, 300 / 303])[:, None]
  absence = np.array([0, 0.5, 0, 0, 0])[:, None]
  np.testing.assert_allclose(run(model, items, read), shares * ids + absence + vectors, rtol=1e-5, atol=1e-6)


def test_several_towers_of_content_read_below_their_names():
  model = fused({"one": _TOWERS["vectors"], "two": _TOWERS["vectors"], "id": _TOWERS["id"]})
  assert set(model.reads) == {
    f"{name}/features{end}" for name in ("one", "two") for end in ("", "_present")
  }  # fmt: skip


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"towers": {}}, "must name a tower or more"),
    ({"towers": {"id": {"dim": 3}}}, r"^towers\.id\.name is missing beside \['dim'\]: it chooses the item tower"),
    (
      {"towers": {"a/b": {"name": "id"}}},
      r"^towers names a tower 'a/b': such a name has no / and does not end in _present",
    ),
    ({"towers": {"a_present": {"name": "id"}}}, r"^towers names a tower 'a_present'"),
    ({"towers": {"id": {"name": "idd"}}}, r"^towers\.id\.name = 'idd': there is no such item tower; did you mean 'id'"),
    ({"towers": {"one": _TOWERS["vectors"] | {"dropout": 2.0}}}, r"^towers\.one\.dropout = 2\.0 must be at least 0"),
    ({"towers": {"one": _TOWERS["vectors"] | {"hiden": 2}}}, r"^towers\.one\.hiden = 2: 'features' has no such option"),
    (
      {"towers": {"two": {"name": "fused", "towers": {"id": {"name": "id", "dimm": 3}}}}},
      r"^towers\.two\.towers\.id\.dimm = 3: 'id' has no such option",
    ),
    ({"norm": "layers"}, "norm = 'layers'.*layer"),
    ({"id_shrinkage": -1.0}, "id_shrinkage = -1.0 must be at least 0"),
    ({"id_shrinkage": 2.0}, "id_shrinkage = 2.0 needs the training counts"),
    ({"towers": {"one": _TOWERS["vectors"]}, "id_shrinkage": 2.0}, "id_shrinkage = 2.0 is of IDs"),
    ({"towers": {"one": _TOWERS["vectors"]}, "id_dropout": 0.5}, "id_dropout = 0.5 is of IDs"),
    ({"fusion": "gated"}, "fusion = 'gated'.*gate"),
    ({"id_dropout": 1.0}, "id_dropout = 1.0 must be"),
    ({"modality_dropout": -0.1}, "modality_dropout = -0.1 must be"),
    ({"towers": {"id": {"name": "id"}}, "fusion": "film"}, "needs two towers or more"),
    ({"fusion": "attention", "heads": 3}, f"heads = 3 must divide the width {_DIM}"),
  ],
)
def test_mistakes_are_told(options, message):
  with pytest.raises(OptionError, match=message):
    fused(**options)
