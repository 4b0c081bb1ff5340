"""Sums over the graph of interactions, and their gradients, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec.models.layers import graph as graph_lib
from mlrec.models.layers.graph import Graph

# User 1 has no edge, nor have items 2 and 6; user 3 has item 4 twice.
ROWS = [[1, 3, 5], [], [5, 1], [4, 4, 3], [7]]
USERS, ITEMS, WIDTH = 5, 7, 16
PAIRS = [(user, item) for user, row in enumerate(ROWS) for item in row]
BY_ITEM = sorted(range(len(PAIRS)), key=lambda n: (PAIRS[n][1], n))


def make(rows) -> Graph:
  return Graph(np.array([len(row) for row in rows]), np.array([item for row in rows for item in row], np.int32), ITEMS)


@pytest.fixture(scope="module")
def graph() -> Graph:
  return make(ROWS)


@pytest.fixture(scope="module")
def arrays():
  rng = np.random.default_rng(0)
  shapes = {"users": (USERS, WIDTH), "items": (ITEMS + 1, WIDTH), "weights": (len(PAIRS),)}
  return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def dense(weights):
  """`[USERS, ITEMS + 1]`, the sum of the weights (in the order of users) of the edges between a user and an item."""
  users, items = np.transpose(PAIRS)
  return jnp.zeros((USERS, ITEMS + 1)).at[users, items].add(weights)


def assert_close(found, wanted):
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_degrees_are_numbers_of_edges(graph):
  assert graph.user_degrees.tolist() == [3, 0, 2, 3, 1]
  assert graph.item_degrees.tolist() == [0, 2, 0, 2, 2, 2, 0, 1]


def test_sums_over_neighbours_are_matrix_products_and_so_are_their_gradients(graph, arrays):
  ones = np.ones(len(PAIRS), np.float32)

  def by_graph(users, items):
    return graph.to_users(items), graph.to_items(users)

  def by_matrix(users, items):
    return dense(ones) @ items, dense(ones).T @ users

  def value(form):
    return lambda users, items: sum(jnp.sum(jnp.sin(part)) for part in form(users, items))

  at = arrays["users"], arrays["items"]
  assert_close(by_graph(*at), by_matrix(*at))
  assert_close(*(jax.grad(value(form), (0, 1))(*at) for form in (by_graph, by_matrix)))


def test_weighted_sums_have_the_gradients_of_matrix_products(graph, arrays):
  def by_graph(users, items, weights):
    return graph.to_users(items, weights), graph.to_items(users, graph.by_item(weights))

  def by_matrix(users, items, weights):
    return dense(weights) @ items, dense(weights).T @ users

  def value(form):
    return lambda *at: sum(jnp.sum(jnp.sin(part)) for part in form(*at))

  at = arrays["users"], arrays["items"], arrays["weights"]
  assert_close(by_graph(*at), by_matrix(*at))
  assert_close(*(jax.grad(value(form), (0, 1, 2))(*at) for form in (by_graph, by_matrix)))


def test_dot_products_by_edge_and_their_gradients(graph, arrays):
  users, items = np.transpose(PAIRS)

  def by_graph(x, y):
    return graph.dots(x, y)

  def by_matrix(x, y):
    return (x @ y.T)[users, items]

  def value(form):
    return lambda *at: jnp.sum(jnp.sin(form(*at)))

  at = arrays["users"], arrays["items"]
  assert_close(by_graph(*at), by_matrix(*at))
  assert_close(*(jax.grad(value(form), (0, 1))(*at) for form in (by_graph, by_matrix)))


@pytest.mark.parametrize("width", [WIDTH, 3])
def test_both_forms_give_the_same(graph, width, arrays):
  x, y = arrays["items"][:, :width], arrays["users"][:, :width]
  edges = graph.edges_to_users
  for weights in (None, arrays["weights"]):
    assert_close(*(graph_lib.sum_by_target(edges, x, weights, USERS, loop=loop) for loop in (True, False)))
  assert_close(*(graph_lib.dot_by_edge(edges, x, y, loop=loop) for loop in (True, False)))


def test_softmax_is_over_a_nodes_edges_however_large_the_scores(graph, arrays):
  scores = 100 * arrays["weights"]
  by_user, by_item = graph.softmax_by_user(scores), graph.softmax_by_item(graph.by_item(scores))
  raised = np.exp(np.asarray(scores, np.float64))
  users, items = np.transpose(PAIRS)
  wanted = [raised[n] / raised[users == users[n]].sum() for n in range(len(PAIRS))]
  assert_close(by_user, np.array(wanted))
  wanted = [raised[n] / raised[items == items[n]].sum() for n in BY_ITEM]
  assert_close(by_item, np.array(wanted))


def test_the_softmax_has_its_gradient(graph, arrays):
  users, _ = np.transpose(PAIRS)
  same = jnp.asarray(users[:, None] == users)

  def by_matrix(scores):
    return jnp.exp(scores) / (same @ jnp.exp(scores))

  gradients = (
    jax.grad(lambda s, form=form: jnp.sum(jnp.sin(3 * form(s))))(arrays["weights"])
    for form in (graph.softmax_by_user, by_matrix)
  )
  assert_close(*gradients)


def test_values_of_nodes_at_their_edges(graph):
  assert graph.at_items(jnp.arange(ITEMS + 1)).tolist() == [item for _, item in PAIRS]
  assert graph.at_users(jnp.arange(USERS)).tolist() == [PAIRS[n][0] for n in BY_ITEM]


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ([[], [], [], [], []], "no training interaction"),
    ([[1], [8], [], [], []], "items 1 to 7, not 1 to 8"),
    ([[0], [2], [], [], []], "items 1 to 7, not 0 to 2"),
  ],
)
def test_rows_that_make_no_graph_are_refused(rows, message):
  with pytest.raises(ValueError, match=message):
    make(rows)


def test_rows_whose_lengths_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="with 3 items in all was given 4"):
    Graph(np.array([1, 2]), np.array([1, 2, 3, 4]), ITEMS)
