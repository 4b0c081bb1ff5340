"""What the sections of a page are made of: rows' names and colours, figures with their spread, tables."""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence

from mlrec.runs.report import style
from mlrec.runs.report import tables
from mlrec.runs.report.markup import element
from mlrec.runs.report.markup import escaped
from mlrec.runs.report.markup import joined
from mlrec.runs.report.markup import Markup
from mlrec.runs.report.rows import Table
from mlrec.runs.result import Spread

# Cells of a column, a row each; None for an empty one.
Cells = Sequence[str | None]


def colour_of(place: int) -> str:
  """The class of a row's colour, by its place in the table."""
  return f"s{place}" if place < style.COLOURS else "rest"


def named(table: Table, place: int) -> Markup:
  """A row's name, with the number in its colour by which pictures know it."""
  key = element("span", place + 1, class_=f"key {colour_of(place)}")
  return joined(key, table.labels[place])


def legend(table: Table, places: Sequence[int]) -> Markup:
  """The names of the rows that a picture shows."""
  return element("ul", *(element("li", named(table, place)) for place in places), class_="legend")


def figure(caption: str, chart: Markup, legend: Markup) -> Markup:
  """A picture under its caption, with the names of its rows."""
  return element("figure", element("figcaption", caption), chart, legend)


def number(value: Spread | None, seeds: int, form: str = ".4f") -> Markup | None:
  """Mean and standard deviation; the mean alone of one seed."""
  if value is None:
    return None
  spread = [element("span", f" ± {value.std:{form}}", class_="spread")] if seeds > 1 else []
  return joined(f"{value.mean:{form}}", *spread)


def metric(table: Table, split: str, name: str) -> list[Markup | None]:
  """A metric of each row."""
  return [number(row.metric(split, name), len(row.runs)) for row in table.rows]


def rows_grid(columns: Mapping[str, Cells], table: Table, *, best: Mapping[str, Collection[int]] = {}) -> Markup:
  """A table with a line for each row of the report; columns of nothing are left out.

  Args:
    columns: cells by the name of their column.
    table: of the rows.
    best: the lines that are set off, by column.
  """
  kept = {name: cells for name, cells in columns.items() if any(cell is not None for cell in cells)}
  lines = []
  for place in range(len(table.rows)):
    cells = [cell(found[place], "best" if place in best.get(name, ()) else None) for name, found in kept.items()]
    lines.append([element("th", named(table, place), scope="row"), *cells])
  return grid(["model", *kept], lines)


def cell(text: str | None, kind: str | None = None) -> Markup:
  """A cell, of a class where one is given."""
  return element("td", tables.NONE if text is None else text, class_=kind)


def grid(names: Sequence[str], lines: Sequence[Sequence[Markup]]) -> Markup:
  """A table of cells below the names of their columns, of which the first is of text."""
  head = [element("th", name, class_=None if place else "text", scope="col") for place, name in enumerate(names)]
  return scrolled(element("tr", *head), [element("tr", *cells) for cells in lines])


def scrolled(head: Markup, body: Sequence[Markup]) -> Markup:
  """A table of rows that scrolls sideways where the page is narrow."""
  table = element("table", element("thead", head), element("tbody", *body))
  # Whoever has no pointer scrolls by keys, once it can be focused.
  return element("div", table, class_="scroll", tabindex=0, role="region", aria_label="table")


def paragraph(*said: object, kind: str = "soft") -> Markup:
  """Text below a heading."""
  return element("p", *map(escaped, said), class_=kind)
