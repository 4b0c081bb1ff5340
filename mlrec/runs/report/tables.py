"""Tables of figures as Markdown and CSV: what reports and studies share.

Names in them may come from files that somebody else has written, so each form escapes what it would act on.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import csv
import io
import re

from mlrec.runs.result import Spread
from mlrec.terminal import one_line

NONE = "–"
_MARKDOWN = re.compile(r"[\\`*\[\]|]")
# What spreadsheets take for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def markdown(columns: Mapping[str, list[str]]) -> list[str]:
  """The lines of a table; columns that have nothing in any row are left out.

  Args:
    columns: cells by the name of their column, as many in each; plain text, or made by `code`.
  """
  kept = {name: cells for name, cells in columns.items() if set(cells) != {NONE}}
  rows = [list(kept), *map(list, zip(*kept.values()))]
  lines = ["| " + " | ".join(escaped(cell) for cell in cells) + " |" for cells in rows]
  return [lines[0], "|---" * len(kept) + "|", *lines[1:]]


def escaped(text: str) -> str:
  """Plain text in Markdown, on one line: none of it is markup or HTML. What `code` made stays code."""
  if re.fullmatch(r"`[\w.-]+`", text):
    return text
  text = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
  return _MARKDOWN.sub(lambda match: "\\" + match[0], text)


def code(text: str) -> str:
  """A name set as code, if it is one."""
  return f"`{text}`" if re.fullmatch(r"[\w.-]+", text) else text


def comma_separated(lines: Sequence[Mapping[str, object]]) -> str:
  """CSV with a column for each key of any line; text that a spreadsheet would compute begins with an apostrophe."""
  text = io.StringIO()
  names = list(dict.fromkeys(name for line in lines for name in line))
  writer = csv.DictWriter(text, names, lineterminator="\n")
  # Names of metrics are those of a file, too.
  writer.writerow({name: _cell(name) for name in names})
  writer.writerows({name: _cell(value) for name, value in line.items()} for line in lines)
  return text.getvalue()


def _cell(value: object) -> object:
  if not isinstance(value, str):
    return value
  value = one_line(value)
  return f"'{value}" if value.startswith(_FORMULA) else value


def spread(value: Spread | None, seeds: int) -> str:
  """Mean and standard deviation; the mean alone of one seed."""
  if value is None:
    return NONE
  return f"{value.mean:.4f} ± {value.std:.4f}" if seeds > 1 else f"{value.mean:.4f}"


def number(value: float | None, form: str) -> str:
  return NONE if value is None else format(value, form)
