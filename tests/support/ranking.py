"""Full ranking on one device and on eight, to be called where there are eight."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import models
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data import Split
from mlrec.data.batches import Layout
from mlrec.data.interactions import Interactions
from mlrec.metrics import ScoresNotFinite
from mlrec.models.recommenders.recommender import Recommender
from mlrec.train.evaluator import Evaluator
from mlrec.train.sharding import make_mesh
from mlrec.train.state import split_model

# Devices, those among which items are cut, users and items of a step.
_CUTS = ((1, 1, 128, 512), (8, 1, 128, 10**6), (8, 1, 1024, 700), (8, 2, 128, 512), (8, 8, 1024, 700))


def _split(num_users: int, num_items: int) -> Split:
  rng = np.random.default_rng(0)
  lists = [rng.choice(num_items, rng.integers(5, 14), replace=False) + 1 for _ in range(num_users)]
  return leave_one_out(Interactions(np.arange(num_users), Rows.from_lists(lists)))


def ranks_agree(user: str) -> None:
  """Ranks, lists and metrics of a sequential model are the same to the last bit."""
  split = _split(400, 1500)
  model = models.create("sequential", num_items=split.num_items, dim=16, user={"name": user}, rngs=nnx.Rngs(0))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)
  layout = Layout.of(10, packed=not model.reads_padding)
  results = []
  for devices, parts, batch_size, chunk in _CUTS:
    evaluator = Evaluator(graphdef, split, layout, make_mesh(jax.devices()[:devices], parts), batch_size, chunk)
    results.append([*evaluator.ranks(params, rest, "valid"), evaluator(params, rest, "test")])
  for ranks, recommended, figures in results[1:]:
    np.testing.assert_array_equal(ranks, results[0][0])
    np.testing.assert_array_equal(recommended, results[0][1])
    assert figures == results[0][2], (figures, results[0][2])
  assert len(np.unique(results[0][0])) > 100


class Near(Recommender):
  """Scores by the distance from the user and from the newest item: whole numbers, so that float32 is exact."""

  scores_by_dot = False

  def __init__(self, num_items, num_users, rngs):
    self.places = nnx.Param(jax.random.randint(rngs.params(), (num_items + 1, 2), -9, 10).astype(jnp.float32))
    self.bias = nnx.Param(jax.random.randint(rngs.params(), (num_items + 1,), -9, 10).astype(jnp.float32))
    self.users = nnx.Param(jax.random.randint(rngs.params(), (num_users, 2), -9, 10).astype(jnp.float32))
    self.scale = nnx.Param(jnp.full((), 2.0))

  def item_vectors(self, items, content=None, context=None):
    return {"place": self.places[...][items], "bias": self.bias[...][items]}

  def user_table(self):
    return self.users[...]

  def states(self, table, users, batch):
    newest = jnp.ravel(batch.history.tokens)[batch.last]
    return users[batch.users], table["place"][newest]

  def score(self, states, items):
    place, newest = states
    apart = ((items["place"][:, None] - place) ** 2).sum(-1) + ((items["place"][:, None] - newest) ** 2).sum(-1)
    return items["bias"][:, None] - self.scale[...] * apart


def other_scores_agree() -> None:
  """Ranks and lists of a recommender without dot products are those of scores in float64."""
  split = _split(300, 1200)
  model = Near(split.num_items, split.num_users, nnx.Rngs(0))
  graphdef, params, rest = split_model(model)
  places, bias, users = (np.asarray(x[...], np.float64) for x in (model.places, model.bias, model.users))
  for devices, parts, batch_size, chunk in _CUTS:
    evaluator = Evaluator(
      graphdef, split, Layout.of(10, packed=True), make_mesh(jax.devices()[:devices], parts), batch_size, chunk
    )
    for name in ("valid", "test"):
      ranks, recommended = evaluator.ranks(params, rest, name)
      inputs, seen, targets = split.inputs(name), split.seen(name), split.targets(name)
      for user in range(300):
        apart = ((places - users[user]) ** 2).sum(-1) + ((places - places[inputs[user][-1]]) ** 2).sum(-1)
        scores = bias - 2 * apart
        scores[[0, *seen[user]]] = -np.inf
        assert ranks[user] == (scores >= scores[targets[user]]).sum(), (devices, name, user)
        assert np.array_equal(scores[recommended[user]], -np.sort(-scores)[:10]), (devices, name, user)
  model.bias[...] = model.bias[...].at[7].set(jnp.nan)
  with pytest.raises(ScoresNotFinite, match="scores are not finite"):
    evaluator(split_model(model)[1], rest, "valid")
