"""Recommenders computed at once, against loops over pairs in float64."""

import numpy as np
import pytest

from mlrec.data import Rows
from mlrec.models.registry import models
from mlrec.registry import OptionError

_ITEMS = 12


@pytest.fixture(scope="module")
def train() -> Rows:
  """Rows of one to seven items of 1 to 10, of which some occur twice in a row; items 11 and 12 never occur."""
  rng = np.random.default_rng(0)
  return Rows.from_lists([rng.integers(1, _ITEMS - 1, rng.integers(1, 8)) for _ in range(40)], np.int32)


@pytest.fixture(scope="module")
def histories() -> Rows:
  rng = np.random.default_rng(1)
  return Rows.from_lists([rng.permutation(_ITEMS)[:length] + 1 for length in (1, 2, 5, 10, 3, 0)], np.int32)


def _scores(model, histories: Rows) -> np.ndarray:
  scores = model.scores(histories, np.arange(len(histories)))
  assert scores.dtype == np.float32
  assert scores.shape == (len(histories), _ITEMS + 1)
  return scores


def _create(name: str, train: Rows, **options):
  model = models.create(name, num_items=_ITEMS, **options)
  model.fit(train)
  return model


def _matrix(train: Rows) -> np.ndarray:
  x = np.zeros((len(train), _ITEMS + 1))
  for user in range(len(train)):
    for item in train[user]:
      x[user, item] = 1
  return x


def _summed(weights: np.ndarray, histories: Rows, *, decay: float = 1.0, window: int = 0) -> np.ndarray:
  out = np.zeros((len(histories), _ITEMS + 1))
  for user in range(len(histories)):
    for step, item in enumerate(reversed(histories[user].tolist())):
      if not window or step < window:
        out[user] += decay**step * weights[item]
  return out


def _cosine(train: Rows, shrink: float = 0.0) -> np.ndarray:
  x = _matrix(train)
  weights = np.zeros((_ITEMS + 1, _ITEMS + 1))
  for i in range(1, _ITEMS + 1):
    for j in range(1, _ITEMS + 1):
      together = (x[:, i] * x[:, j]).sum()
      if i != j and together:
        weights[i, j] = together / (np.sqrt(x[:, i].sum() * x[:, j].sum()) + shrink)
  return weights


def _bm25(train: Rows, k1: float, b: float) -> np.ndarray:
  x = _matrix(train)
  counts = x.sum(axis=0)
  mean = counts[counts > 0].mean()
  words = np.zeros_like(x)
  for user, item in np.argwhere(x):
    rarity = np.log(len(train) / (1 + x[user].sum()))
    words[user, item] = rarity * (k1 + 1) / (k1 * (1 - b + b * counts[item] / mean) + 1)
  weights = words.T @ words
  np.fill_diagonal(weights, 0)
  return weights


def _markov(train: Rows, window: int) -> np.ndarray:
  weights = np.zeros((_ITEMS + 1, _ITEMS + 1))
  for user in range(len(train)):
    row = train[user]
    for place, item in enumerate(row):
      for distance in range(1, window + 1):
        if place + distance < len(row) and row[place + distance] != item:
          weights[item, row[place + distance]] += 1 / distance
  return weights


@pytest.mark.parametrize("shrink", [0.0, 7.5])
@pytest.mark.parametrize(("decay", "window"), [(1.0, 0), (0.7, 0), (0.5, 3), (1.0, 1)])
def test_cosine_neighbours_equal_a_loop_over_pairs(train, histories, shrink, decay, window):
  model = _create("item_knn", train, shrink=shrink, decay=decay, window=window)
  wanted = _summed(_cosine(train, shrink), histories, decay=decay, window=window)
  assert (wanted > 0).sum() > 20
  np.testing.assert_allclose(_scores(model, histories), wanted, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (3.0, 1.0), (0.0, 0.5), (2.0, 0.0)])
def test_bm25_neighbours_equal_a_loop_over_pairs(train, histories, k1, b):
  model = _create("item_knn", train, similarity="bm25", k1=k1, b=b, decay=0.8)
  wanted = _summed(_bm25(train, k1, b), histories, decay=0.8)
  np.testing.assert_allclose(_scores(model, histories), wanted, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("at_a_time", [1, 5, 4096])
@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_an_item_is_scored_by_its_nearest_neighbours_alone(train, histories, neighbours, at_a_time):
  weights = _cosine(train, 2.0)
  for scored in range(_ITEMS + 1):
    kept = np.argsort(-weights[:, scored].astype(np.float32), kind="stable")[:neighbours]
    weights[np.setdiff1d(np.arange(_ITEMS + 1), kept), scored] = 0
  model = _create("item_knn", train, shrink=2.0, neighbours=neighbours)
  found = model.weights(train, at_a_time=at_a_time).toarray()
  np.testing.assert_allclose(found, weights, rtol=2e-6, atol=1e-7)
  np.testing.assert_allclose(_scores(model, histories), _summed(weights, histories), rtol=2e-6, atol=1e-7)


def test_of_equally_near_neighbours_the_lowest_ids_are_kept():
  train = Rows.from_lists([[1, 9], [2, 9], [3, 9], [4, 9]], np.int32)
  model = _create("item_knn", train, neighbours=2)
  of_nine = [_scores(model, Rows.from_lists([[item]], np.int32))[0, 9] > 0 for item in (1, 2, 3, 4)]
  assert of_nine == [True, True, False, False]


@pytest.mark.parametrize("window", [1, 3, 50])
@pytest.mark.parametrize("decay", [1.0, 0.7, 0.0])
def test_a_markov_chain_equals_a_loop_over_pairs(train, histories, window, decay):
  model = _create("markov", train, window=window, decay=decay)
  wanted = _summed(_markov(train, window), histories, decay=decay, window=0 if decay else 1)
  assert (wanted > 0).sum() > 20
  np.testing.assert_allclose(_scores(model, histories), wanted, rtol=2e-6, atol=1e-7)


def _ease(train: Rows, regularization: float) -> np.ndarray:
  x = _matrix(train)
  inverse = np.linalg.inv(x.T @ x + regularization * np.eye(_ITEMS + 1))
  weights = -inverse / np.diagonal(inverse)
  np.fill_diagonal(weights, 0)
  return weights


@pytest.mark.parametrize("at_a_time", [1, 5, 1024])
@pytest.mark.parametrize(("regularization", "decay"), [(0.5, 1.0), (30.0, 0.6)])
def test_ease_equals_a_dense_inverse(train, histories, regularization, decay, at_a_time):
  model = _create("ease", train, regularization=regularization, decay=decay)
  weights = _ease(train, regularization)
  np.testing.assert_allclose(model.weights(train, at_a_time=at_a_time), weights, rtol=1e-4, atol=1e-6)
  wanted = _summed(weights, histories, decay=decay)
  assert (wanted != 0).sum() > 20
  np.testing.assert_allclose(_scores(model, histories), wanted, rtol=1e-4, atol=1e-6)


def _items_alone() -> Rows:
  """A history of each item alone, whose scores are the item's row of weights."""
  return Rows.from_lists([[item] for item in range(1, _ITEMS + 1)], np.int32)


def test_ease_minimises_its_loss_under_a_diagonal_of_zeros(train):
  regularization = 4.0
  weights = np.zeros((_ITEMS + 1, _ITEMS + 1))
  weights[1:] = _scores(_create("ease", train, regularization=regularization), _items_alone())
  assert not np.diagonal(weights).any(), "no item speaks for itself"
  x = _matrix(train)
  gradient = -x.T @ (x - x @ weights) + regularization * weights
  np.fill_diagonal(gradient, 0)
  assert np.abs(gradient).max() < 1e-4
  assert np.abs(x.T @ x).max() > 10
  # Items that training lacks neither speak nor are spoken for.
  assert not weights[11:].any()
  assert not weights[:, 11:].any()


@pytest.mark.parametrize(("name", "options"), [("item_knn", {}), ("markov", {"window": 2}), ("ease", {})])
def test_items_that_the_history_says_nothing_of_are_ordered_by_popularity(train, histories, name, options):
  without = _scores(_create(name, train, **options), histories)
  raised = _scores(_create(name, train, popularity=0.25, **options), histories)
  counts = np.bincount(train.values, minlength=_ITEMS + 1)
  np.testing.assert_allclose(raised - without, np.tile(0.25 * counts / counts.max(), (len(histories), 1)), atol=2e-6)
  assert not without[-1].any(), "the last history is empty"


@pytest.mark.parametrize("name", ["item_knn", "markov", "ease"])
def test_scores_do_not_depend_on_the_other_users(train, histories, name):
  model = _create(name, train, decay=0.7)
  whole = _scores(model, histories)
  for user in range(len(histories)):
    np.testing.assert_array_equal(_scores(model, histories.take(np.array([user])))[0], whole[user])


def test_popularity_is_the_count_in_training(train, histories):
  wanted = [sum(int((train[user] == item).sum()) for user in range(len(train))) for item in range(_ITEMS + 1)]
  np.testing.assert_array_equal(_scores(_create("popularity", train), histories), [wanted] * len(histories))


@pytest.mark.parametrize(
  ("name", "options", "message"),
  [
    ("item_knn", {"similarity": "cosin"}, "similarity = 'cosin'.*'cosine'"),
    ("item_knn", {"shrink": -1.0}, "shrink = -1.0 must be at least 0"),
    ("item_knn", {"shrink": np.nan}, "shrink = nan must be a finite number"),
    ("item_knn", {"k1": -0.1}, "k1 = -0.1"),
    ("item_knn", {"b": 1.5}, "b = 1.5 must be between 0 and 1"),
    ("item_knn", {"neighbours": -1}, "neighbours = -1"),
    ("item_knn", {"window": -2}, "window = -2"),
    ("item_knn", {"decay": 1.1}, "decay = 1.1 must be between 0 and 1"),
    ("item_knn", {"popularity": np.inf}, "popularity = inf must be a finite number"),
    ("item_knn", {"neighbors": 3}, "neighbors = 3: 'item_knn' has no such option; did you mean 'neighbours'"),
    ("markov", {"window": 0}, "window = 0 must be at least 1"),
    ("markov", {"decay": -0.5}, "decay = -0.5"),
    ("ease", {"regularization": 0.0}, "regularization = 0.0 must be above 0"),
    ("ease", {"max_items": 11}, "max_items = 11: the data has 12 items.* GiB.*item_knn"),
  ],
)
def test_what_cannot_be_computed_is_refused_by_name(name, options, message):
  with pytest.raises(OptionError, match=message):
    models.create(name, num_items=_ITEMS, **options)


def test_a_regularization_that_float32_loses_is_refused():
  always_together = Rows.from_lists([[1, 2], [2, 1], [1, 2]], np.int32)
  model = models.create("ease", num_items=2, regularization=1e-12)
  with pytest.raises(OptionError, match=r"^regularization = 1e-12 is too small"):
    model.fit(always_together)


def test_the_refusal_of_a_large_catalogue_states_the_memory():
  with pytest.raises(OptionError, match=r"91402 items, whose dense weights take 31\.1 GiB"):
    models.create("ease", num_items=91_402)


def test_a_model_may_be_fitted_again(train, histories):
  for name in ("item_knn", "markov", "ease", "popularity"):
    model = _create(name, Rows.from_lists([[1, 2, 3]], np.int32))
    model.fit(train)
    np.testing.assert_array_equal(_scores(model, histories), _scores(_create(name, train), histories))
