import pytest

from mlrec.terminal import counted
from mlrec.terminal import one_line
from mlrec.terminal import printable


@pytest.mark.parametrize("text", ["", "plain", "two\nlines", "美食 😀 ä é", "a\u00a0b"])
def test_harmless_text_stays(text):
  assert printable(text) == text


@pytest.mark.parametrize(
  ("text", "safe"),
  [
    ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
    ("a\rb", "a\\rb"),
    ("a\tb\x00c\x07", "a\\tb\\x00c\\x07"),
    ("\x7f\x9b31m", "\\x7f\\x9b31m"),
    ("user\u202etxt.exe", "user\\u202etxt.exe"),
    ("\u2066a\u2069\u200f", "\\u2066a\\u2069\\u200f"),
    ("line\u2028end", "line\\u2028end"),
    ("half \ud83d", "half \\ud83d"),
    ("\x1b]0;title\x07\nnext", "\\x1b]0;title\\x07\nnext"),
  ],
)
def test_what_a_terminal_would_obey_is_written_out(text, safe):
  assert printable(text) == safe
  assert printable(printable(text)) == safe
  safe.encode()


def test_one_line_has_no_line_end():
  assert one_line("a\nb\r\nc\x1b") == "a b\\r c\\x1b"


def test_what_is_counted_is_in_the_singular_where_it_is_one():
  assert [counted(number, "row") for number in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
