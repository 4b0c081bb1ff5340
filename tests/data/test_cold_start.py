import numpy as np
import pytest

from mlrec.data import cold_start
from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data import Rows
from mlrec.data.interactions import Interactions


def _split(seed: int = 0, users: int = 150, items: int = 30, min_length: int = 5):
  rng = np.random.default_rng(seed)
  rows = [rng.permutation(items)[: rng.integers(5, 14)] * 3 + 7 for _ in range(users)]
  return leave_one_out(Interactions(np.arange(users) + 100, Rows.from_lists(rows)), min_length=min_length)


def _lists(rows: Rows) -> list[list[int]]:
  return [rows[n].tolist() for n in range(len(rows))]


def _plain(split, cold):
  """The protocol in plain Python: of the users who stay their number, their whole row and their training row."""
  found = []
  for number, user in enumerate(split.users.tolist()):
    row = split.rows[number].tolist()
    train = [item for item in row[:-2] if item not in cold]
    if len(train) >= 3:
      found.append((user, row, train))
  return zip(*found)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
@pytest.mark.parametrize("seed", [0, 7])
def test_equals_the_protocol_stated_row_by_row(share, seed):
  split = _split(seed)
  cold = set(cold_start.cold_items(split.num_items, share=share, seed=seed).tolist())
  assert len(cold) == round(share * split.num_items)
  found = cold_start.force(split, share=share, seed=seed)
  users, rows, train = _plain(split, cold)
  assert found.users.tolist() == list(users)
  assert _lists(found.train) == list(train)
  assert found.train.values.dtype == split.train.values.dtype
  assert found.item_ids.tolist() == split.item_ids.tolist()
  assert found.num_skipped == split.num_skipped + split.num_users - len(users)
  assert 0 < len(users) < split.num_users
  # What is made of training rows does not know of them either.
  assert _lists(found.inputs("train")) == [row[:-1] for row in train]
  assert found.train_counts[sorted(cold)].sum() == 0
  assert found.popularity[sorted(cold)].sum() == 0
  assert found.popularity[1:].sum() == pytest.approx(1)
  for name, hidden in (("valid", 2), ("test", 1)):
    assert found.targets(name).tolist() == [row[-hidden] for row in rows]
    assert set(found.targets(name).tolist()) & cold, "cold targets stay"


@pytest.mark.parametrize(("name", "hidden"), [("valid", 2), ("test", 1)])
def test_histories_before_a_prediction_hold_what_was_watched_cold_or_not(name, hidden):
  split = _split()
  found = cold_start.force(split, share=0.25, seed=0)
  users, rows, _ = _plain(split, set(found.cold.tolist()))
  histories = [row[:-hidden] for row in rows]
  assert _lists(found.inputs(name)) == [history[-10:] for history in histories]
  assert _lists(found.seen(name)) == histories, "and is excluded from the ranking"
  assert sum(item in found.cold for history in histories for item in history) > len(users)


def test_none_is_the_split_itself_and_each_share_and_seed_another():
  split = _split()
  assert cold_start.force(split, share=0, seed=3) is split
  assert cold_start.force(split, share=0.01, seed=3) is split, "it is less than an item"
  found = [cold_start.force(split, share=share, seed=seed) for share, seed in ((0.1, 0), (0.2, 0), (0.1, 1))]
  assert found[0].fingerprint == cold_start.force(split, share=0.1, seed=0).fingerprint
  assert len({split.fingerprint, *(one.fingerprint for one in found)}) == 4


def test_the_items_are_the_same_everywhere_and_those_of_a_smaller_share_among_them():
  assert cold_start.cold_items(10, share=0.3, seed=0).tolist() == [4, 3, 2]
  large = cold_start.cold_items(1000, share=0.4, seed=5)
  assert cold_start.cold_items(1000, share=0.1, seed=5).tolist() == large[:100].tolist()
  assert len(np.unique(large)) == 400
  assert 1 <= large.min() <= large.max() <= 1000


def test_a_share_that_is_none_or_leaves_nobody_is_refused():
  split = _split()
  for share in (-0.1, 1.0, float("nan")):
    with pytest.raises(DataError, match="cold_share must be at least 0 and below 1"):
      cold_start.force(split, share=share, seed=0)
  with pytest.raises(DataError, match=r"config\.data\.cold_share = 0\.98: none of 150 users is left with 3 items"):
    cold_start.force(split, share=0.98, seed=0)
