"""Logs in MMRec's format: what is read, what is refused by line, and the split that their labels make."""

import dataclasses

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mlrec.content import vectors
from mlrec.data import DataError
from mlrec.data import kept_split
from mlrec.data import labelled
from mlrec.data import leave_one_out
from mlrec.data import protocols
from mlrec.data import Rows
from mlrec.data.batches import eval_batches
from mlrec.data.batches import Layout
from mlrec.data.id_map import IdMap
from mlrec.data.interactions import Interactions
from mlrec.data.splits import Split
from mlrec.sources import load_split
from support import labelled_logs

_LABELS = protocols.parse("labels")
_SMALL = [(0, 3, 30, 1), (2, 0, 5, 0), (0, 1, 10, 0), (0, 0, 20, 0), (2, 3, 4, 0), (2, 1, 9, 2), (0, 2, 40, 2)]


def _lists(rows: Rows) -> list[list[int]]:
  return [rows[n].tolist() for n in range(len(rows))]


def _split(log: Interactions, **options) -> Split:
  return _LABELS.split(log, **({"max_length": 3, "min_length": 1} | options))


def test_histories_are_by_time_and_ids_one_more_under_the_names_of_the_file(tmp_path):
  log = labelled.read(labelled_logs.write(tmp_path / "a.inter", _SMALL))
  assert log.users.tolist() == [1, 3]
  assert _lists(log.histories) == [[2, 1, 4, 3], [4, 1, 2]]
  assert log.history_times is not None
  assert _lists(log.history_times) == [[10, 20, 30, 40], [4, 5, 9]]
  assert log.labels is not None
  assert log.labels.tolist() == [0, 0, 1, 2, 0, 0, 2]
  assert log.user_names is not None
  assert log.user_names.texts(log.users) == ["0", "2"]
  assert log.item_names is not None
  assert log.item_names.texts(np.array([1, 4])) == ["0", "3"]


def test_columns_are_found_by_name_and_without_times_the_order_of_the_lines_counts(tmp_path):
  path = tmp_path / "a.inter"
  path.write_bytes(b"\xef\xbb\xbfx_label\titemID\tx\tuserID\r\n0\t7\t-\t4\r\n2\t3\t\t4\r\n0.0\t5\t?\t4")
  log = labelled.read(path)
  assert _lists(log.histories) == [[8, 4, 6]]
  assert log.timestamps is None
  assert log.labels is not None
  assert log.labels.tolist() == [0, 2, 0]
  with pytest.raises(DataError, match="has no timestamps"):
    protocols.parse("time:0.8,0.1").split(log, max_length=3, min_length=2)


@pytest.mark.parametrize("size", [16, 40, 100, 10_000])
def test_it_does_not_matter_how_much_is_read_at_a_time(size, tmp_path):
  path = labelled_logs.write(tmp_path / "a.inter", labelled_logs.lines()[:200])
  whole = next(labelled.iterate(path))
  parts = list(labelled.iterate(path, size))
  assert len(parts) > 1 or size == 10_000
  for n, name in enumerate(labelled.Labelled._fields):
    np.testing.assert_array_equal(np.concatenate([part[n] for part in parts]), whole[n], err_msg=name)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", r"a\.inter: the file is empty"),
    ("userID\titemID\tx_label\n", r"a\.inter: no interactions after the header"),
    ("user_id:token\titem_id:token\n1\t2\n", r"a\.inter:1: expected a header .* userID, itemID, x_label .*user_id:tok"),
    ("userID\titemID\tx_label\tx_label\n", r"a\.inter:1: expected a header of columns separated by tabs, each once"),
    ("userID,itemID,x_label\n1,2,0\n", r"a\.inter:1: expected a header"),
    ("userID\titemID\tx_label\n1\t2\t0\n1\t2\n", r"a\.inter:3: expected 3 columns separated by tabs .* found '1\\t2'"),
    ("userID\titemID\tx_label\n1\t2\t0\n\n", r"a\.inter:3: expected 3 columns .* found a blank line"),
    ("userID\titemID\tx_label\n1\t2\t3\n", r"a\.inter:2: expected x_label to be 0 \(training\), .* found '1\\t2\\t3'"),
    ("userID\titemID\tx_label\n1\t2\t0.5\n", r"a\.inter:2: expected x_label to be 0"),
    ("userID\titemID\tx_label\n-1\t2\t0\n", r"a\.inter:2: expected userID to be an integer from 0"),
    ("userID\titemID\tx_label\n1\t 2\t0\n", r"a\.inter:2: expected itemID to be an integer from 0"),
    ("userID\titemID\tx_label\n1\t9223372036854775807\t0\n", r"a\.inter:2: expected itemID to be an integer from 0 to"),
    ("userID\titemID\tx_label\ttimestamp\n1\t2\t0\t2020-01-01\n", r"a\.inter:2: expected timestamp to be an integer"),
  ],
)  # fmt: skip
def test_what_is_malformed_is_named_by_file_line_and_value(text, message, tmp_path):
  (tmp_path / "a.inter").write_text(text)
  with pytest.raises(DataError, match=message):
    labelled.read(tmp_path / "a.inter")


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(
  log=st.lists(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2)), min_size=1, max_size=9, unique_by=lambda pair: pair[0]),
    min_size=1, max_size=6,
  ),
  max_length=st.integers(1, 4),
)  # fmt: skip
def test_the_split_is_that_of_the_labels_stated_user_by_user(log, max_length):
  pairs = [pair for row in log for pair in row]
  rows = Rows.from_lists([[item for item, _ in row] for row in log])
  interactions = Interactions(
    np.arange(len(log)) + 10, rows, "a.inter", labels=np.array([label for _, label in pairs], np.int8)
  )
  train, valid, test = ([[item for item, label in row if label == wanted] for row in log] for wanted in (0, 1, 2))
  trains = any(len(row) > 1 for row in train)
  evaluates = all(any(a and b for a, b in zip(train, part)) for part in (valid, test))
  if not (trains and evaluates):
    with pytest.raises(DataError):
      _split(interactions, max_length=max_length)
    return
  split = _split(interactions, max_length=max_length)
  items = sorted({item for item, _ in pairs})
  dense = lambda row: [items.index(item) + 1 for item in row]  # noqa: E731
  assert split.item_ids.tolist() == [0, *items]
  assert split.several
  assert _lists(split.train) == [dense(row)[-max_length - 1 :] for row in train]
  for name, part in (("valid", valid), ("test", test)):
    wanted = [(user, target) for user, row in enumerate(part) if train[user] for target in dense(row)]
    assert split.evaluated(name).tolist() == [user for user, _ in wanted]
    assert split.targets(name).tolist() == [target for _, target in wanted]
    assert _lists(split.seen(name)) == [dense(train[user]) for user, _ in wanted], "the validation items are candidates"
    assert _lists(split.inputs(name)) == [dense(train[user])[-max_length:] for user, _ in wanted]
    assert split.seen(name).lengths.max() <= split.most_seen
    batches = list(eval_batches(split, name, Layout.of(max_length, packed=True), batch_size=2))
    found = [pair for batch in batches for pair in zip(batch.users.tolist(), batch.targets.tolist())]
    assert found[: len(wanted)] == wanted


def test_a_split_of_labels_is_kept_and_told_from_others(tmp_path):
  split = _split(labelled.read(labelled_logs.write(tmp_path / "a.inter", labelled_logs.lines())))
  kept_split.write(split, tmp_path / "split")
  IdMap.of(split).write(tmp_path / "ids")
  again = kept_split.read(tmp_path / "split", tmp_path / "ids")
  assert again == split
  assert again.fingerprint == split.fingerprint
  fewer = {name: np.minimum(numbers, 1) for name, numbers in split.cuts.numbers.items()}
  other = dataclasses.replace(split, cuts=split.cuts._replace(numbers=fewer))
  assert other != split
  assert other.fingerprint != split.fingerprint


def test_a_sample_is_of_users_with_all_of_their_targets(tmp_path):
  split = _split(labelled.read(labelled_logs.write(tmp_path / "a.inter", labelled_logs.lines()))).sampling(7)
  found = split.evaluated("test")
  assert len(np.unique(found)) == 7
  assert len(found) == split.cuts.numbers["test"][np.unique(found)].sum()
  assert split.which("test").tolist() == [n for user in np.unique(found) for n in range((found == user).sum())]  # type: ignore[union-attr]


def test_a_target_that_is_there_twice_is_refused_by_the_file_s_id(tmp_path):
  log = [*_SMALL, (2, 1, 50, 2)]
  with pytest.raises(DataError, match=r"a\.inter: user 2 has an item twice with x_label 2"):
    _split(labelled.read(labelled_logs.write(tmp_path / "a.inter", log)))


def test_a_log_without_labels_is_refused():
  log = Interactions(np.array([1]), Rows.from_lists([[1, 2, 3]]), "a_pairs.tsv")
  with pytest.raises(DataError, match=r"'labels': a_pairs\.tsv does not say .* name a \*\.inter file in MMRec's"):
    _split(log)


def test_rows_of_its_feature_files_are_those_of_its_items(tmp_path):
  split = _split(labelled.read(labelled_logs.write(tmp_path / "a.inter", labelled_logs.lines())))
  np.save(tmp_path / "image_feat.npy", np.arange(100, dtype=np.float32)[:, None])
  found = vectors.read(tmp_path / "image_feat.npy", split.item_ids)
  assert not len(found.missing)
  assert split.item_names is not None
  assert split.item_names.texts(split.item_ids[1:]) == [str(int(row)) for row in found.vectors[1:, 0]]


def test_other_splits_read_such_a_file_too_in_memory_or_in_passes(tmp_path):
  path = labelled_logs.write(tmp_path / "a.inter", labelled_logs.lines())
  settings_ = {"max_length": 5, "min_length": 5, "folder": str(tmp_path / "splits")}
  whole = load_split(str(path), "", protocols.parse("leave_one_out"), in_memory=1 << 30, **settings_)
  assert whole == leave_one_out(labelled.read(path), max_length=5)
  passes = load_split(str(path), "", protocols.parse("leave_one_out"), in_memory=0, **settings_)
  assert passes == whole
  assert passes.user_names is not None
  assert passes.user_names.texts(passes.users) == whole.user_names.texts(whole.users)  # type: ignore[union-attr]
  with pytest.raises(DataError, match=r"'labels' reads all of .* set that to 1 or more"):
    load_split(str(path), "", _LABELS, in_memory=0, **settings_)
