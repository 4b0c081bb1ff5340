from absl import logging as absl_logging
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mlrec.data import DataError
from mlrec.data import read_pairs
from mlrec.data import Rows
from mlrec.data.interactions import Interactions
from mlrec.data.interactions import iter_csv
from mlrec.data.interactions import iter_tsv

_BOM = b"\xef\xbb\xbf"
_SETTINGS = settings(derandomize=True, deadline=None, max_examples=40, database=None)
_LINES = st.lists(
  st.tuples(st.integers(1, 10**18 - 1), st.lists(st.integers(1, 10**18 - 1), min_size=1, max_size=5)),
  min_size=1,
  max_size=8,
  unique_by=lambda line: line[0],
)


@pytest.fixture
def write(tmp_path):
  def write(content: bytes, name: str = "a_pairs.tsv"):
    path = tmp_path / name
    path.write_bytes(content)
    return path

  return write


def _lists(rows: Rows) -> list[list[int]]:
  return [rows[n].tolist() for n in range(len(rows))]


def _as_tsv(lines, end: bytes = b"\n") -> bytes:
  return b"".join(b"%d\t%s%s" % (user, b" ".join(b"%d" % i for i in items), end) for user, items in lines)


def _as_csv(rows) -> bytes:
  return b"user,item,timestamp\n" + b"".join(b"%d,%d,%d\n" % row for row in rows)


@pytest.mark.parametrize("bom", [b"", _BOM], ids=["plain", "bom"])
@pytest.mark.parametrize("last", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_tsv_reads_alike_whatever_its_line_ends_and_byte_order_mark(write, end, last, bom):
  content = end.join([b"7\t3 1 2", b"5\t9", b"6\t40 500"]) + (end if last else b"")
  interactions = read_pairs(write(bom + content))
  assert interactions.users.tolist() == [7, 5, 6]
  assert _lists(interactions.histories) == [[3, 1, 2], [9], [40, 500]]
  assert interactions.num_interactions == 6


@pytest.mark.parametrize("bom", [b"", _BOM], ids=["plain", "bom"])
@pytest.mark.parametrize("last", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("rows", [1, 3])
def test_csv_reads_alike_whatever_its_line_ends_and_byte_order_mark(write, end, last, bom, rows):
  lines = [b"user,item,timestamp", b"7,3,20", b"5,9,15", b"7,2,10"][: rows + 1]
  interactions = read_pairs(write(bom + end.join(lines) + (end if last else b""), "a_pairs.csv"))
  assert interactions.users.tolist() == [7, 5][: 1 if rows == 1 else 2]
  assert _lists(interactions.histories) == ([[3]] if rows == 1 else [[2, 3], [9]])


@_SETTINGS
@given(lines=_LINES, end=st.sampled_from([b"\n", b"\r\n"]))
def test_tsv_gives_back_what_was_written(tmp_path_factory, lines, end):
  path = tmp_path_factory.mktemp("pairs") / "a_pairs.tsv"
  path.write_bytes(_as_tsv(lines, end))
  interactions = read_pairs(path)
  assert interactions.users.tolist() == [user for user, _ in lines]
  assert _lists(interactions.histories) == [items for _, items in lines]
  assert interactions.users.dtype == interactions.histories.values.dtype == np.int64


@pytest.mark.parametrize("chunk_bytes", [*range(1, 24), 64, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_tsv_in_chunks_equals_the_whole(write, end, chunk_bytes):
  lines = [(12, [3, 4567]), (7, [1]), (123456, [9, 9, 9]), (1, [2, 3])]
  path = write(_BOM + _as_tsv(lines, end).removesuffix(end))
  users, rows, _ = zip(*iter_tsv(path, chunk_bytes))
  assert np.concatenate(users).tolist() == [user for user, _ in lines]
  assert _lists(Rows.concatenate(list(rows))) == [items for _, items in lines]
  assert (len(users) > 2) == (chunk_bytes < 24)


@pytest.mark.parametrize("chunk_bytes", [1, 5, 19, 20, 21, 25, 33, 1 << 20])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_csv_in_chunks_equals_the_whole(write, end, chunk_bytes):
  rows = [(3, 4, 50), (12, 5, 1), (3, 678, 9)]
  path = write(_as_csv(rows).replace(b"\n", end).removesuffix(end), "a_pairs.csv")
  columns = [np.concatenate(part).tolist() for part in zip(*iter_csv(path, chunk_bytes))]
  assert list(zip(*columns)) == rows


_BAD_LINES = {
  "no tab": b"1 2 3",
  "user alone": b"1",
  "no items": b"1\t",
  "no user": b"\t1 2",
  "two tabs": b"1\t2\t3",
  "double space": b"1\t2  3",
  "space after the tab": b"1\t 2",
  "space at the end": b"1\t2 ",
  "space at the start": b" 1\t2",
  "blank": b"",
  "only spaces": b"  ",
  "comma": b"1\t2,3",
  "letters": b"u1\t2",
  "negative user": b"-1\t2",
  "negative item": b"1\t2 -3",
  "zero user": b"0\t2",
  "zero item": b"1\t2 0 3",
  "fraction": b"1\t2.5",
  "exponent": b"1\t2e3",
  "too long": b"1\t" + b"9" * 20,
  "beyond 64 bits": b"1\t9223372036854775808",
  "lone carriage return": b"1\t2\r 3",
  "nul": b"1\t2\x003",
  "other digits": "1\t٣".encode(),
  "byte order mark inside": _BOM + b"1\t2",
}


@pytest.mark.parametrize("line", _BAD_LINES.values(), ids=_BAD_LINES)
@pytest.mark.parametrize("before", [0, 1, 7])
def test_malformed_tsv_line_is_refused_by_file_and_number(write, line, before):
  if not before:
    line = line.removeprefix(_BOM) + b"\x00" * line.startswith(_BOM)
  path = write(b"4\t5 6\r\n" * before + line + b"\r\n" + b"8\t9\r\n")
  for read in (read_pairs, lambda path: list(iter_tsv(path, 8))):
    with pytest.raises(DataError) as error:
      read(path)
    assert str(error.value).startswith(f"{path}:{before + 1}: ")


def test_first_of_several_malformed_lines_is_named_and_shown(write):
  path = write(b"4\t5\n1\tpear\nx\n")
  with pytest.raises(DataError, match=r":2: .*pear"):
    read_pairs(path)


def test_a_long_malformed_line_is_cut_in_the_message(write):
  with pytest.raises(DataError) as error:
    read_pairs(write(b"1\t" + b"5 " * 100_000 + b"x\n"))
  assert len(str(error.value)) < 500


def test_numbers_of_nineteen_digits_are_read_exactly(write):
  largest = 2**63 - 1
  path = write(
    f"user,item,timestamp\n1,{largest},1700000000000000001\n1,3,1700000000000000000\n".encode(), "a_pairs.csv"
  )
  assert read_pairs(path).lines[0].tolist() == [3, largest]
  ((_, _, timestamps),) = iter_csv(path)
  assert timestamps.tolist() == [1700000000000000001, 1700000000000000000]
  assert read_pairs(write(f"{largest}\t{largest - 1}\n".encode())).users.tolist() == [largest]


_BAD_ROWS = {
  "two fields": b"1,2",
  "four fields": b"1,2,3,4",
  "empty field": b"1,,3",
  "blank": b"",
  "tab": b"1\t2\t3",
  "space": b"1, 2,3",
  "quotes": b'"1","2","3"',
  "zero user": b"0,2,3",
  "zero item": b"1,0,3",
  "negative item": b"1,-2,3",
  "negative time": b"1,2,-3",
  "fractional time": b"1,2,3.5",
  "time of day": b"1,2,2023-01-01 00:00:00",
  "too long": b"1," + b"9" * 20 + b",3",
  "item beyond 64 bits": b"1,9223372036854775808,3",
  "time beyond 64 bits": b"1,2,9999999999999999999",
}


@pytest.mark.parametrize("row", _BAD_ROWS.values(), ids=_BAD_ROWS)
@pytest.mark.parametrize("before", [0, 1, 7])
def test_malformed_csv_row_is_refused_by_file_and_number(write, row, before):
  path = write(b"user,item,timestamp\r\n" + b"4,5,6\r\n" * before + row + b"\r\n7,8,9\r\n", "a_pairs.csv")
  with pytest.raises(DataError) as error:
    read_pairs(path)
  assert str(error.value).startswith(f"{path}:{before + 2}: ")


@pytest.mark.parametrize(
  "header", [b"item,user,timestamp\n", b"1,2,3\n", b"user,item\n", b"\n", b"user\titem\ttimestamp\n"]
)
def test_csv_needs_its_header(write, header):
  path = write(header + b"1,2,3\n", "a_pairs.csv")
  with pytest.raises(DataError, match="user,item,timestamp") as error:
    read_pairs(path)
  assert f"{path}:1:" in str(error.value)


@pytest.mark.parametrize("header", [b"user,item,timestamp", b"user,item,timestamp\r\n"])
def test_csv_of_a_header_alone_is_refused(write, header):
  with pytest.raises(DataError, match=r"a_pairs\.csv.*no interactions"):
    read_pairs(write(header, "a_pairs.csv"))


@pytest.mark.parametrize("name", ["a_pairs.tsv", "a_pairs.csv"])
def test_missing_and_empty_files_and_folders_are_refused_by_name(tmp_path, name):
  path = tmp_path / name
  with pytest.raises(DataError, match="no such file") as error:
    read_pairs(path)
  assert str(path) in str(error.value)
  path.write_bytes(b"")
  with pytest.raises(DataError, match="empty") as error:
    read_pairs(path)
  assert str(path) in str(error.value)
  path.unlink()
  path.mkdir()
  with pytest.raises(DataError, match="not a file"):
    read_pairs(path)


def test_file_of_another_kind_is_refused(write):
  with pytest.raises(DataError, match=r"_pairs\.tsv"):
    read_pairs(write(b"1\t2\n", "pairs.json"))


def test_csv_sorts_each_user_by_time_and_keeps_file_order_in_ties(write):
  rows = [(9, 1, 30), (2, 5, 7), (9, 2, 10), (9, 3, 30), (2, 6, 7), (9, 4, 10), (2, 4, 6), (30, 8, 1)]
  interactions = read_pairs(write(_as_csv(rows), "a_pairs.csv"))
  assert interactions.users.tolist() == [9, 2, 30]
  assert _lists(interactions.histories) == [[2, 4, 1, 3], [4, 5, 6], [8]]


@_SETTINGS
@given(
  rows=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=30),
)
def test_csv_equals_a_stable_sort_user_by_user(tmp_path_factory, rows):
  path = tmp_path_factory.mktemp("pairs") / "a_pairs.csv"
  path.write_bytes(_as_csv(rows))
  interactions = read_pairs(path)
  users = list(dict.fromkeys(user for user, _, _ in rows))
  assert interactions.users.tolist() == users
  wanted = [[i for _, i, _ in sorted((r for r in rows if r[0] == user), key=lambda r: r[2])] for user in users]
  assert _lists(interactions.histories) == wanted


def test_csv_and_tsv_of_one_history_are_equal(write):
  tsv = read_pairs(write(b"5\t1 2 3\n4\t3 1\n"))
  csv = read_pairs(write(_as_csv([(5, 1, 10), (4, 3, 2), (5, 2, 11), (4, 1, 3), (5, 3, 12)]), "a_pairs.csv"))
  assert np.array_equal(tsv.users, csv.users)
  assert tsv.histories == csv.histories


def test_later_line_of_a_repeated_user_wins_in_the_place_of_the_earlier(write):
  interactions = read_pairs(write(b"5\t1 2\n6\t7\n5\t3 4 9\n8\t2\n6\t1\n"))
  assert interactions.users.tolist() == [5, 6, 8]
  assert _lists(interactions.histories) == [[3, 4, 9], [1], [2]]
  assert interactions.line_users.tolist() == [5, 6, 5, 8, 6]
  assert _lists(interactions.lines) == [[1, 2], [7], [3, 4, 9], [2], [1]]
  assert interactions.num_interactions == 5


def test_repeated_user_brings_a_warning_and_others_none(write, monkeypatch):
  said = []
  monkeypatch.setattr(absl_logging, "warning", lambda text, *args: said.append(text % args))
  read_pairs(write(b"5\t1 2\n6\t7\n"))
  assert said == []
  path = write(b"5\t1 2\n6\t7\n6\t3\n")
  read_pairs(path)
  assert len(said) == 1
  assert str(path) in said[0]
  assert "user 6" in said[0]


def test_users_of_interactions_in_memory_follow_the_same_rule():
  interactions = Interactions(np.array([3, 1, 3]), Rows.from_lists([[1], [2, 2], [5, 4]]))
  assert interactions.users.tolist() == [3, 1]
  assert _lists(interactions.histories) == [[5, 4], [2, 2]]


@_SETTINGS
@given(
  rows=st.lists(st.lists(st.integers(1, 9), max_size=6), max_size=6), count=st.integers(0, 7), cut=st.integers(0, 7)
)
def test_rows_behave_like_lists(rows, count, cut):
  compressed = Rows.from_lists(rows)
  assert len(compressed) == len(rows)
  assert _lists(compressed) == rows
  shortened = [row[: max(len(row) - cut, 0)] for row in rows]
  assert _lists(compressed.last(count, before=cut)) == [row[len(row) - min(count, len(row)) :] for row in shortened]
  assert _lists(compressed.without_first()) == [row[1:] for row in rows]
  order = np.arange(len(rows))[::-1]
  assert _lists(compressed.take(order)) == rows[::-1]
  assert compressed.padded(6).tolist() == [[0] * (6 - len(row)) + row for row in rows]
  assert Rows.concatenate([compressed, compressed]) == Rows.from_lists(rows + rows)


def test_rows_refuse_what_does_not_fit():
  rows = Rows.from_lists([[1, 2, 3], [4]])
  with pytest.raises(ValueError, match="3 values"):
    rows.padded(2)
  with pytest.raises(IndexError):
    rows[2]
