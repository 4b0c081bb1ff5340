from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mlrec.data.static_shapes import most
from mlrec.data.static_shapes import round_up
from mlrec.data.static_shapes import stacked
from mlrec.data.static_shapes import StaticSizes


@pytest.mark.parametrize(
  ("size", "multiple", "wanted"), [(0, 4, 0), (1, 4, 4), (4, 4, 4), (5, 4, 8), (7, 1, 7), (9, 8, 16)]
)
def test_a_size_is_rounded_up_to_a_multiple(size, multiple, wanted):
  assert round_up(size, multiple) == wanted


def test_batches_that_fit_get_the_planned_sizes():
  sizes = StaticSizes([10.2, 7], multiple_of=4)
  assert sizes.holding([[1, 1]]) == (12, 8)
  assert sizes.holding([[12, 3], [5, 8]]) == (12, 8)


def test_sizes_hold_the_largest_of_their_batches():
  sizes = StaticSizes([10, 7])
  assert sizes.holding([[11, 2], [3, 7]]) == (12, 7)
  assert sizes.holding([[3, 9], [14, 1]]) == (14, 9)


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
  planned=st.lists(st.integers(0, 300), min_size=1, max_size=3), multiple=st.integers(1, 9),
  needed=st.lists(st.lists(st.integers(0, 2000), min_size=3, max_size=3), min_size=1, max_size=4),
)  # fmt: skip
def test_whatever_is_needed_fits_and_few_sizes_serve(planned, multiple, needed):
  needed = [row[: len(planned)] for row in needed]
  sizes = StaticSizes(planned, multiple)
  found = sizes.holding(needed)
  for size, plan, wanted in zip(found, planned, np.max(needed, axis=0)):
    assert size >= max(plan, wanted)
    assert size % multiple == 0
    assert size <= max(round_up(plan, multiple), 1.125 * wanted + multiple)
  assert sizes.holding(needed) == found
  assert sizes.holding([found]) == found, "a grown size is one of the sizes"


def test_a_size_planned_as_nothing_grows():
  assert StaticSizes([0], multiple_of=8).holding([[3]]) == (8,)
  assert StaticSizes([0]).holding([[0]]) == (0,)


def test_hardly_a_batch_passes_the_most():
  rng = np.random.default_rng(0)
  sampled = rng.normal(1000, 20, 64)
  assert most([5, 5, 5]) == 5
  assert (rng.normal(1000, 20, 10_000) <= most(sampled)).all()
  assert most(sampled) < 1150


def test_a_stack_has_zeros_after_its_last_batch():
  batches = [(np.full(3, n, np.int32), {"x": np.full((2, 2), n / 2, np.float32)}) for n in (1, 2)]
  integers, content = stacked(batches, 4)
  assert integers.dtype == np.int32
  assert integers.tolist() == [[1] * 3, [2] * 3, [0] * 3, [0] * 3]
  assert content["x"].dtype == np.float32
  assert content["x"][:, 0, 0].tolist() == [0.5, 1, 0, 0]
