from collections import Counter

import jax
import numpy as np
import pytest

from mlrec.data import leave_one_out
from mlrec.data import protocols
from mlrec.data import Rows
from mlrec.data import Split
from mlrec.data.batches import Batch
from mlrec.data.batches import eval_batches
from mlrec.data.batches import Layout
from mlrec.data.batches import log_popularity
from mlrec.data.batches import TrainBatches
from mlrec.data.interaction_batches import SEQUENCES
from mlrec.data.interaction_batches import steps_per_epoch
from mlrec.data.interactions import Interactions

_LENGTH = 6
_USERS = 43


def _split(num_users: int = _USERS, num_items: int = 25, seed: int = 0, longest: int = _LENGTH + 5) -> Split:
  rng = np.random.default_rng(seed)
  lists = [rng.integers(1, num_items + 1, rng.integers(5, longest + 1)).tolist() for _ in range(num_users)]
  split = leave_one_out(Interactions(np.arange(1, num_users + 1), Rows.from_lists(lists)), max_length=_LENGTH)
  assert len({tuple(split.train[n]) for n in range(num_users)}) == num_users, "rows must tell users apart"
  return split


@pytest.fixture(scope="module")
def split() -> Split:
  return _split()


_LAYOUTS = {
  "packed": Layout(_LENGTH, packed=True, width=_LENGTH),
  "packed wide": Layout(_LENGTH, packed=True, width=17),
  "padded": Layout.of(_LENGTH, packed=False),
}
layouts = pytest.mark.parametrize("layout", _LAYOUTS.values(), ids=_LAYOUTS)


def _users_of(split: Split, batch: Batch) -> list[int]:
  """The users of a batch in the order of its slots, recognised by their rows."""
  known = {tuple(split.train[n]): n for n in range(split.num_users)}
  rows = batch.items[batch.slots]
  return [known[tuple(row[row != 0])] for row in rows if row.any()]


def _steps(split: Split, batches: TrainBatches, epoch: int) -> list[list[int]]:
  steps = batches.steps_per_epoch
  return [_users_of(split, batches.batch(epoch * steps + n)) for n in range(steps)]


def _check(split: Split, batch: Batch, *, batch_size: int, groups: int, layout: Layout, multiple_of: int = 1):
  """Compares a batch with what its users' rows say, place by place."""
  users = _users_of(split, batch)
  rows = [split.train[user].tolist() for user in users]
  assert len(users) <= batch_size
  # Groups are told by where a user's places lie; rows of one item have none and would leave it open.
  num_rows, width = batch.history.tokens.shape
  assert num_rows % groups == 0
  group_of = [0] * len(rows)
  for r, w in zip(*np.nonzero(batch.weights)):
    group_of[batch.users[r, w]] = r // (num_rows // groups)
  sizes = np.bincount(group_of, minlength=groups)
  assert sizes.max() <= batch_size // groups
  assert sizes.max() - sizes.min() <= 1

  # Distinct items, each once, between the padding's column and filler.
  distinct = {item for row in rows for item in row}
  assert batch.items[0] == 0
  assert sorted(batch.items[batch.items != 0]) == sorted(distinct)
  held = np.flatnonzero(batch.items)
  assert held.tolist() == list(range(1, len(distinct) + 1))

  # Slots and counts.
  assert batch.slots.shape[1] == layout.max_length + 1
  assert not batch.slots[len(rows) :].any()
  for row, slots in zip(rows, batch.slots):
    assert batch.items[slots].tolist() == [0] * (layout.max_length + 1 - len(row)) + row
  for group in range(groups):
    wanted = Counter(item for row, of in zip(rows, group_of) if of == group for item in row)
    assert batch.counts[group].tolist() == [wanted[int(item)] for item in batch.items]

  # Places.
  assert width == layout.width
  assert set(np.unique(batch.weights)) <= {0.0, 1.0}
  seen = Counter()
  where = {}
  for r, w in zip(*np.nonzero(batch.weights)):
    user, position = int(batch.users[r, w]), int(batch.history.positions[r, w])
    place = position - (layout.max_length - (len(rows[user]) - 1))
    assert batch.items[batch.history.tokens[r, w]] == rows[user][place]
    assert batch.items[batch.targets[r, w]] == rows[user][place + 1]
    assert r // (num_rows // groups) == group_of[user]
    assert batch.history.segments[r, w] != 0
    seen[user, place] += 1
    where.setdefault((r, int(batch.history.segments[r, w])), set()).add(user)
    assert batch.weights[r, w - place] == 1, "a user's places lie side by side"
    assert batch.users[r, w - place] == user
  assert seen == Counter((user, place) for user, row in enumerate(rows) for place in range(len(row) - 1))
  assert all(len(users_of_segment) == 1 for users_of_segment in where.values())
  assert len(where) == len([row for row in rows if len(row) > 1])
  empty = batch.weights == 0
  for array in (batch.history.tokens, batch.history.segments):
    assert not array[empty].any()
  if not layout.packed:
    assert np.array_equal(batch.history.positions, np.tile(np.arange(width), (num_rows, 1)))

  for size in (len(batch.items), num_rows, len(batch.slots)):
    assert size % multiple_of == 0


@layouts
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_batches_say_what_their_users_rows_say(split, layout, groups, multiple_of):
  batches = TrainBatches(split, layout, batch_size=12, seed=3, negative_groups=groups, multiple_of=multiple_of)
  popularity = np.log(np.where(split.popularity > 0, split.popularity, 1))
  for step in range(2 * batches.steps_per_epoch):
    batch = batches.batch(step)
    _check(split, batch, batch_size=12, groups=groups, layout=layout, multiple_of=multiple_of)
    np.testing.assert_allclose(batch.log_popularity, popularity[batch.items], rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 12, 42, 43, 100])
def test_batches_of_an_epoch_share_the_users_and_their_items_evenly(split, batch_size):
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=batch_size, seed=0)
  assert batches.steps_per_epoch == -(-_USERS // batch_size)
  epoch = [batches.batch(step) for step in range(batches.steps_per_epoch)]
  users = [len(_users_of(split, batch)) for batch in epoch]
  assert sum(users) == _USERS
  assert max(users) - min(users) <= 1
  assert max(users) <= batch_size
  assert {len(batch.slots) for batch in epoch} == {batch_size}
  places = [batch.weights.sum() for batch in epoch]
  assert max(places) - min(places) <= 2 * _LENGTH


@layouts
def test_every_user_comes_once_an_epoch_in_a_new_order(split, layout):
  batches = TrainBatches(split, layout, batch_size=10, seed=1)
  epochs = [[user for users in _steps(split, batches, epoch) for user in users] for epoch in range(3)]
  for users in epochs:
    assert sorted(users) == list(range(_USERS))
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
  assert all(users != sorted(users) for users in epochs)


def test_content_is_a_function_of_seed_and_step(split):
  def make(seed=5, **options):
    return TrainBatches(split, _LAYOUTS["packed"], batch_size=10, seed=seed, **options)

  forwards = {step: make().batch(step) for step in range(12)}
  used = make()
  for step in (11, 2, 7, 0, 11, 5):
    jax.tree.map(np.testing.assert_array_equal, used.batch(step), forwards[step])
  users = _users_of(split, forwards[7])
  assert _users_of(split, make(multiple_of=8).batch(7)) == users
  assert _users_of(split, make(negative_groups=2).batch(7)) == users
  padded = TrainBatches(split, _LAYOUTS["padded"], batch_size=10, seed=5)
  assert _users_of(split, padded.batch(7)) == users
  assert _users_of(split, make(seed=6).batch(7)) != users


def _trimmed(batch: Batch, columns: int, rows: int) -> Batch:
  """A batch cut to so many columns and rows a group."""
  groups = len(batch.counts)

  def cut(x):
    return x.reshape(groups, -1, x.shape[-1])[:, :rows].reshape(-1, x.shape[-1])

  return batch._replace(
    items=batch.items[:columns],
    counts=batch.counts[:, :columns],
    log_popularity=batch.log_popularity[:columns],
    history=jax.tree.map(cut, batch.history),
    targets=cut(batch.targets),
    users=cut(batch.users),
    weights=cut(batch.weights),
  )


@layouts
@pytest.mark.parametrize("groups", [1, 4])
def test_a_stack_holds_the_batches_of_its_steps(split, layout, groups):
  batches = TrainBatches(split, layout, batch_size=8, seed=2, negative_groups=groups)
  stack = batches.stack(3, 5, 8)
  for n in range(8):
    stacked = jax.tree.map(lambda x, n=n: x[n], stack)
    if n >= 5:
      assert not any(np.any(leaf) for leaf in jax.tree.leaves(stacked))
      continue
    single = batches.batch(3 + n)
    columns = min(len(single.items), len(stacked.items))
    rows = min(len(single.weights), len(stacked.weights)) // groups
    for batch in (single, stacked):
      assert not batch.items[columns:].any()
      assert batch.weights.sum() == _trimmed(batch, columns, rows).weights.sum()
    jax.tree.map(np.testing.assert_array_equal, _trimmed(stacked, columns, rows), _trimmed(single, columns, rows))


def test_company_changes_from_epoch_to_epoch(split):
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=10, seed=1)
  together = Counter()
  for epoch in range(60):
    for users in _steps(split, batches, epoch):
      together.update((a, b) for a in users for b in users if a < b)
  # 903 pairs, each together about one epoch in five, save neighbours in length that one lot keeps apart.
  assert len(together) > 0.93 * _USERS * (_USERS - 1) / 2
  assert max(together.values()) < 40


@pytest.mark.parametrize("layout", [_LAYOUTS["packed"], _LAYOUTS["padded"]], ids=["packed", "padded"])
def test_arrays_come_in_few_sizes(layout):
  split = _split(300, 200, seed=4)
  batches = TrainBatches(split, layout, batch_size=32, seed=0, multiple_of=8)
  shapes = Counter(
    tuple(leaf.shape for leaf in jax.tree.leaves(batches.batch(step))) for step in range(20 * batches.steps_per_epoch)
  )
  assert len(shapes) <= 3
  assert max(shapes.values()) > 0.9 * shapes.total()


def test_dtypes_are_those_of_the_device(split):
  batch = TrainBatches(split, _LAYOUTS["packed"], batch_size=8, seed=0).batch(0)
  floats = (batch.weights, batch.log_popularity)
  assert {leaf.dtype for leaf in floats} == {np.dtype(np.float32)}
  integers = (batch.items, batch.counts, batch.slots, *batch.history, batch.targets, batch.users)
  assert {leaf.dtype for leaf in integers} == {np.dtype(np.int32)}


@layouts
def test_users_with_one_item_to_train_on_hold_it_and_predict_nothing(layout):
  lists = [[1, 2, 3], [4, 5, 6, 7], [1, 2, 3, 4, 5], [9, 8, 7]]
  interactions = Interactions(np.arange(1, 5), Rows.from_lists(lists))
  split = leave_one_out(interactions, max_length=_LENGTH, min_length=3)
  batches = TrainBatches(split, layout, batch_size=4, seed=0)
  batch = batches.batch(0)
  _check(split, batch, batch_size=4, groups=1, layout=layout)
  assert batch.weights.sum() == 3


@pytest.mark.parametrize(("size", "groups"), [(0, 1), (-4, 1), (10, 4), (4, 0)])
def test_sizes_that_make_no_batch_are_refused(split, size, groups):
  with pytest.raises(ValueError, match="batch_size"):
    TrainBatches(split, _LAYOUTS["packed"], batch_size=size, seed=0, negative_groups=groups)


def test_a_packed_row_holds_the_longest_history():
  # Several short histories fit a row; a long one always does.
  assert Layout.of(10, packed=True).width == 16
  assert Layout.of(32, packed=True).width == 32
  assert Layout.of(10, packed=False).width == 10


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0, -0.5, -1.0])
def test_log_popularity_is_the_log_share_of_powered_counts(power):
  counts = np.array([0, 4, 0, 1, 7])
  start = 1 if power < 0 else 0  # with a negative power counting starts from 1
  raised = [0.0] + [float(start + c) ** power if start + c else 0.0 for c in counts[1:]]
  logs = log_popularity(counts, power)
  assert logs.dtype == np.float32
  assert logs[0] == 0
  for n in range(1, 5):
    share = raised[n] / sum(raised)
    assert logs[n] == pytest.approx(np.log(share), rel=1e-6) if share else logs[n] == -np.inf


def test_popularity_power_reaches_the_batches(split):
  batch = TrainBatches(split, _LAYOUTS["packed"], batch_size=8, seed=0, popularity_power=0.5).batch(0)
  wanted = log_popularity(split.train_counts, 0.5)[batch.items]
  assert np.array_equal(batch.log_popularity, wanted)
  assert not np.array_equal(batch.log_popularity, log_popularity(split.train_counts)[batch.items])


@layouts
@pytest.mark.parametrize("groups", [1, 4])
def test_negatives_are_columns_of_items_beside_what_the_batch_holds_anyway(split, layout, groups):
  def make(negatives):
    return TrainBatches(split, layout, batch_size=12, seed=3, negative_groups=groups, negatives=negatives)

  batches, without = make(9), make(0)
  for step in range(2 * batches.steps_per_epoch):
    batch, plain = batches.batch(step), without.batch(step)
    assert batch.negatives.shape == (9,)
    assert batch.negatives.dtype == np.int32
    assert plain.negatives.shape == (0,)
    drawn = batch.items[batch.negatives]
    assert drawn.min() >= 1
    held = set(plain.items.tolist()) | set(drawn.tolist())
    assert batch.items[: len(held)].tolist() == sorted(held)
    assert not batch.items[len(held) :].any()
    # They are no slots: counts, rows and targets are those of the batch without them.
    np.testing.assert_array_equal(batch.items[batch.slots], plain.items[plain.slots])
    np.testing.assert_array_equal(
      batch.items[batch.targets][batch.weights > 0], plain.items[plain.targets][plain.weights > 0]
    )
    for counts, plain_counts in zip(batch.counts, plain.counts):
      assert Counter(dict(zip(batch.items[counts > 0], counts[counts > 0]))) == Counter(
        dict(zip(plain.items[plain_counts > 0], plain_counts[plain_counts > 0]))
      )


def test_negatives_are_drawn_uniformly_by_seed_and_step(split):
  def make(seed=0, batch_size=20, **options):
    return TrainBatches(split, _LAYOUTS["packed"], batch_size=batch_size, seed=seed, negatives=50, **options)

  def drawn(batches, step):
    batch = batches.batch(step)
    return batch.items[batch.negatives].tolist()

  batches = make()
  counts = Counter(item for step in range(120) for item in drawn(batches, step))
  assert set(counts) == set(range(1, split.num_items + 1))
  mean = 120 * 50 / split.num_items
  assert all(abs(count - mean) < 5 * np.sqrt(mean) for count in counts.values())
  assert drawn(batches, 7) == drawn(make(multiple_of=8), 7) == drawn(make(negative_groups=2), 7)
  assert drawn(batches, 7) != drawn(batches, 8)
  assert drawn(batches, 7) != drawn(make(seed=1), 7)


@pytest.mark.parametrize("power", [1.0, 0.5, -1.0])
def test_negatives_by_popularity_are_drawn_as_often_as_the_loss_is_told(split, power):
  batches = TrainBatches(
    split, _LAYOUTS["packed"], batch_size=20, seed=0, negatives=500, negatives_by_popularity=True,
    popularity_power=power,
  )  # fmt: skip
  counts, shares = Counter(), {}
  for step in range(60):
    batch = batches.batch(step)
    counts.update(batch.items[batch.negatives].tolist())
    shares |= dict(zip(batch.items.tolist(), np.exp(batch.log_popularity.astype(np.float64))))
  wanted = {item: 60 * 500 * share for item, share in shares.items() if item}
  assert sum(wanted.values()) == pytest.approx(60 * 500, rel=1e-5), "all items were in some batch"
  assert 0 not in counts
  for item, mean in wanted.items():
    assert abs(counts[item] - mean) <= 5 * np.sqrt(mean), item
  assert np.ptp(list(wanted.values())) > 100, "not all alike"


def test_a_stack_holds_the_negatives_of_its_steps(split):
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=8, seed=2, negatives=5)
  stack = batches.stack(3, 3, 4)
  assert stack.negatives.shape == (4, 5)
  for n in range(3):
    single = batches.batch(3 + n)
    assert stack.items[n][stack.negatives[n]].tolist() == single.items[single.negatives].tolist()
  assert not stack.negatives[3].any()


@layouts
@pytest.mark.parametrize("name", ["valid", "test"])
@pytest.mark.parametrize(("batch_size", "multiple_of"), [(10, 1), (_USERS, 1), (100, 1), (10, 8)])
def test_evaluation_batches_hold_the_splits_users_in_order(split, layout, name, batch_size, multiple_of):
  batches = list(eval_batches(split, name, layout, batch_size=batch_size, multiple_of=multiple_of))
  _check_evaluation(split, name, layout, batches, np.arange(_USERS))
  assert len(batches[0].targets) == -(-batch_size // multiple_of) * multiple_of


@layouts
def test_validation_and_test_batches_have_the_same_shapes(split, layout):
  shapes = {
    tuple(leaf.shape for leaf in jax.tree.leaves(batch))
    for name in ("valid", "test")
    for batch in eval_batches(split, name, layout, batch_size=10)
  }
  assert len(shapes) == 1, "else each would be compiled"


def _in_time(num_users: int = _USERS, **options) -> Split:
  """A split of which some users are evaluated on neither, on one, and on both of the others."""
  rng = np.random.default_rng(3)
  rows = Rows.from_lists([rng.integers(1, 26, rng.integers(2, 30)) for _ in range(num_users)])
  times = np.concatenate([np.sort(rng.integers(0, 1000, length)) for length in rows.lengths])
  log = Interactions(np.arange(1, num_users + 1), rows, timestamps=times)
  return protocols.parse("time:0.7,0.1").split(log, **({"max_length": _LENGTH, "min_length": 2} | options))


@layouts
@pytest.mark.parametrize("name", ["valid", "test"])
def test_evaluation_batches_hold_the_users_who_have_a_target(layout, name):
  split = _in_time()
  users = split.evaluated(name)
  assert 0 < len(users) < _USERS
  batches = list(eval_batches(split, name, layout, batch_size=10))
  _check_evaluation(split, name, layout, batches, users)
  assert split.most_seen > _LENGTH + 2


@layouts
def test_windows_of_long_histories_are_rows_of_their_own(layout):
  split = _in_time(train_windows=0)
  batches = TrainBatches(split, layout, batch_size=16, seed=1)
  assert split.num_users < len(split.train_sequences)
  assert batches.steps_per_epoch == steps_per_epoch(split, SEQUENCES, 16) == -(-len(split.train_sequences) // 16)
  wanted = Counter(tuple(split.train_sequences[n]) for n in range(len(split.train_sequences)))
  for epoch in range(2):
    found: Counter[tuple[int, ...]] = Counter()
    targets = 0
    for n in range(batches.steps_per_epoch):
      batch = batches.batch(epoch * batches.steps_per_epoch + n)
      rows = batch.items[batch.slots]
      found.update(tuple(row[row != 0]) for row in rows if row.any())
      targets += int(batch.weights.sum())
    assert found == wanted
    # Each item but a history's first is a target once.
    assert targets == (split.train.lengths - 1).clip(min=0).sum()


@pytest.fixture
def in_blocks(monkeypatch):
  """Epochs of more than 100 rows are ordered in blocks of some 64."""
  monkeypatch.setattr("mlrec.data.batches._ORDERED_WHOLE", 100)
  monkeypatch.setattr("mlrec.data.batches._ORDERED", 64)


@pytest.mark.usefixtures("in_blocks")
@pytest.mark.parametrize("batch_size", [1, 7, 30, 32, 299, 300, 400])
def test_an_epoch_in_blocks_visits_every_user_once_in_batches_of_one_size(batch_size):
  split = _split(300, 60, seed=4)
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=batch_size, seed=0)
  epochs = [list(_steps(split, batches, epoch)) for epoch in range(2)]
  for epoch in epochs:
    assert sorted(user for users in epoch for user in users) == list(range(300))
    sizes = [len(users) for users in epoch]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
  if batch_size < 300:
    assert epochs[0] != epochs[1]


@pytest.mark.usefixtures("in_blocks")
def test_batches_of_blocks_are_of_few_sizes_and_a_function_of_the_step():
  split = _split(600, 60, seed=4)
  batches = TrainBatches(split, _LAYOUTS["packed"], batch_size=20, seed=3)
  epoch = [batches.batch(step) for step in range(batches.steps_per_epoch)]
  assert len({tuple(leaf.shape for leaf in jax.tree.leaves(batch)) for batch in epoch}) <= 2
  places = [batch.weights.sum() for batch in epoch]
  assert max(places) - min(places) <= 0.25 * np.mean(places)
  again = TrainBatches(split, _LAYOUTS["packed"], batch_size=20, seed=3)
  for step in (29, 3, 17):
    jax.tree.map(np.testing.assert_array_equal, again.batch(step), epoch[step])
  other = TrainBatches(split, _LAYOUTS["packed"], batch_size=20, seed=4)
  assert _users_of(split, other.batch(3)) != _users_of(split, epoch[3])


def test_an_evaluation_of_many_batches_looks_at_some_for_their_size(monkeypatch, split):
  whole = list(eval_batches(split, "test", _LAYOUTS["packed"], batch_size=2))
  monkeypatch.setattr("mlrec.data.batches._EVAL_LOOKED_AT", 10)
  _check_evaluation(split, "test", _LAYOUTS["packed"], whole, np.arange(_USERS))
  some = list(eval_batches(split, "test", _LAYOUTS["packed"], batch_size=2))
  _check_evaluation(split, "test", _LAYOUTS["packed"], some, np.arange(_USERS))


@layouts
def test_evaluation_of_some_users_holds_those_in_the_order_asked(split, layout):
  users = np.array([40, 3, 3, 17, 0, 42, 8])
  _check_evaluation(split, "test", layout, list(eval_batches(split, "test", layout, batch_size=4, users=users)), users)


def _check_evaluation(split, name, layout, batches, users):
  assert len({tuple(leaf.shape for leaf in jax.tree.leaves(batch)) for batch in batches}) == 1
  inputs, seen, targets, evaluated = (ask(name) for ask in (split.inputs, split.seen, split.targets, split.evaluated))
  size = len(batches[0].targets)
  assert len(batches) == -(-len(users) // size)
  for n, batch in enumerate(batches):
    here = users[n * size : (n + 1) * size]
    flat = [x.reshape(-1) for x in batch.history]
    used = 0
    for place, user in enumerate(here):
      assert batch.users[place] == user
      row_of_user = int(np.searchsorted(evaluated, user))
      history = inputs[row_of_user].tolist()
      last = int(batch.last[place])
      where = slice(last - len(history) + 1, last + 1)
      assert where.start // layout.width == last // layout.width, "a history lies in one row"
      assert flat[0][where].tolist() == history
      assert flat[1][where].tolist() == list(range(layout.max_length - len(history), layout.max_length))
      row = last // layout.width
      mine = batch.history.segments[row] == flat[2][last]
      assert flat[2][last] != 0
      assert np.flatnonzero(mine).tolist() == list(range(where.start % layout.width, last % layout.width + 1))
      assert sorted(batch.seen[place][batch.seen[place] != 0]) == sorted(seen[row_of_user])
      assert batch.targets[place] == targets[row_of_user]
      used += len(history)
    assert (batch.history.segments != 0).sum() == used
    assert (batch.targets[len(here) :] == 1).all()
    assert not batch.seen[len(here) :].any()
