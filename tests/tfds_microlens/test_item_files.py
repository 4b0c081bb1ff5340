"""Titles, likes and views as the releases write them, and what is refused."""

import pytest

from mlrec.data import DataError
from tfds_microlens import items


def _file(tmp_path, data):
  path = tmp_path / "file"
  path.write_bytes(data if isinstance(data, bytes) else data.encode())
  return path


def test_titles_with_header_quotes_and_crlf(tmp_path):
  path = _file(tmp_path, 'item,title\r\n1,plain\r\n2,"with, comma"\r\n10,"say ""hi"""\r\n4,\r\n')
  assert items.read_titles(path, quoted=True) == {1: "plain", 2: "with, comma", 10: 'say "hi"', 4: ""}


def test_titles_without_header_and_with_a_line_break_inside(tmp_path):
  path = _file(tmp_path, '7,"two\nlines"\n8,après\n\n')
  assert items.read_titles(path, quoted=True) == {7: "two\nlines", 8: "après"}


def test_titles_with_unbalanced_quotes_are_cut_at_the_first_comma(tmp_path):
  path = _file(tmp_path, '\ufeff5,"打开, 看\r\n6,他说"好\r\n')
  assert items.read_titles(path, quoted=False) == {5: '"打开, 看', 6: '他说"好'}


@pytest.mark.parametrize(
  ("data", "quoted", "message"),
  [
    ("", True, "no titles"),
    ("item,title\n", True, "no titles"),
    ("1,a\n2\n", True, ":2: expected item,title"),
    ("1,a\n2,b,c\n", True, ":2: expected item,title"),
    ("1,a\n\n2,b\n", True, ":2: expected item,title"),
    ("1,a\n-2,b\n", False, ":2: expected a positive integer, found '-2'"),
    ("1,a\n0,b\n", False, ":2: expected a positive integer"),
    ("1,a\nnone\n", False, ":2: expected item,title"),
    ('1,a\n2,"open\n3,c\n', True, ":2: expected item,title with balanced quotes"),
    (b"1,a\n2,\xff\n", False, ":2: not UTF-8"),
  ],
)
def test_malformed_titles_are_refused_with_their_line(tmp_path, data, quoted, message):
  with pytest.raises(DataError, match=message):
    items.read_titles(_file(tmp_path, data), quoted=quoted)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(DataError, match=r"titles.csv: no such file"):
    items.read_titles(tmp_path / "titles.csv", quoted=True)


def test_likes_and_views(tmp_path):
  assert items.read_likes_and_views(_file(tmp_path, "3\t10\t200\r\n1\t0\t0\r\n")) == {3: (10, 200), 1: (0, 0)}


@pytest.mark.parametrize("line", ["4,5,6", "4\t5", "4\t5\t6\t7", "x\t5\t6", "4\t-5\t6", "4\t5.0\t6", "0\t5\t6"])
def test_malformed_likes_are_refused_with_their_line(tmp_path, line):
  with pytest.raises(DataError, match=":2: expected"):
    items.read_likes_and_views(_file(tmp_path, f"3\t10\t200\n{line}\n"))


def test_the_later_of_two_titles_counts(tmp_path, caplog):
  assert items.read_titles(_file(tmp_path, "1,a\n1,b\n"), quoted=True) == {1: "b"}
  assert "name an item again" in caplog.text


def test_counts_are_the_same_for_tsv_and_csv(tmp_path):
  tsv, csv = tmp_path / "x_pairs.tsv", tmp_path / "x_pairs.csv"
  tsv.write_text("1\t5 900 5\n2\t900 3\n")
  csv.write_text("user,item,timestamp\n1,5,1\n1,900,2\n1,5,3\n2,900,4\n2,3,5\n")
  for path in (tsv, csv):
    ids, counts = items.count_items(path)
    assert dict(zip(ids.tolist(), counts.tolist())) == {3: 1, 5: 2, 900: 2}


def test_tags_may_be_several_of_an_item_and_have_a_header(tmp_path):
  path = _file(tmp_path, 'item,tag\r\n1,Food\r\n2,"Sports, games",Fun\r\n1, Travel \r\n1,Food\r\n3,\r\n')
  assert items.read_tags(path) == {1: ["Food", "Travel"], 2: ["Sports, games", "Fun"], 3: []}


@pytest.mark.parametrize(
  ("data", "message"),
  [
    ("", "no tags"),
    ("1,Food\n2\n", ":2: expected item,tag"),
    ("1,Food\nx,Fun\n", ":2: expected a positive integer"),
    ('1,"Food\n', ":1: expected item,tag with balanced quotes"),
  ],
)
def test_malformed_tags_are_refused_with_their_line(tmp_path, data, message):
  with pytest.raises(DataError, match=message):
    items.read_tags(_file(tmp_path, data))


def test_comments_are_taken_as_people_typed_them(tmp_path, caplog):
  path = _file(
    tmp_path,
    b'5\t2\t"half a quote\r\n6\t2\t \n7\t3\t\xff\tand a tab\nthe rest of it\n0\t0\tnobody\n8\t2\t\xe5\xa5\xbd\n',
  )
  assert items.read_comments(path) == {2: ['"half a quote', "好"], 3: ["�\tand a tab"]}
  assert "2 lines that hold no user and item are ignored (line 4 first)" in caplog.text


def test_a_file_of_another_form_holds_no_comments(tmp_path):
  with pytest.raises(DataError, match="no line is of this form"):
    items.read_comments(_file(tmp_path, "item,comment\n1,good\n"))


def test_long_titles_emoji_and_chinese_are_kept(tmp_path):
  titles = {1: "长" * 10_000, 2: "🍜🇨🇳 zero\u200bwidth", 3: "  "}
  path = _file(tmp_path, "".join(f"{item},{title}\n" for item, title in titles.items()))
  assert items.read_titles(path, quoted=True) == titles
