"""Permutations by a key."""

import numpy as np
import pytest

from mlrec.data.permutation import KeyedPermutation


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 1000, 4097])
def test_every_place_is_taken_once(size):
  found = KeyedPermutation(size, (7, 1))(np.arange(size))
  assert found.dtype == np.int64
  assert sorted(found.tolist()) == list(range(size))


def test_a_part_is_that_of_the_whole():
  permutation = KeyedPermutation(10_000, (3,))
  whole = permutation(np.arange(10_000))
  some = np.array([9_999, 17, 17, 0, 4_000])
  assert np.array_equal(permutation(some), whole[some])


def test_keys_choose_the_permutation():
  places = np.arange(2000)
  orders = {
    tuple(KeyedPermutation(2000, key)(places).tolist()) for key in ((0, 0), (0, 1), (1, 0), (1, 1), (2**32 - 1, 5))
  }
  assert len(orders) == 5
  assert np.array_equal(KeyedPermutation(2000, (4, 2))(places), KeyedPermutation(2000, (4, 2))(places))


def test_more_than_memory_holds_is_permuted_too():
  size = 34_492_051_000
  found = KeyedPermutation(size, (0,))(np.arange(size - 1000, size))
  assert len(set(found.tolist())) == 1000
  assert found.min() >= 0
  assert found.max() < size


def test_places_go_anywhere():
  """A chi-squared test of where the places 0 to 63 of 64 go under 4,000 keys, and of neighbours' distances."""
  size, keys = 64, 4000
  orders = np.array([KeyedPermutation(size, (key,))(np.arange(size)) for key in range(keys)])
  for place in (0, 1, 31, 63):
    counts = np.bincount(orders[:, place], minlength=size)
    chi = ((counts - keys / size) ** 2 / (keys / size)).sum()
    assert chi < 120  # 63 degrees of freedom: beyond with a chance of 2e-5
  apart = np.bincount((orders[:, 1] - orders[:, 0]) % size, minlength=size)[1:]
  expected = keys / (size - 1)
  assert ((apart - expected) ** 2 / expected).sum() < 120
