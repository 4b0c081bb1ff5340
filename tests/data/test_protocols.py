"""Protocols other than leave-one-out, and training windows, each beside its statement in plain Python."""

import datetime

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mlrec import mapped
from mlrec.data import cold_start
from mlrec.data import DataError
from mlrec.data import interactions
from mlrec.data import leave_one_out
from mlrec.data import protocols
from mlrec.data import read_pairs
from mlrec.data import Rows
from mlrec.data import Split
from mlrec.data.interactions import Interactions
from mlrec.data.names import Names
from mlrec.data.protocols.users import lots
from mlrec.data.splits import windows
from mlrec.registry import OptionError

# Of each user, (time, item) pairs; and the moments that cut them.
_LOGS = st.lists(
  st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), min_size=1, max_size=12).map(
    lambda row: sorted(row, key=lambda pair: pair[0])
  ),
  min_size=1,
  max_size=8,
)


def _interactions(log: list[list[tuple[int, int]]], scale: int = 1, start: int = 0) -> Interactions:
  rows = Rows.from_lists([[item for _, item in row] for row in log])
  times = np.array([start + scale * time for row in log for time, _ in row], np.int64)
  return Interactions(np.arange(len(log)) + 10, rows, "a_pairs.csv", timestamps=times)


def _lists(rows: Rows) -> list[list[int]]:
  return [rows[n].tolist() for n in range(len(rows))]


def _split(text: str, interactions: Interactions, **options) -> Split:
  return protocols.parse(text).split(interactions, **({"max_length": 3, "min_length": 2} | options))


def _check(split: Split, log, parts: dict[int, dict[str, int | None]], max_length: int) -> None:
  """`parts` has of each kept user (by number) how many items train, and the places of the targets."""
  users = list(parts)
  assert split.users.tolist() == [user + 10 for user in users]
  rows = [[item for _, item in log[user]] for user in users]
  items = sorted({item for row in rows for item in row})
  assert split.item_ids.tolist() == [0, *items]
  dense = [[items.index(item) + 1 for item in row] for row in rows]
  assert _lists(split.rows) == dense
  assert _lists(split.train) == [row[: part["train"]][-max_length - 1 :] for row, part in zip(dense, parts.values())]
  assert split.train.values.dtype == np.int32
  for name in split.cuts.targets:
    wanted = [(n, row, part[name]) for n, (row, part) in enumerate(zip(dense, parts.values())) if part[name]]
    assert split.evaluated(name).tolist() == [n for n, _, _ in wanted]
    assert split.targets(name).tolist() == [row[place] for _, row, place in wanted]
    assert _lists(split.seen(name)) == [row[:place] for _, row, place in wanted]
    assert _lists(split.inputs(name)) == [row[:place][-max_length:] for _, row, place in wanted]
    assert split.seen(name).lengths.max() <= split.most_seen


@settings(derandomize=True, deadline=None, max_examples=150, database=None)
@given(
  log=_LOGS, moments=st.lists(st.integers(1, 20), min_size=2, max_size=2, unique=True), max_length=st.integers(1, 5)
)
def test_two_dates_equal_the_protocol_stated_user_by_user(log, moments, max_length):
  first, second = sorted(moments)
  day = 86_400_000
  start = 1_600_000_000 // 86_400 * day
  dates = [datetime.datetime.fromtimestamp((start + day * moment) / 1000, datetime.UTC) for moment in (first, second)]
  text = "time:" + ",".join(f"{date:%Y-%m-%d}" for date in dates)
  parts: dict[int, dict[str, int | None]] = {}
  for user, row in enumerate(log):
    if len(row) >= 2:
      train, before = (sum(time < moment for time, _ in row) for moment in (first, second))
      parts[user] = {"train": train}
      parts[user] |= {"valid": train if 0 < train < before else None, "test": before if 0 < before < len(row) else None}
  trained = any(part["train"] >= 2 for part in parts.values())
  evaluated = all(any(part[name] for part in parts.values()) for name in ("valid", "test"))
  interactions = _interactions(log, day, start)
  if not (trained and evaluated):
    with pytest.raises(DataError):
      _split(text, interactions, max_length=max_length)
    return
  split = _split(text, interactions, max_length=max_length)
  _check(split, log, parts, max_length)
  assert split.num_skipped == len(log) - len(parts)


def _days(*rows: list[int]) -> Interactions:
  """A user a row, who watches the items 1, 2, … on those days of 2023."""
  log = [[(day, n) for n, day in enumerate(row, start=1)] for row in rows]
  return _interactions(log, 86_400, int(datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC).timestamp()))


def test_shares_cut_the_interactions_of_all_users_by_time():
  split = _split("time:0.5,0.25", _days([0, 1, 2, 9], [3, 4, 5, 6], [4, 7, 8]))
  # Of eleven the places 6 and 8 cut, at the days 5 and 7.
  assert split.cuts.train.tolist() == [3, 2, 1]
  assert split.cuts.targets["valid"].tolist() == [-1, 2, -1]
  assert split.cuts.targets["test"].tolist() == [3, -1, 1]


def test_one_date_has_the_last_tenth_before_it_validate():
  days = _days(list(range(20)), [30, 31], [5, 32])
  split = _split("time:2023-01-21", days)
  # Of the 21 before the twentieth day the place 18 is day 17.
  assert split.cuts.train.tolist() == [17, 0, 1]
  assert split.cuts.targets["valid"].tolist() == [17, -1, -1]
  assert split.cuts.targets["test"].tolist() == [-1, -1, 1]


@pytest.mark.parametrize(("unit", "ticks"), [("seconds", 1), ("milli", 10**3), ("micro", 10**6), ("nano", 10**9)])
def test_dates_are_compared_in_the_unit_of_the_timestamps(unit, ticks, capsys):
  log = [[(0, 1), (3600, 2), (7200, 3), (7201, 4), (9000, 5)]]
  start = int(datetime.datetime(2023, 5, 1, tzinfo=datetime.UTC).timestamp())
  interactions = _interactions(log, ticks, start * ticks)
  split = _split("time:2023-05-01T02:00,2023-05-01T04:00:00.500+02:00", interactions)
  assert split.cuts.train.tolist() == [2]
  assert split.cuts.targets["valid"].tolist() == [2]
  assert split.cuts.targets["test"].tolist() == [3], "half a second after 7200 is before 7201"
  assert f"a_pairs.csv: timestamps are taken for {unit}" in capsys.readouterr().err


@pytest.mark.parametrize("times", [[5, 6, 7, 8], [1_600_000_000, 1_600_000_001, 1_600_000_000_000, 1_600_000_000_001]])
def test_timestamps_of_no_unit_are_refused_for_dates_and_serve_for_shares(times):
  interactions = _interactions([[(time, n) for n, time in enumerate(times, start=1)]])
  with pytest.raises(DataError, match=rf"timestamps of a_pairs\.csv, {times[0]} to {times[-1]}, are no times of 1980"):
    _split("time:2020-01-01", interactions)
  assert _split("time:0.5,0.25", interactions).cuts.train.tolist() == [2]


def test_a_log_without_timestamps_is_refused_with_what_has_them():
  interactions = Interactions(np.array([1]), Rows.from_lists([[1, 2, 3]]), "microlens/50k-sequences")
  with pytest.raises(DataError, match=r"'time:0\.8,0\.1': microlens/50k-sequences has no timestamps; .*-interactions"):
    _split("time:0.8,0.1", interactions)


def test_timestamps_that_are_not_in_order_are_refused():
  with pytest.raises(DataError, match="not in the order of their timestamps"):
    _split("time:0.8,0.1", _interactions([[(1, 1), (2, 2)], [(3, 1), (2, 2)]]))


def test_a_moment_that_leaves_nothing_is_told():
  days = _days([0, 1, 2, 3])
  for text, message in (
    ("time:2022-01-01", "has nothing before it"),
    ("time:2022-01-01,2023-01-03", "no user has two items to train on"),
    ("time:2023-01-03,2024-01-01", "no user has both a test item and a history before it"),
    ("time:0.7,0.01", "no user has both a valid item"),
  ):
    with pytest.raises(DataError, match=message):
      _split(text, days)


def test_a_csv_brings_its_timestamps_along(tmp_path):
  path = tmp_path / "own_pairs.csv"
  path.write_text("user,item,timestamp\n7,1,30\n3,2,20\n7,5,10\n3,9,40\n7,8,30\n")
  read = read_pairs(path)
  assert read.users.tolist() == [7, 3]
  assert _lists(read.histories) == [[5, 1, 8], [2, 9]]
  assert _lists(read.history_times) == [[10, 30, 30], [20, 40]]
  assert leave_one_out(read, min_length=3).protocol == "leave_one_out"


def _many(count: int = 4000, **options) -> Interactions:
  rows = Rows.from_lengths(np.arange(4 * count) % 50 + 1, np.full(count, 4))
  return Interactions(np.arange(count) * 3 + 5, rows, **options)


def test_unseen_users_train_whole_or_are_predicted_for_at_their_last_item():
  split = _split("users:0.7,0.2", _many())
  trains = split.cuts.train > 0
  assert (split.cuts.train[trains] == 4).all()
  parts = [set(np.flatnonzero(trains)), set(split.evaluated("valid")), set(split.evaluated("test"))]
  assert sum(map(len, parts)) == len(set.union(*parts)) == 4000
  assert [len(part) / 4000 for part in parts] == pytest.approx([0.7, 0.2, 0.1], abs=0.03)
  for name in ("valid", "test"):
    users = split.evaluated(name)
    assert split.targets(name).tolist() == [split.rows[user][-1] for user in users]
    assert _lists(split.inputs(name)) == [split.rows[user][:-1].tolist() for user in users]
  # All that is said of items is of the users who train.
  assert split.train_counts.sum() == 4 * trains.sum()


def test_a_user_keeps_its_side_as_the_log_grows():
  small, large = _split("users:0.7,0.2", _many(500)), _split("users:0.7,0.2", _many(4000))
  assert np.array_equal(small.cuts.train, large.cuts.train[:500])
  assert np.array_equal(small.cuts.targets["test"], large.cuts.targets["test"][:500])


def test_lots_are_even_and_of_the_name_where_there_is_one():
  drawn = lots(np.arange(1, 100_001))
  assert np.histogram(drawn, 10, (0, 1))[0] == pytest.approx(np.full(10, 10_000), rel=0.05)
  names = Names.of(np.array([1, 2, 3]), ["a", "b", "ü🎬"])
  swapped = Names.of(np.array([5, 4, 9]), ["a", "b", "ü🎬"])
  assert lots(np.array([1, 2, 3]), names).tolist() == lots(np.array([5, 4, 9]), swapped).tolist()


def test_none_trains_on_everything_and_has_no_targets():
  split = _split("none", _interactions([[(0, 4), (1, 5), (2, 6)], [(0, 4)], [(0, 7), (0, 4)]]))
  assert _lists(split.train) == [[1, 2, 3], [4, 1]]
  assert split.num_skipped == 1
  with pytest.raises(ValueError, match="unknown split 'valid'"):
    split.targets("valid")


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(rows=st.lists(st.lists(st.integers(1, 99), max_size=30), min_size=1, max_size=6), length=st.integers(1, 9))
def test_windows_share_an_item_and_have_each_but_the_first_as_a_target_once(rows, length):
  found = windows(Rows.from_lists(rows), length)
  wanted = []
  for row in rows:
    end = len(row)
    while end > 1:
      wanted.append(row[max(end - length - 1, 0) : end])
      end -= length
  assert _lists(found) == wanted
  assert sum(len(window) - 1 for window in wanted) == sum(max(len(row) - 1, 0) for row in rows)


@pytest.mark.parametrize(("number", "kept"), [(1, 4), (2, 7), (5, 16), (0, 20)])
def test_so_many_windows_are_trained_on(number, kept):
  log = _interactions([[(n, n + 1) for n in range(20)], [(0, 1), (1, 2)]])
  split = _split("none", log, train_windows=number)
  assert _lists(split.train) == [list(range(21 - kept, 21)), [1, 2]]
  assert _lists(split.train_sequences)[:2] == [[17, 18, 19, 20], [1, 2] if number == 1 else [14, 15, 16, 17]]
  # Shared items count once.
  assert split.train_counts[1:].tolist() == (np.bincount([*range(21 - kept, 21), 1, 2], minlength=21)[1:]).tolist()


def test_leave_one_out_keeps_what_its_windows_need():
  interactions = Interactions(np.array([1, 2]), Rows.from_lists([range(1, 101), range(1, 6)]))
  split = leave_one_out(interactions, max_length=10, train_windows=3)
  assert split.item_ids[split.rows[0]].tolist() == list(range(68, 101))
  assert split.rows.lengths.tolist() == [33, 5]
  assert split.train_sequences.lengths.tolist() == [11, 11, 11, 3]
  assert split.seen("test").lengths.tolist() == [32, 4], "what is kept is excluded"
  whole = leave_one_out(interactions, max_length=10, train_windows=0)
  assert whole.rows.lengths.tolist() == [100, 5]
  assert _lists(whole.inputs("test"))[0] == list(range(90, 100))
  assert len({split.fingerprint, whole.fingerprint, leave_one_out(interactions, max_length=10).fingerprint}) == 3


def test_training_that_reads_little_of_long_histories_is_told(caplog):
  log = _interactions([[(n, n + 1) for n in range(40)]])
  _split("time:0.8,0.1", log, train_windows=0)
  assert not caplog.records
  _split("time:0.8,0.1", log)
  assert "training reads the last 4 items of a user, 12 % of what is there to train on" in caplog.text
  assert "config.data.train_windows = 0" in caplog.text


def test_few_users_who_are_evaluated_are_told(caplog):
  rows = [[0, 1, 2, 3]] * 150 + [[1, 2, 8, 9]]
  _split("time:2023-01-05,2023-01-10", _days(*rows))
  assert "only 1 of 151 users have a valid item and a history before it" in caplog.text
  assert "only 1 of 151 users have a test item" in caplog.text


def test_protocols_tell_their_splits_apart():
  interactions = _many(300, timestamps=np.tile(np.arange(4), 300) * 10 + np.repeat(np.arange(300), 4) % 10)
  texts = ("leave_one_out", "none", "users:0.7,0.2", "users:0.7,0.1", "time:0.5,0.2", "time:0.5,0.3")
  splits = [_split(text, interactions, min_length=3) for text in texts]
  assert len({split.fingerprint for split in splits}) == len(texts)
  for text, split in zip(texts, splits):
    assert split == _split(text, interactions, min_length=3)
    assert sum(split == other for other in splits) == 1


def test_forced_cold_start_drops_only_users_who_lost_items():
  split = _split("users:0.5,0.25", _many(400))
  cold = cold_start.force(split, share=0.3, seed=1)
  assert set(split.users[split.evaluated("test")]) == set(cold.users[cold.evaluated("test")])
  assert not np.isin(cold.train.values, cold.cold).any()
  left = cold.train.lengths[cold.cuts.train > 0]
  assert left.min() >= cold_start.LEAST
  assert len(left) < (split.cuts.train > 0).sum()
  assert np.isin(cold.targets("test"), cold.cold).any()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("tme:0.8,0.1", r"split = 'tme:0\.8,0\.1': did you mean 'time'\?"),
    ("leave-one-out", "did you mean 'leave_one_out'"),
    ("xyz", "expected one of 'labels', 'leave_one_out', 'none', 'time', 'users'"),
    ("time", "expected time:DATE"),
    ("time:0.8", r"'0\.8' is neither a date"),
    ("time:0.9,0.1", "neither a date"),
    ("time:2023-13-01", "month must be in 1..12"),
    ("time:2023-02-01,2023-01-01", "the earlier one first"),
    ("time:2023-01-01,0.1", "neither a date"),
    ("time:nan,0.1", "neither a date"),
    ("users:0.5,0.5", "expected users:TRAIN,VALID"),
    ("users:-1,0.5", "expected users:TRAIN,VALID"),
    ("users", "expected users:TRAIN,VALID"),
    ("none:1", "expected none"),
    ("leave_one_out:2", "expected leave_one_out"),
  ],
)
def test_what_cannot_be_told_so_is_refused_in_a_line(text, message):
  with pytest.raises(OptionError, match=message) as refused:
    protocols.parse(text)
  assert "\n" not in str(refused.value)


def test_lengths_that_leave_no_split_are_refused():
  interactions = _many(20)
  with pytest.raises(DataError, match="min_length must be at least 2 with the split 'none', not 1"):
    _split("none", interactions, min_length=1)
  with pytest.raises(DataError, match="train_windows must be at least 0"):
    _split("none", interactions, train_windows=-1)
  with pytest.raises(DataError, match="none of 20 users has 5 items"):
    _split("none", interactions, min_length=5)


@given(st.lists(st.integers(1, 30)), st.lists(st.integers(1, 30), unique=True), st.integers(1, 7))
@settings(max_examples=60)
def test_users_who_are_too_short_are_counted_once_and_not_where_another_line_of_theirs_counts(others, users, at_once):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mapped, "AT_ONCE", at_once)
    found = interactions.number_beside(np.array(others, np.int64), np.array(users, np.int64))
  assert found == len(set(others) - set(users))
