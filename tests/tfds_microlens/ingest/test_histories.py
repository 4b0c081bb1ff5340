"""Sorting and filtering in parts gives what a plain statement of it gives."""

import collections

import numpy as np
import pytest

from mlrec.data import DataError
from tfds_microlens.ingest import histories
from tfds_microlens.ingest.ids import IdTable
from tfds_microlens.ingest.log import Log
from tfds_microlens.ingest.log import RECORD
from tfds_microlens.ingest.settings import Settings


def _log(folder, records, users, items):
  import pyarrow as pa

  path = folder / "log"
  records.tofile(path)
  tables = []
  for count in (users, items):
    tables.append(IdTable())
    tables[-1].codes(pa.array(np.arange(1, count + 1)))
  return Log(path, *tables, rows=len(records), kept=len(records), timed=True)


def _plain(records, repeats, cores):
  rows = collections.defaultdict(list)
  for user, item, time in sorted(records.tolist(), key=lambda r: (r[0], r[2])):
    rows[user].append((item, time))
  for user, row in rows.items():
    if repeats != "keep":
      ordered = row if repeats == "first" else row[::-1]
      items = [item for item, _ in ordered]
      ordered = [entry for n, entry in enumerate(ordered) if entry[0] not in items[:n]]
      rows[user] = ordered if repeats == "first" else ordered[::-1]
  while True:
    counts = collections.Counter(item for row in rows.values() for item, _ in row)
    left = {user: [e for e in row if counts[e[0]] >= cores[1]] for user, row in rows.items() if len(row) >= cores[0]}
    left = {user: row for user, row in left.items() if row}
    if left == rows:
      return left
    rows = left


@pytest.mark.parametrize("repeats", ["keep", "first", "last"])
@pytest.mark.parametrize(("core", "cores"), [("", (1, 1)), ("3", (3, 3)), ("2,5", (2, 5))])
@pytest.mark.parametrize("part", [50, 1 << 22])
def test_histories_are_those_of_a_plain_statement(repeats, core, cores, part, tmp_path, monkeypatch):
  monkeypatch.setattr(histories, "_PART_ROWS", part)
  monkeypatch.setattr(histories, "_READ_ROWS", 37)
  random = np.random.default_rng(0)
  records = np.empty(400, RECORD)
  records["user"] = np.minimum(random.geometric(0.03, 400), 90) - 1
  records["item"] = np.minimum(random.geometric(0.05, 400), 60) - 1
  records["time"] = random.integers(0, 20, 400)
  settings = Settings(interactions="log", repeats=repeats, core=core)
  made = histories.make(_log(tmp_path, records, 90, 60), settings, tmp_path)
  expected = _plain(records, repeats, cores)
  found = {user: list(zip(row["item"].tolist(), row["time"].tolist())) for user, row in made}
  assert found == expected
  assert list(found) == sorted(found)
  assert made.num_interactions == sum(map(len, expected.values()))
  counts = collections.Counter(item for row in expected.values() for item, _ in row)
  assert {item: int(made.item_counts[item]) for item in made.items} == dict(counts)
  assert len(list(tmp_path.iterdir())) == 1  # of all that was written on the way the result is left
  assert sum(made.dropped.values()) == 400 - made.num_interactions


def test_ids_keep_their_codes_when_a_column_turns_out_to_be_texts():
  import pyarrow as pa

  table = IdTable()
  assert table.codes(pa.array(["30", "10", "30", "20"])).tolist() == [0, 1, 0, 2]
  assert table.find(pa.array(["10", "010", "x", "99999999999999999999"])).tolist() == [1, -1, -1, -1]
  assert table.ids(np.arange(3)).tolist() == [30, 10, 20]
  assert table.codes(pa.array(["20", "010", "10"])).tolist() == [2, 3, 1]
  assert table.are_texts
  ids = table.ids(np.arange(4))
  assert len(set(ids.tolist())) == 4
  assert (ids > 0).all()
  other = IdTable()
  other.codes(pa.array(["x", "010", "30"]))
  assert other.ids(np.array([2, 1])).tolist() == ids[[0, 3]].tolist(), "in every log"
  assert table.originals(np.array([3, 0])) == ["010", "30"]
  assert table.find(pa.array([10, 11])).tolist() == [1, -1]


def test_many_integer_ids_get_codes_in_the_order_of_their_first_appearance(monkeypatch):
  import pyarrow as pa

  monkeypatch.setattr("tfds_microlens.ingest.ids._FEW", 10)
  values = np.random.default_rng(1).integers(1, 400, 2000)
  table = IdTable()
  codes = np.concatenate([table.codes(pa.array(part)) for part in np.split(values, 40)])
  first = list(dict.fromkeys(values.tolist()))
  assert codes.tolist() == [first.index(value) for value in values.tolist()]
  assert table.ids(np.arange(len(table))).tolist() == first


def test_two_texts_of_one_digest_are_told(monkeypatch):
  import pyarrow as pa

  monkeypatch.setattr("tfds_microlens.ingest.ids._digest", len)
  table = IdTable()
  table.codes(pa.array(["a", "bc", "d"]))
  with pytest.raises(DataError, match="the ids 'a' and 'd' have the same digest"):
    table.ids(np.array([0]))
