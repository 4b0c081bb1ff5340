from collections import Counter

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data import Split
from mlrec.data.batches import log_popularity
from mlrec.data.interaction_batches import InteractionBatch
from mlrec.data.interaction_batches import InteractionBatches
from mlrec.data.interaction_batches import INTERACTIONS
from mlrec.data.interaction_batches import SEQUENCES
from mlrec.data.interaction_batches import steps_per_epoch
from mlrec.data.interactions import Interactions

_LENGTH = 10


def _split_of(lists, max_length: int = _LENGTH, min_length: int = 3) -> Split:
  interactions = Interactions(np.arange(1, len(lists) + 1), Rows.from_lists(lists))
  return leave_one_out(interactions, max_length=max_length, min_length=min_length)


def _split(num_users: int = 37, num_items: int = 30, seed: int = 0, max_length: int = _LENGTH) -> Split:
  """Training rows of 1 to `max_length + 1` items, all of those lengths among them; items repeat within a row."""
  rng = np.random.default_rng(seed)
  lengths = np.concatenate([np.arange(3, max_length + 4), rng.integers(3, max_length + 8, num_users)])[:num_users]
  split = _split_of([rng.integers(1, num_items + 1, length).tolist() for length in lengths], max_length)
  assert set(split.train.lengths) == set(range(1, max_length + 2))
  return split


@pytest.fixture(scope="module")
def split() -> Split:
  return _split()


def _examples(batch: InteractionBatch) -> list[tuple]:
  """The real examples of a batch: `(user, target, inputs, negatives)` in item ids."""
  return [
    (int(batch.users[n]), int(batch.items[batch.targets[n]]), tuple(batch.items[batch.inputs[n]].tolist()),
     tuple(batch.items[batch.negatives[n]].tolist()))
    for n in np.flatnonzero(batch.weights)
  ]  # fmt: skip


def _epoch(batches: InteractionBatches, epoch: int = 0) -> list[tuple]:
  steps = batches.steps_per_epoch
  return [example for n in range(steps) for example in _examples(batches.batch(epoch * steps + n))]


def _wanted(split: Split, width: int) -> Counter:
  """Every `(user, target, inputs)` there is: a user's row without one of its places, by loops."""
  wanted = Counter()
  for user in range(split.num_users):
    row = split.train[user].tolist()
    for place, target in enumerate(row):
      others = row[:place] + row[place + 1 :]
      assert len(others) <= width
      wanted[user, target, (0,) * (width - len(others)) + tuple(others)] += 1
  return wanted


@pytest.mark.parametrize("batch_size", [1, 16, 64, 1000])
def test_an_epoch_visits_every_interaction_once_with_the_rest_of_its_row(split, batch_size):
  batches = InteractionBatches(split, batch_size=batch_size, seed=3, inputs=True)
  number = int(split.train.offsets[-1])
  assert batches.steps_per_epoch == -(-number // batch_size) == steps_per_epoch(split, INTERACTIONS, batch_size)
  for epoch in range(2):
    assert Counter(example[:3] for example in _epoch(batches, epoch)) == _wanted(split, _LENGTH)


def test_of_a_long_row_an_example_comes_with_the_rest_of_its_window():
  width, rng = 4, np.random.default_rng(5)
  lists = [rng.integers(1, 40, length).tolist() for length in (3, 6, 7, 8, 11, 15, 30)]
  interactions = Interactions(np.arange(1, 8), Rows.from_lists(lists))
  split = leave_one_out(interactions, max_length=width, min_length=3, train_windows=0)
  wanted: Counter[tuple] = Counter()
  for user in range(split.num_users):
    row = split.train[user].tolist()
    # Windows from the newest back; an item that two of them share is told with the older one.
    ends = list(range(len(row), 1, -width)) or [len(row)]
    for place, target in enumerate(row):
      end = min(end for end in ends if end > place) if place else ends[-1]
      others = row[max(end - width - 1, 0) : place] + row[place + 1 : end]
      assert len(others) <= width
      wanted[user, target, (0,) * (width - len(others)) + tuple(others)] += 1
  batches = InteractionBatches(split, batch_size=16, seed=3, inputs=True)
  assert Counter(example[:3] for example in _epoch(batches)) == wanted
  plain = InteractionBatches(split, batch_size=16, seed=3)
  assert len(_epoch(plain)) == split.train.offsets[-1] == sum(map(len, lists)) - 2 * len(lists)


_HISTORIES = st.lists(st.lists(st.integers(1, 12), min_size=3, max_size=9), min_size=1, max_size=8)


@settings(derandomize=True, deadline=None, max_examples=60, database=None)
@given(lists=_HISTORIES, batch_size=st.integers(1, 20), negatives=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_any_histories_make_examples_of_all_their_interactions(lists, batch_size, negatives, seed):
  split = _split_of([*lists, list(range(1, 13))], max_length=4)
  batches = InteractionBatches(split, batch_size=batch_size, seed=seed, inputs=True, negatives=negatives)
  found = _epoch(batches)
  assert Counter(example[:3] for example in found) == _wanted(split, 4)
  for user, _, _, drawn in found:
    assert len(drawn) == negatives
    assert not set(drawn) & {0, *split.train[user].tolist()}
    assert all(1 <= item <= split.num_items for item in drawn)


def test_epochs_come_in_other_orders_and_in_other_company(split):
  batches = InteractionBatches(split, batch_size=16, seed=1, inputs=True)
  epochs = [_epoch(batches, epoch) for epoch in range(3)]
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
  users = [[example[0] for example in epoch] for epoch in epochs]
  assert all(order != sorted(order) for order in users)
  assert _epoch(InteractionBatches(split, batch_size=16, seed=2, inputs=True)) != epochs[0]


def test_a_batch_is_a_function_of_seed_and_step(split):
  def make(seed=5, **options):
    return InteractionBatches(split, batch_size=16, seed=seed, inputs=True, negatives=3, **options)

  forwards = {step: make().batch(step) for step in range(20)}
  used = make()
  for step in (19, 2, 11, 0, 19, 7):
    jax.tree.map(np.testing.assert_array_equal, used.batch(step), forwards[step])
  assert _examples(make(multiple_of=8).batch(11)) == _examples(forwards[11])
  assert _examples(make(seed=6).batch(11)) != _examples(forwards[11])
  drawn = [[example[3] for example in _examples(forwards[step])] for step in (0, 1)]
  assert drawn[0] != drawn[1]


def test_negatives_are_uniform_of_what_the_row_has_not():
  lists = [[1, 2, 3, 4, 5, 6, 7], [8, 9, 3, 3, 10, 1, 2], list(range(1, 11))]
  split = _split_of(lists)
  assert split.num_items == 10
  batches = InteractionBatches(split, batch_size=18, seed=0, negatives=40)
  assert batches.steps_per_epoch == 1
  drawn = {user: Counter() for user in range(3)}
  for step in range(60):
    for user, _, _, negatives in _examples(batches.batch(step)):
      drawn[user].update(negatives)
  for user, counts in drawn.items():
    free = set(range(1, 11)) - set(split.train[user].tolist())
    assert set(counts) == free
    mean = counts.total() / len(free)
    # Five standard deviations of a share of that many independent draws.
    assert all(abs(count - mean) < 5 * np.sqrt(mean) for count in counts.values())


def test_a_user_whose_only_free_item_is_one_gets_it():
  split = _split_of([[1, 2, 3, 4, 5, 4], [1, 2, 3, 4, 5, 4]], max_length=6)
  batches = InteractionBatches(split, batch_size=8, seed=0, negatives=50)
  for user, _, _, negatives in _epoch(batches):
    assert set(negatives) == {5}, user


def test_a_user_of_all_items_has_no_negative():
  everything = [1, 2, 3, 4, 1, 2]
  split = _split_of([everything, [1, 2, 3]])
  assert set(split.train[0]) == {1, 2, 3, 4}
  with pytest.raises(DataError, match="a user has all 4 items: there is none left to draw as a negative"):
    InteractionBatches(split, batch_size=4, seed=0, negatives=1)
  assert len(_epoch(InteractionBatches(split, batch_size=4, seed=0))) == 5, "without negatives it is trained on"


def test_a_row_as_long_as_the_catalogue_that_repeats_items_is_not_refused():
  split = _split_of([[1, 1, 1, 2, 3, 4], [1, 2, 3]])
  assert len(split.train[0]) == split.num_items == 4
  found = _epoch(InteractionBatches(split, batch_size=4, seed=0, negatives=20))
  assert {item for user, _, _, drawn in found if user == 0 for item in drawn} == {3, 4}


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_items_are_distinct_and_counted(split, inputs, multiple_of):
  batches = InteractionBatches(split, batch_size=20, seed=4, inputs=inputs, negatives=2, multiple_of=multiple_of)
  shares = log_popularity(split.train_counts)
  for step in range(batches.steps_per_epoch):
    batch = batches.batch(step)
    found = _examples(batch)
    held = {item for _, target, others, drawn in found for item in (target, *others, *drawn)} | {0}
    counts = Counter(item for _, target, others, _ in found for item in (target, *others))
    assert batch.items[: len(held)].tolist() == sorted(held)
    assert not batch.items[len(held) :].any()
    assert batch.counts.tolist() == [counts[int(item)] if item else 0 for item in batch.items]
    np.testing.assert_array_equal(batch.log_popularity, shares[batch.items])
    assert batch.inputs.shape[1] == (_LENGTH if inputs else 0)
    for size in (len(batch.items), len(batch.users)):
      assert size % multiple_of == 0


@pytest.mark.parametrize(("batch_size", "multiple_of", "size"), [(20, 1, 20), (20, 8, 24), (3, 8, 8), (1000, 1, 1000)])
def test_places_without_an_example_weigh_nothing_and_hold_nothing(split, batch_size, multiple_of, size):
  batches = InteractionBatches(split, batch_size=batch_size, seed=0, inputs=True, negatives=2, multiple_of=multiple_of)
  number = int(split.train.offsets[-1])
  for step in {0, batches.steps_per_epoch - 1}:
    batch = batches.batch(step)
    real = min(batch_size, number - step * batch_size)
    assert batch.weights.tolist() == [1.0] * real + [0.0] * (size - real)
    for array in (batch.users, batch.targets, batch.inputs, batch.negatives):
      assert len(array) == size
      assert not array[real:].any()


def test_a_stack_holds_the_batches_of_its_steps(split):
  batches = InteractionBatches(split, batch_size=16, seed=2, inputs=True, negatives=2)
  last = batches.steps_per_epoch - 1  # of fewer examples
  stack = batches.stack(last - 2, 4, 6)
  for n in range(6):
    stacked = jax.tree.map(lambda x, n=n: x[n], stack)
    if n >= 4:
      assert not any(np.any(leaf) for leaf in jax.tree.leaves(stacked))
      continue
    single = batches.batch(last - 2 + n)
    columns = min(len(single.items), len(stacked.items))
    for batch in (single, stacked):
      assert not batch.items[columns:].any()

    def cut(batch, columns=columns):
      return batch._replace(**{name: getattr(batch, name)[:columns] for name in ("items", "counts", "log_popularity")})

    jax.tree.map(np.testing.assert_array_equal, cut(stacked), cut(single))


def test_arrays_come_in_few_sizes():
  split = _split(300, 200, seed=4)
  batches = InteractionBatches(split, batch_size=64, seed=0, inputs=True, negatives=2, multiple_of=8)
  shapes = Counter(
    tuple(leaf.shape for leaf in jax.tree.leaves(batches.batch(step))) for step in range(5 * batches.steps_per_epoch)
  )
  assert len(shapes) <= 2
  assert max(shapes.values()) > 0.9 * shapes.total()


def test_dtypes_are_those_of_the_device(split):
  batch = InteractionBatches(split, batch_size=8, seed=0, inputs=True, negatives=1).batch(0)
  floats = {"log_popularity", "weights"}
  for name, array in batch._asdict().items():
    if name != "content":
      assert array.dtype == (np.float32 if name in floats else np.int32), name


def test_popularity_power_reaches_the_batches(split):
  batch = InteractionBatches(split, batch_size=16, seed=0, popularity_power=0.5).batch(0)
  np.testing.assert_array_equal(batch.log_popularity, log_popularity(split.train_counts, 0.5)[batch.items])


@pytest.mark.parametrize(("size", "negatives"), [(0, 0), (-1, 0), (4, -1)])
def test_sizes_that_make_no_batch_are_refused(split, size, negatives):
  with pytest.raises(ValueError, match=f"batch_size {size} .*negatives {negatives}"):
    InteractionBatches(split, batch_size=size, seed=0, negatives=negatives)


def test_steps_of_an_epoch_count_users_or_interactions(split):
  assert steps_per_epoch(split, SEQUENCES, 10) == -(-split.num_users // 10)
  assert steps_per_epoch(split, INTERACTIONS, 10) == -(-len(split.train.values) // 10)
