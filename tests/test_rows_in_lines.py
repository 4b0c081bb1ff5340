import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlrec import rows_in_lines

_LANES = 8


def _lines(table: np.ndarray) -> jax.Array:
  in_line = _LANES // table.shape[1]
  return jnp.asarray(np.pad(table, ((0, -len(table) % in_line), (0, 0))).reshape(-1, _LANES))


@pytest.mark.parametrize("at_once", [1, 3, 8192])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_table_is_laid_in_lines_and_taken_from_them_however_many_at_once(monkeypatch, at_once, width):
  monkeypatch.setattr(rows_in_lines, "_AT_ONCE", at_once)
  for rows in (1, 7, 8, 23):
    rows_in_lines.laid.clear_cache()
    rows_in_lines.taken.clear_cache()
    table = np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float32)
    lines = rows_in_lines.laid(jnp.asarray(table), _LANES)
    np.testing.assert_array_equal(lines, _lines(table))
    np.testing.assert_array_equal(rows_in_lines.taken(lines, table.shape), table)


@pytest.mark.parametrize(("width", "several"), [(64, True), (32, True), (128, False), (96, False), (256, False)])
def test_lines_hold_several_rows_or_none(width, several):
  assert rows_in_lines.several_in(width, 128) is several
  assert not rows_in_lines.several_in(width, 0)


@pytest.fixture(params=[1, 2, 4])
def table(request) -> np.ndarray:
  return np.random.default_rng(0).standard_normal((11, request.param)).astype(np.float32)


def test_rows_of_lines_are_those_of_the_table(table):
  items = jnp.array([3, 0, 10, 3, 7])
  width = table.shape[1]
  for lying in (jnp.asarray(table), _lines(table)):
    np.testing.assert_array_equal(rows_in_lines.read(lying, items, width), table[np.asarray(items)])


def test_an_id_beyond_the_table_reads_what_is_in_it(table):
  for lying in (jnp.asarray(table), _lines(table)):
    assert np.isfinite(rows_in_lines.read(lying, jnp.array([12_345]), table.shape[1])).all()


def test_rows_are_put_and_those_beyond_the_table_nowhere(table):
  rows = np.arange(3 * table.shape[1], dtype=np.float32).reshape(3, -1)
  wanted = table.copy()
  wanted[[4, 5]] = rows[:2]
  lines = _lines(table)
  for lying, want in ((jnp.asarray(table), wanted), (lines, _lines(wanted))):
    items = jnp.array([4, 5, rows_in_lines.number(lying, table.shape[1]) + 2])
    np.testing.assert_array_equal(rows_in_lines.put(lying, items, jnp.asarray(rows)), want)


def test_rows_are_added_as_often_as_they_are_named(table):
  rows = np.ones((3, table.shape[1]), np.float32)
  wanted = table.copy()
  np.add.at(wanted, [2, 3, 2], rows)
  for lying, want in ((jnp.asarray(table), wanted), (_lines(table), _lines(wanted))):
    np.testing.assert_allclose(rows_in_lines.add(lying, jnp.array([2, 3, 2]), jnp.asarray(rows)), want, rtol=1e-6)
