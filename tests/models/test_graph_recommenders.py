"""LightGCN, MMGCN and GRCN against plain statements of their equations in float64."""

from typing import Any
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.data.batches import EvalBatch
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interactions import Rows
from mlrec.models.recommenders.grcn import Grcn
from mlrec.models.recommenders.lightgcn import LightGcn
from mlrec.models.recommenders.mmgcn import Mmgcn
from mlrec.registry import OptionError

# User 1 has no interaction, nor have items 2 and 6.
ROWS = [[1, 3, 5], [], [5, 1], [4, 3], [7, 3, 1, 4]]
USERS, ITEMS = 5, 7
EDGES = [(user, item) for user, row in enumerate(ROWS) for item in row]
OF_USER = [[item for item in row] for row in ROWS]
OF_ITEM = [[user for user, row in enumerate(ROWS) if item in row] for item in range(ITEMS + 1)]
DATA = {"train": Rows.from_lists(ROWS, np.int32), "num_users": USERS, "num_items": ITEMS}
FEATURES = np.random.default_rng(1).normal(size=(ITEMS + 1, 6)).astype(np.float32)
FEATURES[0] = 0
PAIRED = [
  pytest.param((Mmgcn, {"latent": 6, "layers": 2}), id="mmgcn"),
  pytest.param((Mmgcn, {"latent": 6, "reference": True, "features": FEATURES}), id="mmgcn-v-reference"),
  pytest.param((Grcn, {"latent": 6, "routing": 2}), id="grcn"),
  pytest.param((Grcn, {"latent": 6, "reference": True, "features": FEATURES}), id="grcn-v-reference"),
]


class Passed(NamedTuple):
  """A model of pairs, enlarged, its vectors in float64, and its loss and gradients on `WHOM`, `TARGETS`, `DRAWN`."""

  model: Any
  options: dict[str, Any]
  users: np.ndarray
  items: np.ndarray
  loss: float
  gradients: Any


WHOM, TARGETS, DRAWN = [0, 4, 2], [3, 3, 5], [[2, 6], [5, 2], [4, 7]]


@pytest.fixture(scope="module", params=PAIRED)
def passed(request) -> Passed:
  kind, options = request.param
  model = larger(kind(**DATA, dim=4, reg=0.3, negatives=2, **options, rngs=nnx.Rngs(0)))

  @nnx.jit
  def run(model, batch):
    return model.propagated(), nnx.value_and_grad(lambda model: model.loss(batch))(model)

  (users, items), (loss, gradients) = run(model, make_batch(WHOM, TARGETS, DRAWN, filler=3))
  return Passed(model, options, *(np.asarray(x, np.float64) for x in (users, items)), loss, gradients)


def make_batch(users, targets, negatives=(), *, filler: int = 0) -> InteractionBatch:
  """A batch of item ids, with filler interactions and columns at the end."""
  negatives = np.array(negatives, int).reshape(len(users), -1)
  distinct = np.unique(np.concatenate([[0], targets, negatives.ravel()]))
  items = np.concatenate([distinct, np.zeros(filler, int)])
  counts = np.array([list(targets).count(item) if item else 0 for item in items])
  share = np.bincount([item for _, item in EDGES], minlength=ITEMS + 1) / len(EDGES)
  with np.errstate(divide="ignore"):
    log_popularity = np.where(items == 0, 0, np.log(share[items]))

  def filled(x):
    return jnp.asarray(np.concatenate([x, np.zeros((filler, *x.shape[1:]), x.dtype)]))

  return InteractionBatch(
    jnp.asarray(items), jnp.asarray(counts), jnp.asarray(log_popularity, jnp.float32), filled(np.array(users)),
    filled(np.searchsorted(distinct, targets)), jnp.zeros((len(users) + filler, 0), jnp.int32),
    filled(np.searchsorted(distinct, negatives)), filled(np.ones(len(users), np.float32)),
  )  # fmt: skip


def float64(variable) -> np.ndarray:
  return np.asarray(variable[...], np.float64)


def nodes(users, items) -> np.ndarray:
  """A table of all nodes, users before items."""
  return np.concatenate([float64(users), float64(items)])


def larger(model):
  """The model with parameters of a size at which every term shows."""
  rng = np.random.default_rng(2)
  _, params = nnx.split(model, nnx.Param, ...)[:2]
  nnx.update(model, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params))
  return model


def rownorm(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def leaky(x):
  return np.where(x > 0, x, 0.01 * x)


def softmax(x):
  raised = np.exp(x - np.max(x))
  return raised / raised.sum()


@pytest.mark.parametrize("layers", [1, 3])
def test_lightgcn_is_the_mean_of_powers_of_the_normalised_adjacency(layers):
  model = larger(LightGcn(**DATA, dim=16, layers=layers, rngs=nnx.Rngs(0)))
  nodes = USERS + ITEMS + 1
  adjacency = np.zeros((nodes, nodes))
  for user, item in EDGES:
    adjacency[user, USERS + item] = adjacency[USERS + item, user] = 1
  scale = np.diag(1 / np.sqrt(np.maximum(adjacency.sum(0), 1)))
  step = scale @ adjacency @ scale
  start = np.concatenate([float64(model.users), float64(model.items)])
  wanted = sum(np.linalg.matrix_power(step, n) @ start for n in range(layers + 1)) / (layers + 1)
  users, items = nnx.jit(lambda model: model.propagated())(model)
  np.testing.assert_allclose(users, wanted[:USERS], rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(items, wanted[USERS:], rtol=2e-5, atol=1e-6)
  # A node without interactions keeps its share of its own vector.
  np.testing.assert_allclose(users[1], start[1] / (layers + 1), rtol=1e-6)


def test_lightgcn_loss_strikes_the_same_item_elsewhere_in_the_batch_and_nothing_else():
  model = larger(LightGcn(**DATA, dim=8, rngs=nnx.Rngs(0)))
  # User 0 comes twice, item 3 too.
  whom, targets = [0, 0, 4, 2, 3], [1, 3, 3, 5, 4]
  users, items = (np.asarray(x, np.float64) for x in nnx.jit(lambda model: model.propagated())(model))
  share = np.bincount([item for _, item in EDGES]) / len(EDGES)
  rows = []
  for n, (user, target) in enumerate(zip(whom, targets)):
    logits = [
      users[user] @ items[item] - np.log(share[item]) for m, item in enumerate(targets) if m == n or item != target
    ]
    rows.append(np.log(np.exp(logits).sum()) - (users[user] @ items[target] - np.log(share[target])))
  loss, gradients = nnx.jit(nnx.value_and_grad(lambda model, batch: model.loss(batch)))(
    model, make_batch(whom, targets, filler=3)
  )
  np.testing.assert_allclose(loss, np.mean(rows), rtol=2e-6)
  for gradient in jax.tree.leaves(nnx.to_pure_dict(gradients)):
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def mmgcn_by_loops(model, layers: int, features) -> tuple[np.ndarray, np.ndarray]:
  def linear(layer, x):
    return x @ float64(layer.kernel) + float64(layer.bias)

  ids = nodes(model.user_ids, model.item_ids)
  content = float64(model.content.rows) if features is None else linear(model.content.linear, features)
  users, items = rownorm(float64(model.preferences)), rownorm(content)
  for layer in list(model.layers)[:layers]:

    def node(own, neighbours, e, layer=layer):
      mean = np.mean([x @ float64(layer.neighbours) for x in neighbours], axis=0) if len(neighbours) else 0 * own
      extended = leaky(linear(layer.own, own)) + e
      return leaky(linear(layer.joined, np.concatenate([leaky(mean), extended])))

    users, items = (
      np.stack([node(users[n], items[OF_USER[n]], ids[n]) for n in range(USERS)]),
      np.stack([node(items[n], users[OF_ITEM[n]], ids[USERS + n]) for n in range(ITEMS + 1)]),
    )
  return users, items


def grcn_by_loops(model, routing: int, features) -> tuple[np.ndarray, np.ndarray]:
  content = model.content
  shown = (
    float64(content.rows)
    if features is None
    else features @ float64(content.linear.kernel) + float64(content.linear.bias)
  )
  f, p = rownorm(leaky(shown)), rownorm(float64(model.preferences))
  for _ in range(routing):
    p = rownorm(
      np.stack([x + softmax(f[OF_USER[n]] @ x) @ f[OF_USER[n]] if OF_USER[n] else x for n, x in enumerate(p)])
    )
  x = np.concatenate([p, f])
  neighbours = [[USERS + item for item in row] for row in OF_USER] + OF_ITEM
  ids = rownorm(nodes(model.user_ids, model.item_ids))
  confidence = nodes(model.user_confidence, model.item_confidence)[:, 0]
  shown, weights = x.copy(), np.zeros((len(x), len(x)))
  for n, others in enumerate(neighbours):
    if others:
      alpha = softmax(x[others] @ x[n])
      shown[n] += alpha @ x[others]
      weights[n, others] = np.maximum(alpha * confidence[others], 0)
  first = weights @ ids
  out = np.concatenate([ids + first + weights @ first, shown], axis=1)
  return out[:USERS], out[USERS:]


def test_the_pass_over_the_graph_is_that_of_loops_over_nodes(passed):
  options = passed.options
  if isinstance(passed.model, Mmgcn):
    wanted = mmgcn_by_loops(passed.model, options.get("layers", 3), options.get("features"))
  else:
    rounds = 0 if options.get("reference") else options.get("routing", 3)
    wanted = grcn_by_loops(passed.model, rounds, options.get("features"))
  for found, exact in zip((passed.users, passed.items), wanted):
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=2e-5)


def test_the_loss_is_bpr_and_the_regulariser(passed):
  users, items = passed.users, passed.items
  ids = nodes(passed.model.user_ids, passed.model.item_ids)
  preferences = float64(passed.model.preferences)
  losses, squares = [], []
  for user, target, drawn in zip(WHOM, TARGETS, DRAWN):
    losses += [np.logaddexp(0, users[user] @ (items[other] - items[target])) for other in drawn]
    squares += [ids[user] ** 2 + ids[USERS + item] ** 2 for item in (target, *drawn)]
  squares = np.mean(squares) + np.mean(preferences**2)
  if isinstance(passed.model, Grcn):
    squares += np.mean(preferences[WHOM] ** 2)
  np.testing.assert_allclose(passed.loss, np.mean(losses) + 0.3 * squares, rtol=1e-5)


def test_gradients_are_finite_and_reach_every_table(passed):
  gradients = nnx.to_pure_dict(passed.gradients)
  for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 0, path
  fixed = isinstance(passed.model, Mmgcn) and passed.options.get("reference", False)
  tables = {"user_ids", "item_ids", "preferences"}
  assert (tables & gradients.keys()) == (set() if fixed else tables)


def test_gradients_are_finite_where_what_an_item_shows_is_zero():
  model = Grcn(**DATA, features=np.zeros_like(FEATURES), dim=4, latent=6, routing=1, rngs=nnx.Rngs(0))
  model.content.linear.bias[...] = jnp.zeros(6)
  batch = make_batch(WHOM, TARGETS, DRAWN)
  gradients = nnx.jit(nnx.grad(lambda model, batch: model.loss(batch)))(model, batch)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(nnx.to_pure_dict(gradients)))


def test_users_and_items_are_ranked_by_the_vectors_of_one_pass():
  model = LightGcn(**DATA, dim=4, rngs=nnx.Rngs(0))
  batch = EvalBatch(None, None, None, None, jnp.array([4, 0]))

  def ranked(model):
    table, known = model.item_vectors(jnp.arange(ITEMS + 1)), model.user_table()
    return *model.propagated(), table, model.states(table, known, batch)

  users, items, table, states = nnx.jit(ranked)(model)
  np.testing.assert_array_equal(table, items)
  np.testing.assert_array_equal(states, users[jnp.array([4, 0])])


def test_what_comes_with_the_data_is_no_parameter():
  model = Mmgcn(**DATA, features=FEATURES, dim=4, latent=6, rngs=nnx.Rngs(0))
  names = {str(path[-1]) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
  assert names == {"user_ids", "item_ids", "preferences", "neighbours", "kernel", "bias"}
  np.testing.assert_array_equal(model.content.features[...], FEATURES)


def test_features_that_do_not_fit_are_refused():
  bad = FEATURES.copy()
  bad[3, 1] = np.nan
  with pytest.raises(ValueError, match=r"features of item 3 .* NaN"):
    Mmgcn(**DATA, features=bad, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r"features must be \[8, D\]"):
    Grcn(**DATA, features=FEATURES[1:], rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
  ("kind", "options", "message"),
  [
    (LightGcn, {"layers": 0}, r"^layers = 0 must be at least 1"),
    (Mmgcn, {"negatives": 0}, r"^negatives = 0 must be at least 1"),
    (Mmgcn, {"reg": -1.0}, r"^reg = -1.0 must be at least 0"),
    (Mmgcn, {"layers": 2, "reference": True}, r"^layers = 2 must be 3 with reference = True"),
    (Grcn, {"reg": -1.0}, r"^reg = -1.0 must be at least 0"),
    (Grcn, {"routing": 0}, r"^routing = 0 must be at least 1"),
  ],
)
def test_options_out_of_range_are_refused_by_name(kind, options, message):
  with pytest.raises(OptionError, match=message):
    kind(**DATA, **options, rngs=nnx.Rngs(0))


def test_rows_of_other_users_are_refused():
  with pytest.raises(ValueError, match="a graph of 6 users needs as many training rows, not 5"):
    LightGcn(**DATA | {"num_users": 6}, rngs=nnx.Rngs(0))
