"""Batches that are made in parts, so that each process makes its own."""

from collections import Counter

import jax
import numpy as np
import pytest

from mlrec.data import Interactions
from mlrec.data import leave_one_out
from mlrec.data.batches import Layout
from mlrec.data.batches import TrainBatches
from mlrec.data.interactions import Rows

_LENGTH, _PARTS = 10, 4
_LAYOUTS = {name: Layout.of(_LENGTH, packed=name == "packed") for name in ("packed", "padded")}
layouts = pytest.mark.parametrize("layout", _LAYOUTS.values(), ids=_LAYOUTS)


def _split(users=90, items=60, *, seed=0):
  rng = np.random.default_rng(seed)
  lists = [rng.permutation(items)[: rng.integers(3, 16)] + 1 for _ in range(users)]
  return leave_one_out(Interactions(np.arange(1, users + 1), Rows.from_lists(lists)), max_length=_LENGTH, min_length=3)


@pytest.fixture(scope="module")
def split():
  return _split()


def _rows(batch) -> list[tuple[int, ...]]:
  """The items of each user of a batch, in order."""
  return [tuple(item for item in row if item) for row in batch.items[batch.slots].tolist() if any(row)]


def _parts(batch) -> list:
  return [jax.tree.map(lambda x, n=n: x[n], batch) for n in range(len(batch.items))]


def _pairs(batch) -> Counter:
  """Each place's user's items, the item read and the item that follows."""
  places = zip(*np.nonzero(batch.weights))
  rows = batch.items[batch.slots]
  return Counter(
    (
      tuple(rows[batch.users[at]].tolist()),
      int(batch.items[batch.history.tokens[at]]),
      int(batch.items[batch.targets[at]]),
    )
    for at in places
  )


@layouts
@pytest.mark.parametrize("groups", [4, 8])
def test_parts_are_the_groups_of_the_batch_that_is_made_in_one(split, layout, groups):
  whole = TrainBatches(split, layout, batch_size=16, seed=3, negative_groups=groups)
  parted = TrainBatches(split, layout, batch_size=16, seed=3, negative_groups=groups, parts=_PARTS)
  assert parted.steps_per_epoch == whole.steps_per_epoch
  for step in range(2 * whole.steps_per_epoch):
    one, many = whole.batch(step), parted.batch(step)
    users = _rows(one)
    each = [jax.tree.map(lambda x, n=n: x[n], many) for n in range(_PARTS)]
    for number, part in enumerate(each):
      assert _rows(part) == users[number::_PARTS]
      assert len(part.counts) == groups // _PARTS
      held = part.items[part.items != 0]
      assert sorted(held) == sorted({item for row in _rows(part) for item in row})
      # Its groups see what the same groups see in a batch that is made in one.
      for group, counts in enumerate(part.counts):
        wanted = dict(zip(one.items.tolist(), one.counts[number + _PARTS * group].tolist()))
        assert counts[part.items != 0].tolist() == [wanted[item] for item in held]
    assert sum((_pairs(part) for part in each), Counter()) == _pairs(one)


def test_some_parts_are_those_of_the_whole_batch(split):
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=16, seed=3, negative_groups=4, parts=4)
  whole = batches.stack(5, 3, 4)
  some = batches.stack(5, 3, 4, parts=(1, 2))
  assert whole.items.shape[:2] == (4, 4)
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[:, 1:3]), some, whole)
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[1]), batches.batch(6), whole)


def test_all_parts_of_all_batches_have_one_shape(split):
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=16, seed=3, negative_groups=4, parts=4)
  shapes = {tuple(leaf.shape for leaf in jax.tree.leaves(batches.batch(step))) for step in range(60)}
  assert len(shapes) == 1


def test_a_part_without_users_holds_nothing():
  """The last batch of an epoch has fewer users than parts."""
  batches = TrainBatches(_split(users=9), _LAYOUTS["packed"], batch_size=8, seed=0, negative_groups=8, parts=8)
  counts = [[len(_rows(jax.tree.map(lambda x, n=n: x[n], batches.batch(step)))) for n in range(8)] for step in range(2)]
  assert sorted(map(sum, counts)) == [4, 5]
  assert max(map(max, counts)) == 1


def test_each_part_draws_items_of_its_own(split):
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=16, seed=3, negatives=20, parts=4)
  batch = batches.batch(2)
  drawn = np.take_along_axis(batch.items, batch.negatives, axis=1)
  assert drawn.shape == (4, 20)
  assert drawn.min() >= 1
  assert len({tuple(row) for row in drawn.tolist()}) == 4


def test_users_for_whom_a_part_has_no_room_are_left_out_whoever_makes_it(split, caplog):
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=16, seed=3, negative_groups=4, parts=4)
  full = [batches.batch(step) for step in range(batches.steps_per_epoch)]
  columns, rows = batches._fixed
  batches._fixed = columns // 2, rows
  for step, whole in enumerate(full):
    less = batches.batch(step)
    for number in range(4):
      one, other = (jax.tree.map(lambda x, n=number: x[n], batch) for batch in (less, whole))
      assert _rows(one) == _rows(other)[: len(_rows(one))]
      assert _rows(one)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[2:3]), batches.batch(step, parts=(2,)), less)
  assert sum(batch.weights.sum() for batch in full) > sum(
    batches.batch(step).weights.sum() for step in range(batches.steps_per_epoch)
  )
  assert "has no room for all of its users" in caplog.text


@pytest.mark.parametrize(
  ("users", "size", "parts"), [(295, 320, 64), (295, 320, 8), (3000, 1024, 128), (3000, 1500, 500)]
)
def test_hardly_any_user_is_left_out_of_epochs_of_few_steps(users, size, parts):
  split = _split(users, 100)
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=size, seed=0, negative_groups=parts, parts=parts)
  steps = 3 * batches.steps_per_epoch
  assert sum(len(_rows(part)) for step in range(steps) for part in _parts(batches.batch(step))) == 3 * users


@pytest.mark.parametrize(("size", "groups", "parts"), [(16, 4, 8), (16, 4, 3), (12, 1, 8), (16, 4, 0)])
def test_parts_that_do_not_divide_are_refused(split, size, groups, parts):
  with pytest.raises(ValueError, match="multiples of parts"):
    TrainBatches(split, _LAYOUTS["packed"], batch_size=size, seed=0, negative_groups=groups, parts=parts)
