"""Logs of every form become the same histories, and what cannot be read is told."""

import datetime
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets.public_api as tfds

from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.ingest import ingest
from mlrec.sources import load_interactions
from tfds_microlens.tfds_microlens_dataset_builder import Builder
from tfds_microlens.tfds_microlens_dataset_builder import prepare

ROWS = [(user, item, 1_700_000_000 + 7 * item + user) for item in (5, 3, 9, 4) for user in (2, 1)]
CSV = "user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in ROWS)
DICTS = [{"userId": user, "movieId": item, "ts": time * 1000} for user, item, time in ROWS]


def _parquet(path, columns):
  pq.write_table(pa.table(columns), path)


def _columns():
  return {"user_id": [r[0] for r in ROWS], "item_id": [r[1] for r in ROWS], "time": [r[2] for r in ROWS]}


def _zstd(path):
  with pa.CompressedOutputStream(str(path), "zstd") as file:
    file.write(CSV.encode())


FORMS = {
  "csv": lambda path: path.write_text(CSV),
  "tsv": lambda path: path.write_text(CSV.replace(",", "\t")),
  "semicolons, CRLF, a mark": lambda path: path.write_bytes(
    b"\xef\xbb\xbf" + CSV.replace(",", ";").replace("\n", "\r\n").encode()
  ),
  "gzip": lambda path: path.write_bytes(gzip.compress(CSV.encode())),
  "zstd": _zstd,
  "JSON lines": lambda path: path.write_text("\n".join(map(json.dumps, DICTS))),
  "JSON lines, gzip": lambda path: path.write_bytes(gzip.compress("\n".join(map(json.dumps, DICTS)).encode())),
  "Parquet": lambda path: _parquet(path, _columns()),
  "Parquet of timestamps": lambda path: _parquet(
    path, _columns() | {"time": [datetime.datetime.fromtimestamp(r[2], datetime.UTC) for r in ROWS]}
  ),
  "floats": lambda path: _parquet(
    path, {"user": [float(r[0]) for r in ROWS], "item": [r[1] for r in ROWS], "time": [r[2] + 0.25 for r in ROWS]}
  ),
  "dates": lambda path: path.write_text(
    "uid,video,date\n"
    + "".join(f"{u},{i},{datetime.datetime.fromtimestamp(t, datetime.UTC):%Y-%m-%d %H:%M:%S}\n" for u, i, t in ROWS)
  ),
  "dates with zones": lambda path: path.write_text(
    "uid,video,date\n" + "".join(f"{u},{i},{_zoned(t, hours=u)}\n" for u, i, t in ROWS)
  ),
}


def _zoned(time, hours):
  return datetime.datetime.fromtimestamp(time, datetime.timezone(datetime.timedelta(hours=hours))).isoformat()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_histories_by_time(form, tmp_path):
  FORMS[form](tmp_path / "log")
  ingest(tmp_path / "log", to=tmp_path / "out")
  found = load_interactions(str(tmp_path / "out"))
  assert found.users.tolist() == [2, 1]
  assert [row.tolist() for row in (found.histories[0], found.histories[1])] == [[3, 4, 5, 9]] * 2
  assert found.user_names is None
  assert found.item_names is None


def _made(tmp_path, text, **options):
  path = tmp_path / "log.csv"
  path.write_text(text)
  report = ingest(path, to=tmp_path / "out", **options)
  return load_interactions(str(tmp_path / "out")), report


def _by_name(found):
  return {
    user: found.item_names.texts(row) if found.item_names else row.tolist()
    for user, row in zip(found.user_names.texts(found.users), map(found.histories.__getitem__, range(len(found.users))))
  }


def test_ids_that_are_texts_keep_their_names_and_users_the_order_of_their_first_appearance(tmp_path):
  found, _ = _made(tmp_path, "user,item,time\nzoë 🎬,b c,3\nzoë 🎬,a,1\n x,007,2\n x,7,5\nzoë 🎬,7,2\n")
  assert found.user_names.texts(found.users) == ["zoë 🎬", " x"]
  assert _by_name(found) == {"zoë 🎬": ["a", "7", "b c"], " x": ["007", "7"]}
  assert set(found.item_names.texts(found.item_names.ids)) == {"b c", "a", "007", "7"}


def test_names_go_with_the_split(tmp_path):
  found, _ = _made(tmp_path, "user,item\n" + "".join(f"u{n % 2},v{n}\n" for n in range(12)))
  split = leave_one_out(found, max_length=3)
  assert split.user_names.texts(split.users) == ["u0", "u1"]
  assert split.item_names.texts(split.item_ids[split.targets("test")]) == ["v10", "v11"]


@pytest.mark.parametrize("odd", ["0", "-3", "1.0", "007", "9223372036854775808", "1e3"])
def test_one_id_that_is_no_positive_integer_makes_all_of_its_column_texts(odd, tmp_path):
  found, report = _made(tmp_path, f"user,item\n5,7\n5,{odd}\n5,8\n")
  assert report["log"]["item_ids"] == "texts"
  assert found.users.tolist() == [5]
  assert found.item_names.texts(found.histories[0]) == ["7", odd, "8"]


def test_the_largest_integers_stay(tmp_path):
  found, _ = _made(tmp_path, f"user,item\n{2**63 - 1},{2**63 - 2}\n")
  assert found.users.tolist() == [2**63 - 1]
  assert found.histories[0].tolist() == [2**63 - 2]


def test_equal_times_and_no_times_keep_the_order_of_the_log(tmp_path):
  found, report = _made(tmp_path, "user,item,time\n1,9,5\n1,2,5\n1,7,1\n1,8,5\n")
  assert found.histories[0].tolist() == [7, 9, 2, 8]
  assert report["result"]["months"] == {"1970-01": 4}
  path = tmp_path / "log.csv"
  ingest(path, to=tmp_path / "untimed", time="none")
  assert load_interactions(str(tmp_path / "untimed")).histories[0].tolist() == [9, 2, 7, 8]


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)])
def test_units_are_told_by_size_and_stored_as_milliseconds(unit, per_second, tmp_path):
  base = 1_600_000_000 * per_second
  _made(tmp_path, f"user,item,time\n1,2,{base + 1}\n1,3,{base}\n1,4,{base + 2}\n")
  (record,) = tfds.data_source("microlens/own-histories", split="train", data_dir=tmp_path / "out")
  assert record["items"].tolist() == [3, 2, 4]  # also where they are less than a millisecond apart
  assert record["timestamps"].tolist() == [(base + n) * 1000 // per_second for n in (0, 1, 2)]


def test_a_log_without_a_header_is_read_by_places_as_the_ratings_of_movielens_are(tmp_path):
  path = tmp_path / "u.data"
  path.write_text("196\t242\t3\t881250949\n186\t302\t5\t891717742\n196\t377\t5\t878887116\n196\t51\t4\t880606923\n")
  with pytest.raises(DataError, match=r"looks like data.*header=False"):
    ingest(path, to=tmp_path / "out")
  report = ingest(path, to=tmp_path / "out", header=False, min_rating=4)
  found = load_interactions(str(tmp_path / "out"))
  assert {u: found.histories[n].tolist() for n, u in enumerate(found.users.tolist())} == {186: [302], 196: [377, 51]}
  assert report["log"]["dropped"] == {"rated below 4": {"rows": 1, "first_row": 1}}
  assert report["log"]["ratings"] == {"3": 1, "4": 1, "5": 2}


def test_several_items_of_a_cell_are_interactions_in_their_order(tmp_path):
  path = tmp_path / "log.tsv"
  path.write_text("1\t5 3 9 \n2\t3 4\n")
  ingest(path, to=tmp_path / "out", header=False, item_separator=" ")
  _parquet(tmp_path / "log.parquet", {"user": [1, 2], "item": [[5, 3, 9], [3, 4]]})
  ingest(tmp_path / "log.parquet", to=tmp_path / "lists")
  for folder in ("out", "lists"):
    found = load_interactions(str(tmp_path / folder))
    assert [found.histories[n].tolist() for n in range(2)] == [[5, 3, 9], [3, 4]]


def test_rows_that_lack_something_are_left_out_and_counted(tmp_path):
  found, report = _made(tmp_path, "user,item,time\n1,7,1\n,7,2\n1,,3\n1,8,\n1,9,4\n\n1,10,5\n")
  assert found.histories[0].tolist() == [7, 9, 10]
  assert report["log"]["dropped"] == {
    f"without {what}": {"rows": 1, "first_row": row} for what, row in (("a user", 2), ("an item", 3), ("a time", 4))
  }
  text = (tmp_path / "out" / "report.md").read_text()
  assert "without an item | 1 | row 3" in text


@pytest.mark.parametrize(
  ("content", "options", "message"),
  [
    ("", {}, "the file is empty"),
    ("user,item,time\n", {}, "no rows"),
    ("user,item,time\n1,,3\n", {}, r"none of 1 rows is kept: 1 without an item"),
    ("user,itm,time\n1,2,3\n", {"item": "item"}, r"item='item' is none of its columns, did you mean 'itm'\?"),
    ("foo,bar\n1,2\n", {}, r"which column is the user\?.*user=COLUMN;.*its columns are 'foo', 'bar'"),
    ("ann,vid,17\nbob,vid,18\n", {}, r"its columns are 'ann', 'vid', '17'; or header=False, if these are data"),
    ("user,item\n1,2\n", {"user": "user", "item": "user"}, "expected two columns"),
    ("user,item,user\n1,2,3\n", {}, "user='user': 2 columns have that name"),
    ("user,item,time\n1,2\n", {}, "Expected 3 columns, got 2"),
    (
      "user,item,time\n1,2,1700000000\n1,3,1700000001\n1,4,1700000002000\n", {},
      r"mixes units: row 1 has 1700000000, seconds.*row 3 has 1700000002000, milliseconds; time_unit='s'",
    ),
    ("user,item,time\n1,2,1700000000\n1,3,now\n", {}, r"'time', row 2: the time 'now' is no number"),
    ("user,item,time\n1,2,2020-01-01\n1,3,1700000000\n", {}, r"row 2: the time '1700000000' is no ISO date"),
    ("user,item,time\n1,2,2020-01-01T00:00:00Z\n1,3,2020-01-01T00:00:00\n", {}, "row 2: .*has no zone"),
    ("user,item,time\n1,2,99999999999999999999\n", {}, "exceeds 64 bits"),
    ("user,item,time\n1,2,1700000000000\n", {"time_unit": "s"}, "is no time between the years 1 and 9999"),
    ('{"user": 1, "item": 2}\n{"user": "a", "item": 2}\n', {}, "/user.* changed from number to string in row 1"),
    ('{"user": 1, "item": 2}\n{"user": "a", "item": 2}\n', {}, "all numbers or all texts"),
    ('[{"user": 1, "item": 2}]', {}, "an object a line"),
    ("user,item,rating\n1,2,5\n1,3,x\n", {"min_rating": 4}, "expected ratings that are numbers.*'x'"),
    ("user,item\n1,2\n", {"min_rating": 4}, "no column of ratings"),
    ("user,item\n1,2\n", {"core": 2}, "nothing of .* is left"),
    ("user,item\n1,2\n", {"core": "2;3"}, r"core='2;3': expected a number"),
    ("user,item\n1,2\n", {"repeats": "lst"}, "did you mean 'last'"),
    ("user,item\n1,2\n", {"title": "name"}, "title='name': a column of the table of items, items=FILE, which"),
    ("user,item\n1,2\n", {"frames": "5"}, r"frames='5': expected <frames>x<side>"),
    ("user,item\n1,2\n", {"cover": "big"}, r"cover='big'.*the side of a square"),
  ],
)  # fmt: skip
def test_a_log_that_cannot_be_read_is_told_and_leaves_nothing(content, options, message, tmp_path):
  path = tmp_path / "log"
  path.write_text(content)
  with pytest.raises(DataError, match=message) as caught:
    ingest(path, to=tmp_path / "out", **options)
  assert "\n" not in str(caught.value)
  assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


def test_bytes_that_are_no_text_and_files_that_are_cut_are_told(tmp_path):
  log = tmp_path / "log"
  latin = "user,item\n1,é\n".encode("latin-1")
  for content, message in (
    (latin, "invalid UTF8.*encoding='latin-1'"),
    (gzip.compress(CSV.encode())[:60], "Truncated"),
    (b"PAR1abc", "Parquet"),
    (b"\x89PNG\r\n\x1a\n\0\0", "which column is the user"),
  ):
    log.write_bytes(content)
    with pytest.raises(DataError, match=message):
      ingest(log, to=tmp_path / "out")
  log.write_bytes(latin)
  ingest(log, to=tmp_path / "out", encoding="latin-1")
  names = load_interactions(str(tmp_path / "out")).item_names
  assert names.texts(names.ids) == ["é"]
  with pytest.raises(DataError, match="no such file"):
    ingest(tmp_path / "none", to=tmp_path / "other")


def test_the_other_forms_are_made_of_the_histories_by_the_builder(tmp_path):
  found, _ = _made(tmp_path, "user,item,time\n" + "".join(f"u{n % 2},{n + 1},{100 - n}\n" for n in range(9)))
  sequences = tfds.data_source("microlens/own-sequences", split="test", data_dir=tmp_path / "out")
  assert [(r["items"].tolist(), r["target"]) for r in sequences] == [([9, 7, 5, 3], 1), ([8, 6, 4], 2)]
  named = load_interactions("microlens/own-sequences", str(tmp_path / "out"))
  assert leave_one_out(named, min_length=3) == leave_one_out(found, min_length=3)
  assert named.user_names.texts(named.users) == ["u0", "u1"]
  builder = Builder(config="own-interactions", data_dir=tmp_path / "out")
  builder.download_and_prepare()
  rows = [(r["user"], r["item"], r["timestamp"]) for r in builder.as_data_source("train")]
  first = named.user_names.id("u0")
  assert rows[:2] == [(first, 9, 92_000), (first, 7, 94_000)]
  assert len(rows) == 9
  # What is damaged is made again of the histories, and those themselves by the command that made them.
  (shard,) = (tmp_path / "out").glob("microlens/own-sequences/*/*test*record*")
  shard.write_bytes(b"damaged")
  prepare("own-sequences", data_dir=tmp_path / "out")
  assert leave_one_out(load_interactions("microlens/own-sequences", str(tmp_path / "out")), min_length=3) == (
    leave_one_out(found, min_length=3)
  )
  with pytest.raises(DataError, match=r"not prepared.*python -m mlrec\.ingest"):
    load_interactions("microlens/own-histories", str(tmp_path / "nowhere"))


_FAULTS = """user,item,rating,time
1,7,5,1
,7,5,2
1,,5,3
1,8,,4
1,8,2,5
1,9,5,
1,10,5,6
1,10,5,7
1,10,5,7
2,10,5,8
,,,

1,7,4,9
3,7,4,9
3,10,4,10
"""


@pytest.mark.parametrize("repeats", ["keep", "first", "last"])
@pytest.mark.parametrize("core", ["", "2"])
@pytest.mark.parametrize("min_rating", [None, 3])
def test_each_row_of_a_log_with_every_fault_is_left_or_counted_once(repeats, core, min_rating, tmp_path):
  found, report = _made(tmp_path, _FAULTS, repeats=repeats, core=core, min_rating=min_rating)
  log, result = report["log"], report["result"]
  assert log["rows"] == log["lines"] == 14  # an empty line is no row
  assert log["rows"] == log["kept"] + sum(reason["rows"] for reason in log["dropped"].values())
  assert log["kept"] == result["interactions"] + sum(result["dropped"].values())
  assert result["interactions"] == found.num_interactions
  assert len(log["dropped"]) + len(result["dropped"]) == (5 if min_rating else 3) + (repeats != "keep") + (core != "")
  text = (tmp_path / "out" / "report.md").read_text()
  table = text.partition("| interactions |  | first |")[2].partition("\n\n")[0].splitlines()[2:]
  counts = [int(line.split(" | ")[1]) for line in table]
  assert counts[0] == 14
  assert counts[0] == sum(counts[1:])


def test_rows_that_list_no_item_are_counted_as_rows_without_one(tmp_path):
  items, times = [[5, 3], [], None, [4, None]], [[1, 2], [], None, [3, 4]]
  _parquet(tmp_path / "log.parquet", {"user": [1, 1, 2, 2], "item": items, "time": times})
  report = ingest(tmp_path / "log.parquet", to=tmp_path / "out")
  assert report["log"]["dropped"] == {"without an item": {"rows": 3, "first_row": 2}}
  assert (report["log"]["lines"], report["log"]["rows"], report["log"]["kept"]) == (4, 6, 3)
  found = load_interactions(str(tmp_path / "out"))
  assert {u: found.histories[n].tolist() for n, u in enumerate(found.users.tolist())} == {1: [5, 3], 2: [4]}
  assert "6 items read, in 4 rows" in (tmp_path / "out" / "report.md").read_text()


def test_ids_that_are_not_a_number_are_missing_ones(tmp_path):
  _parquet(tmp_path / "log.parquet", {"user": [1.0, float("nan"), 2.0], "item": [5, 6, 7]})
  report = ingest(tmp_path / "log.parquet", to=tmp_path / "out")
  assert report["log"]["dropped"] == {"without a user": {"rows": 1, "first_row": 2}}
  assert load_interactions(str(tmp_path / "out")).users.tolist() == [1, 2]


def test_a_column_of_ratings_without_a_least_one_leaves_nothing_out(tmp_path):
  path, said = tmp_path / "log.csv", []
  path.write_text("user,item,opinion\n1,2,5\n1,3,\n1,4,x\n")
  assert ingest(path, to=tmp_path / "out", rating="opinion", say=said.append)["log"]["kept"] == 3
  assert any("ratings in 'opinion' are not read" in line and "min_rating=4 would" in line for line in said)
  with pytest.raises(DataError, match="rating='opnion' is none of its columns, did you mean 'opinion'"):
    ingest(path, to=tmp_path / "other", rating="opnion")


@pytest.mark.parametrize("twice", [False, True])
def test_what_users_watched_again_is_told_from_lines_that_are_there_twice(twice, tmp_path, caplog):
  # Yesterday's log and today's: who watched a clip on both days has it twice, each with its time.
  clips = [(user, item) for user in range(1, 9) for item in range(1, 6)]
  days = [f"{user},{item},2024-01-0{day}T0{item}:00:00" for day in (1, 2) for user, item in clips]
  found, report = _made(tmp_path, "user,item,time\n" + "\n".join(days + (days[:3] if twice else [])))
  assert report["result"]["repeats"] == (43 if twice else 40)
  assert report["result"]["repeats_at_the_same_time"] == (3 if twice else 0)
  assert ("3 rows are there twice: the same user, item and time" in caplog.text) == twice
  caplog.clear()
  leave_one_out(found, max_length=10)
  assert "the test item of 8 of 8 users is one that they had watched before" in caplog.text
  assert "--repeats=last" in caplog.text
  assert "twice" not in caplog.text


def test_columns_that_say_their_type_as_in_atomic_files_of_recbole_are_known(tmp_path):
  rows = [f"{n % 4 + 1}\t{n}\t{n % 5 + 1}\t{881250949 + n}\n" for n in range(40)]
  (tmp_path / "ml.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join(rows))
  ingest(tmp_path / "ml.inter", to=tmp_path / "own", min_rating=4)
  found = load_interactions(str(tmp_path / "own"))
  assert found.num_interactions == 16
  assert sorted(found.users.tolist()) == [1, 2, 3, 4]
