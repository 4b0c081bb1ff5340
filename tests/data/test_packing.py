from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mlrec.data.packing import pack

_CASES = st.integers(1, 16).flatmap(
  lambda width: st.tuples(st.just(width), st.lists(st.integers(1, width), min_size=1, max_size=60))
)


def _next_fit(lengths, width: int) -> int:
  rows, used = 0, width
  for length in lengths:
    if used + length > width:
      rows, used = rows + 1, 0
    used += length
  return rows


def _first_fit(lengths, width: int) -> int:
  rows: list[int] = []
  for length in lengths:
    for n, used in enumerate(rows):
      if used + length <= width:
        rows[n] += length
        break
    else:
      rows.append(length)
  return len(rows)


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(case=_CASES)
def test_every_piece_has_a_place_of_its_own_within_a_row(case):
  width, lengths = case
  row, start, num_rows = pack(np.array(lengths), width)
  assert len(row) == len(start) == len(lengths)
  taken = np.zeros((num_rows, width), int)
  for r, s, length in zip(row, start, lengths):
    assert 0 <= r < num_rows
    assert 0 <= s <= width - length
    taken[r, s : s + length] += 1
  assert taken.max() == 1
  assert taken.any(axis=1).all(), "no row is empty"


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(case=_CASES)
def test_needs_no_more_rows_than_simpler_fits(case):
  width, lengths = case
  num_rows = pack(np.array(lengths), width)[2]
  longest_first = sorted(lengths, reverse=True)
  assert num_rows <= _next_fit(longest_first, width)
  assert num_rows == _first_fit(longest_first, width)
  assert num_rows >= -(-sum(lengths) // width)


@settings(derandomize=True, deadline=None, max_examples=40, database=None)
@given(case=_CASES, seed=st.integers(0, 100))
def test_is_a_function_of_the_lengths_and_their_order_costs_nothing(case, seed):
  width, lengths = case
  lengths = np.array(lengths)
  for one, other in zip(pack(lengths, width), pack(lengths.copy(), width)):
    assert np.array_equal(one, other)
  assert pack(np.random.default_rng(seed).permutation(lengths), width)[2] == pack(lengths, width)[2]


@pytest.mark.parametrize("width", [10, 16, 32])
def test_fills_short_histories_almost_without_gaps(width):
  lengths = np.random.default_rng(0).integers(1, 7, 2000)
  num_rows = pack(lengths, width)[2]
  assert num_rows <= _next_fit(lengths, width)
  assert lengths.sum() / (num_rows * width) > 0.97


def test_no_pieces_need_no_rows():
  row, start, num_rows = pack(np.empty(0, np.int64), 5)
  assert (len(row), len(start), num_rows) == (0, 0, 0)
