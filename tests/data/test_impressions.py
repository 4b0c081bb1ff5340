"""Impressions of histories, and batches of them, against what they say."""

import dataclasses

import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import kept_split
from mlrec.data import leave_one_out
from mlrec.data.id_map import IdMap
from mlrec.data.impression_batches import ImpressionBatches
from mlrec.data.impressions import Examples
from mlrec.data.impressions import Impressions
from mlrec.data.impressions import of_split
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import Rows
from mlrec.data.negatives import Negatives

_LENGTH, _DRAWN = 4, 3


@pytest.fixture(scope="module")
def split():
  rng = np.random.default_rng(3)
  rows = [rng.choice(np.arange(1, 31), rng.integers(3, 9), replace=False) for _ in range(40)]
  lines = Rows(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))
  return leave_one_out(Interactions(np.arange(40), lines), max_length=_LENGTH, min_length=3)


@pytest.fixture(scope="module")
def impressions(split):
  return of_split(split, drawn=_DRAWN)


def test_training_shows_what_was_watched_after_what_came_before_it(split, impressions):
  train = impressions.train
  found = {
    (int(train.users[n]), tuple(history), int(train.targets[n]))
    for n in range(len(train))
    for history in [train.histories(np.array([n]), _LENGTH)[0].tolist()]
  }
  wanted = {
    (user, tuple(split.train[user][:place][-_LENGTH:].tolist()), int(split.train[user][place]))
    for user in range(split.num_users)
    for place in range(1, len(split.train[user]))
  }
  assert found == wanted
  assert len(train) == len(wanted)
  assert train.labels.all()


@pytest.mark.parametrize("name", ["valid", "test"])
def test_targets_are_shown_beside_what_the_user_has_not_the_same_in_every_run(name, split, impressions):
  one = impressions.examples[name]
  shown = one.targets.reshape(-1, _DRAWN + 1)
  np.testing.assert_array_equal(shown[:, 0], split.targets(name))
  assert one.labels.reshape(shown.shape).tolist() == [[1, 0, 0, 0]] * len(shown)
  for user, others in zip(split.evaluated(name), shown[:, 1:]):
    assert not set(others.tolist()) & set(split.rows[int(user)].tolist())
  assert one.histories(np.arange(0, len(one), _DRAWN + 1), _LENGTH) == split.inputs(name)
  again = of_split(split, drawn=_DRAWN).examples[name]
  np.testing.assert_array_equal(one.targets, again.targets)
  assert one.digest == again.digest
  assert impressions.examples["valid"].digest != impressions.examples["test"].digest


def test_an_epoch_visits_each_impression_once_beside_fresh_draws(split, impressions):
  batches = ImpressionBatches(impressions, max_length=_LENGTH, batch_size=16, seed=5, multiple_of=4)
  seen, drawn = [], []
  for step in range(batches.steps_per_epoch):
    batch = batches.batch(step)
    assert len(batch.items) % 4 == 0
    assert len(batch.targets) == 16
    items, inputs = batch.items[batch.targets], batch.items[batch.inputs]
    for row in np.flatnonzero(batch.weights):
      seen.append((*inputs[row].tolist(), int(items[row, 0])))
      drawn.append(items[row, 1:])
      assert batch.labels[row].tolist() == [1, 0, 0, 0]
    assert (batch.items[batch.targets[batch.weights == 0]] == 0).all()
  train = impressions.train
  histories = train.histories(np.arange(len(train)), _LENGTH).padded(_LENGTH)
  wanted = [(*history.tolist(), int(target)) for history, target in zip(histories, train.targets)]
  assert sorted(seen) == sorted(wanted)
  assert np.min(drawn) >= 1
  # A later epoch shows the same in another order, beside other items.
  first, later = batches.batch(0), batches.batch(batches.steps_per_epoch)
  assert not np.array_equal(first.items[first.targets], later.items[later.targets])


def test_a_batch_is_a_function_of_seed_and_step_and_a_stack_is_of_batches(impressions):
  batches, again = (ImpressionBatches(impressions, max_length=_LENGTH, batch_size=16, seed=5) for _ in range(2))
  again.batch(0)
  for one, other in zip(batches.batch(3)[:-1], again.batch(3)[:-1]):
    np.testing.assert_array_equal(one, other)
  stack = batches.stack(2, 2, 3)
  for n, step in enumerate((2, 3)):
    batch = batches.batch(step)
    np.testing.assert_array_equal(stack.items[n][stack.targets[n]], batch.items[batch.targets])
  assert not stack.weights[2].any()
  other = ImpressionBatches(impressions, max_length=_LENGTH, batch_size=16, seed=6).batch(3)
  assert not np.array_equal(other.items[other.targets], batches.batch(3).items[batches.batch(3).targets])


def test_stated_labels_are_taken_as_they_are():
  rows = Rows.from_lists([[1, 2], [3], []], np.int32)
  labels = np.array([0, 1, 1], np.uint8)
  train = Examples(
    rows, np.arange(3), np.array([2, 1, 0]), np.array([4, 5, 1], np.int32), labels, np.zeros(3, np.int32)
  )
  batch = ImpressionBatches(Impressions({"train": train}), max_length=2, batch_size=3, seed=0).batch(0)
  found = sorted(zip(batch.items[batch.targets][:, 0].tolist(), batch.labels[:, 0].tolist()))
  assert found == [(1, 1.0), (4, 0.0), (5, 1.0)]
  assert sorted(batch.items[batch.inputs].tolist()) == [[0, 0], [0, 3], [1, 2]]
  assert Impressions({"train": train}).counts(5).tolist() == [0, 2, 1, 1, 1, 1]


def test_negatives_follow_their_shares_and_need_an_item_that_is_left():
  rows = Rows.from_lists([[1], [1, 2]])
  drawn = Negatives(rows, 4, np.array([0, 5.0, 1.0, 3.0, 0])).drawn(np.zeros(8000, int), 1, np.random.default_rng(0))
  counts = np.bincount(drawn.ravel(), minlength=5)
  assert counts[[0, 1, 4]].tolist() == [0, 0, 0]
  assert counts[3] / counts[2] == pytest.approx(3, rel=0.1)
  with pytest.raises(DataError, match="a user has all 2 items: there is none left"):
    Negatives(rows, 2)
  with pytest.raises(DataError, match="all 2 of 4 items that can be drawn"):
    Negatives(rows, 4, np.array([0, 1.0, 1.0, 0, 0]))


def test_fields_of_items_are_kept_with_a_split_and_count_in_its_fingerprint(split, tmp_path):
  tags = np.arange(2 * (split.num_items + 1), dtype=np.int32).reshape(-1, 2)
  fielded = dataclasses.replace(split, item_fields={"item_tags": tags})
  assert fielded.fingerprint != split.fingerprint
  kept_split.write(fielded, tmp_path / "data.safetensors")
  IdMap.of(fielded).write(tmp_path / "ids.safetensors")
  read = kept_split.read(tmp_path / "data.safetensors", tmp_path / "ids.safetensors")
  np.testing.assert_array_equal(read.item_fields["item_tags"], tags)
  assert read.fingerprint == fielded.fingerprint
