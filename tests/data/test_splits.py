from collections import Counter

from absl import logging as absl_logging
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import read_pairs
from mlrec.data import Rows
from mlrec.data.interactions import Interactions

_LINES = st.lists(st.tuples(st.integers(1, 6), st.lists(st.integers(1, 12), max_size=12)), min_size=1, max_size=10)


def _interactions(lines) -> Interactions:
  return Interactions(np.array([user for user, _ in lines], np.int64), Rows.from_lists([items for _, items in lines]))


def _lists(rows: Rows) -> list[list[int]]:
  return [rows[n].tolist() for n in range(len(rows))]


class _Plain:
  """The protocol in plain Python, line by line."""

  def __init__(self, lines, max_length: int, min_length: int):
    kept, exists = {}, set()
    for user, items in lines:
      if len(items) < min_length:
        continue
      items = items[-(max_length + 3) :]
      exists.update(items)
      kept[user] = items  # a dict keeps the place of the first assignment
    self.item_ids = [0] + sorted(exists)
    number = {item: n for n, item in enumerate(self.item_ids)}
    self.users = list(kept)
    self.num_skipped = len({user for user, _ in lines}) - len(kept)
    rows = [[number[item] for item in items] for items in kept.values()]
    self.train = [row[:-2] for row in rows]
    self.targets = {"valid": [row[-2] for row in rows], "test": [row[-1] for row in rows]}
    self.seen = {"valid": [row[:-2] for row in rows], "test": [row[:-1] for row in rows]}
    self.inputs = {
      "train": [row[:-1] for row in self.train],
      "valid": [row[:-1][-(max_length + 1) :][:-1] for row in rows],
      "test": [row[-(max_length + 1) :][:-1] for row in rows],
    }
    counts = Counter(item for row in self.train for item in row)
    total = max(sum(counts.values()), 1)
    self.popularity = [1.0] + [counts[n] / total for n in range(1, len(self.item_ids))]


def _check(split, plain):
  assert split.users.tolist() == plain.users
  assert split.num_users == len(plain.users)
  assert split.item_ids.tolist() == plain.item_ids
  assert split.num_items == len(plain.item_ids) - 1
  assert split.num_skipped == plain.num_skipped
  assert _lists(split.train) == plain.train
  for name in ("train", "valid", "test"):
    assert _lists(split.inputs(name)) == plain.inputs[name]
  for name in ("valid", "test"):
    assert _lists(split.seen(name)) == plain.seen[name]
    assert split.targets(name).tolist() == plain.targets[name]
  np.testing.assert_allclose(split.popularity, plain.popularity, rtol=1e-12)


def test_golden_training_rows(golden, golden_path):
  wanted = golden("id_dataset_L10")
  split = leave_one_out(read_pairs(golden_path / "splits_pairs.tsv"), max_length=10)
  assert np.array_equal(split.train.padded(11), wanted["sample_items"])
  mask = split.inputs("train").padded(10) != 0
  assert np.array_equal(mask, wanted["log_mask"] != 0)


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(lines=_LINES, max_length=st.integers(1, 11), min_length=st.integers(3, 6))
def test_equals_the_protocol_stated_line_by_line(lines, max_length, min_length):
  plain = _Plain(lines, max_length, min_length)
  if not plain.users:
    with pytest.raises(DataError):
      leave_one_out(_interactions(lines), max_length=max_length, min_length=min_length)
    return
  _check(leave_one_out(_interactions(lines), max_length=max_length, min_length=min_length), plain)


def test_defaults_are_those_of_the_benchmark():
  lines = [(1, [10, 20, 30, 40]), (2, list(range(100, 115))), (3, [5, 6, 7, 8, 9])]
  split = leave_one_out(_interactions(lines))
  _check(split, _Plain(lines, 10, 5))
  assert split.users.tolist() == [2, 3]
  assert split.item_ids.tolist() == [0, 5, 6, 7, 8, 9, *range(102, 115)]


def test_a_repeated_user_counts_both_lines_for_the_items_and_the_later_one_for_the_rest():
  lines = [(1, [50, 51, 52, 53, 54]), (2, [60, 61, 62, 63, 64]), (1, [70, 71, 72, 73, 60])]
  split = leave_one_out(_interactions(lines))
  assert split.users.tolist() == [1, 2]
  assert split.item_ids.tolist() == [0, 50, 51, 52, 53, 54, 60, 61, 62, 63, 64, 70, 71, 72, 73]
  assert split.item_ids[_lists(split.rows)[0]].tolist() == [70, 71, 72, 73, 60]
  assert split.popularity[1:6].tolist() == [0] * 5
  assert split.num_skipped == 0


def test_a_later_line_that_is_too_short_replaces_nothing_and_counts_for_nothing():
  lines = [(1, [50, 51, 52, 53, 54]), (1, [60, 61])]
  split = leave_one_out(_interactions(lines))
  assert split.item_ids.tolist() == [0, 50, 51, 52, 53, 54]
  assert _lists(split.rows) == [[1, 2, 3, 4, 5]]
  assert split.num_skipped == 0


def test_an_earlier_line_that_is_too_short_keeps_no_place():
  lines = [(1, [50, 51]), (2, [1, 2, 3, 4, 5]), (1, [6, 7, 8, 9, 10])]
  assert leave_one_out(_interactions(lines)).users.tolist() == [2, 1]


def test_short_users_are_counted_and_reported(monkeypatch):
  said = []
  monkeypatch.setattr(absl_logging, "warning", lambda text, *args: said.append(text % args))
  leave_one_out(_interactions([(1, [1, 2, 3, 4, 5])]))
  assert said == []
  split = leave_one_out(_interactions([(1, [1, 2, 3, 4, 5]), (2, [1, 2, 3, 4]), (3, [9])]))
  assert split.num_skipped == 2
  assert len(said) == 1
  assert "2 of 3 users" in said[0]


def test_lengths_that_leave_no_split_are_refused():
  interactions = _interactions([(1, [1, 2, 3, 4, 5])])
  with pytest.raises(DataError, match="max_length"):
    leave_one_out(interactions, max_length=0)
  with pytest.raises(DataError, match="min_length"):
    leave_one_out(interactions, min_length=2)
  with pytest.raises(DataError, match="6 items"):
    leave_one_out(interactions, min_length=6)


def test_an_unknown_split_is_refused_by_name():
  split = leave_one_out(_interactions([(1, [1, 2, 3, 4, 5])]))
  for ask in (split.inputs, split.seen, split.targets):
    with pytest.raises(ValueError, match="validation"):
      ask("validation")
  with pytest.raises(ValueError, match="train"):
    split.targets("train")


def test_equal_splits_share_a_fingerprint_and_different_ones_do_not():
  lines = [(1, [1, 2, 3, 4, 5]), (2, [5, 6, 7, 8, 9, 10])]
  split = leave_one_out(_interactions(lines))
  assert split == leave_one_out(_interactions(lines))
  assert split.fingerprint == leave_one_out(_interactions(lines)).fingerprint
  others = [
    leave_one_out(_interactions(lines[::-1])),
    leave_one_out(_interactions([lines[0], (3, lines[1][1])])),
    leave_one_out(_interactions([lines[0], (2, [5, 6, 7, 8, 10, 9])])),
    leave_one_out(_interactions([lines[0], (2, [5, 6, 7, 8, 9, 11])])),
    leave_one_out(_interactions(lines), max_length=9),
  ]
  for other in others:
    assert split != other
  assert len({split.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_a_length_that_keeps_little_of_the_log_is_told(caplog):
  lines = Rows.from_lists([range(1, 101), range(2, 32)])
  interactions = Interactions(np.array([1, 2]), lines, "a_pairs.tsv")
  leave_one_out(interactions, max_length=100)
  leave_one_out(interactions, max_length=40)
  assert not caplog.records
  leave_one_out(interactions, max_length=10)
  assert "a_pairs.tsv: data.max_length=10 keeps the last 13 items of a user, 20 % of all interactions" in caplog.text


def test_a_log_that_holds_each_line_twice_is_warned_of(caplog):
  lines = [[1, 2, 3, 4, 5], [2, 3, 4, 5, 1]]
  doubled = [[item for item in line for _ in range(2)] for line in lines]
  leave_one_out(Interactions(np.array([1, 2]), Rows.from_lists(doubled), "twice.csv"))
  assert "the test item of 2 of 2 users is one that they had watched before" in caplog.text
  caplog.clear()
  leave_one_out(Interactions(np.array([1, 2]), Rows.from_lists(lines), "once.csv"))
  assert "before" not in caplog.text
