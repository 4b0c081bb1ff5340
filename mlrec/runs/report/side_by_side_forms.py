"""Protocols side by side as Markdown, CSV and a section of a page."""

from collections.abc import Iterator

from mlrec.runs.report import analysis
from mlrec.runs.report import statistics
from mlrec.runs.report import tables
from mlrec.runs.report.markup import element
from mlrec.runs.report.markup import Markup
from mlrec.runs.report.parts import cell
from mlrec.runs.report.parts import grid
from mlrec.runs.report.parts import number
from mlrec.runs.report.parts import paragraph
from mlrec.runs.report.side_by_side import Cell
from mlrec.runs.report.side_by_side import Change
from mlrec.runs.report.side_by_side import SideBySide

_HEADING = "Protocols side by side"
_ORDER = "Where the order of systems changes"


def markdown(found: SideBySide) -> str:
  """A heading, a table for each metric, and the changes of order as a list."""
  lines = [f"### {_HEADING}", "", tables.escaped(_explained(found)), ""]
  for metric in found.metrics:
    columns = {f"{metric}: model": list(found.systems)}
    for place, protocol in enumerate(found.protocols):
      cells = [found.cells[metric, system][place] for system in found.systems]
      columns[protocol] = [tables.NONE if one is None else tables.spread(one.value, one.seeds) for one in cells]
      columns[f"rank, {protocol}"] = [_ranks(one) or tables.NONE for one in cells]
    lines += [*tables.markdown(columns), ""]
  lines += [f"{_ORDER}:", "", *(f"* {tables.escaped(line)}" for line in _told(found)), ""]
  return "\n".join(lines)


def section(found: SideBySide) -> Markup:
  """The same for a page."""
  parts = [element("h2", _HEADING), paragraph(_explained(found))]
  for metric in found.metrics:
    names = [f"{metric}: model", *(text for protocol in found.protocols for text in (protocol, "rank"))]
    lines = []
    for system in found.systems:
      cells = [element("th", system, scope="row")]
      for one in found.cells[metric, system]:
        cells += [cell(None if one is None else number(one.value, one.seeds)), cell(_ranks(one))]
      lines.append(cells)
    parts.append(grid(names, lines))
  said = [element("li", line) for line in _told(found)]
  return element("section", *parts, element("h3", _ORDER), element("ul", *said, class_="notes"))


def as_csv(found: SideBySide) -> str:
  """A line for each metric, system and protocol, to the last digit."""
  lines = []
  for (metric, system), cells in found.cells.items():
    for protocol, one in zip(found.protocols, cells):
      if one is not None:
        first, last = one.ranks or (None, None)
        mean, std = (one.value.mean, one.value.std) if one.value else (None, None)
        lines.append({
          "metric": metric, "model": system, "protocol": protocol, "mean": mean, "std": std, "seeds": one.seeds,
          "first_rank": first, "last_rank": last,
        })  # fmt: skip
  return tables.comma_separated(lines)


def changes_as_csv(found: SideBySide) -> str:
  """A line for each change of order."""
  names = ("metric", "higher_here", "higher_there", "here", "there", "difference_here", "p_here", "difference_there",
           "p_there")  # fmt: skip
  lines: list[dict[str, object]] = [
    dict(zip(names, (
      one.metric, one.first, one.second, found.protocols[one.here], found.protocols[one.there],
      one.differences[0], one.p[0], one.differences[1], one.p[1],
    ))) for one in found.changes
  ]  # fmt: skip
  # Without a change there is a header, which says that it was looked for.
  return tables.comma_separated(lines) if lines else ",".join(names) + "\n"


def _explained(found: SideBySide) -> str:
  return (
    "The same systems under each protocol. Figures of one do not compare with those of another; ranks are those that "
    "paired tests leave a system among those tested under a protocol: 1 and those that are better, to all less those "
    f"that are worse (p < {analysis.SURE:.2f}; {statistics.RESAMPLES:,} bootstrap resamples of users, Holm's "
    f"correction over the {found.tests} pairs of all protocols, for each metric). Systems whose ranks overlap may be "
    "tied."
  )


def _told(found: SideBySide) -> Iterator[str]:
  """The changes, a line each, or that there are none."""
  if not found.pairs:
    yield "It cannot be told: no pair of systems was tested under two protocols or more."
  elif not found.changes:
    yield (
      f"Nowhere: of {found.pairs} pairs of systems that are tested under two protocols or more, none is told in "
      "opposite orders. Where means alone differ in their order, it is a tie."
    )
  for one in found.changes:
    yield _of_change(found, one)


def _of_change(found: SideBySide, one: Change) -> str:
  here, there = (
    f"{found.protocols[place]} ({difference:+.4f}, {_p(p)})".replace("-0.", "−0.")
    for place, difference, p in zip((one.here, one.there), one.differences, one.p)
  )
  return f"By {one.metric} {one.first} is above {one.second} under {here}, and below it under {there}."


def _p(p: float) -> str:
  return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _ranks(one: Cell | None) -> str | None:
  """One rank, or from which to which."""
  if one is None or one.ranks is None:
    return None
  first, last = one.ranks
  return f"{first}" if first == last else f"{first}–{last}"
