"""The report as one page: HTML with its own style sheet and pictures, no script, nothing from elsewhere."""

from collections.abc import Sequence

from mlrec.runs.report import analysis
from mlrec.runs.report import sections
from mlrec.runs.report import side_by_side_forms
from mlrec.runs.report import style
from mlrec.runs.report.analysis import Analysis
from mlrec.runs.report.markup import element
from mlrec.runs.report.markup import joined
from mlrec.runs.report.markup import Markup
from mlrec.runs.report.parts import number
from mlrec.runs.report.parts import paragraph
from mlrec.runs.report.rows import Table
from mlrec.runs.report.side_by_side import SideBySide

# Nothing but the page's own style is ever loaded or run, whatever a name in it says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def make(
  found: Sequence[Table],
  analysed: Sequence[Analysis],
  beside: SideBySide | None,
  *,
  split: str,
  metric: str,
  notes: Sequence[str],
) -> str:
  """The page; equal arguments give equal text.

  Args:
    found: tables, of a data set each.
    analysed: what the records of each say.
    beside: their systems under several protocols; None where there is one.
    split: whose metrics are shown.
    metric: what rows are sorted by.
    notes: lines on what was left out.
  """
  runs = sum(len(row.runs) for table in found for row in table.rows)
  parts = [
    element("h1", "Report of ", "one run" if runs == 1 else f"{runs} runs"),
    paragraph(
      f"Metrics of the {split} split, as fractions; every item is ranked, but for those of the user's history. ± is "
      "the standard deviation over the seeds of a config."
    ),
    side_by_side_forms.section(beside) if beside else "",
    *(_section(table, one, split, metric) for table, one in zip(found, analysed)),
  ]
  if notes:
    said = [element("li", note) for note in notes]
    parts.append(joined(element("h2", "Notes"), element("ul", *said, class_="notes")))
  head = element(
    "head", element("meta", charset="utf-8"), element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
    element("meta", name="viewport", content="width=device-width, initial-scale=1"),
    element("title", f"Report: {found[0].name}"), element("style", Markup(style.CSS)),
  )  # fmt: skip
  return "<!doctype html>\n" + element("html", head, element("body", element("main", *parts)), lang="en") + "\n"


def _section(table: Table, analysed: Analysis, split: str, metric: str) -> Markup:
  return element(
    "section", element("h2", table.title), _lead(table, analysed, split, metric),
    sections.results(table, analysed, split),
    element("div", sections.learning_curves(table), sections.bucket_chart(table, split), class_="charts"),
    sections.buckets(table, split),
    sections.costs(table, split, metric), sections.paired_tests(table, analysed),
    sections.lists(table, analysed, split), sections.config_differences(table),
  )  # fmt: skip


def _lead(table: Table, analysed: Analysis, split: str, metric: str) -> Markup:
  """What there is to say in a sentence or two."""
  value = table.rows[0].metric(split, metric)
  if value is None or len(table.rows) < 2:
    return Markup()
  said: list[object] = [
    element("strong", table.labels[0]), f" has the highest {split} {metric}: ",
    element("strong", number(value, len(table.rows[0].runs))), ".",
  ]  # fmt: skip
  own = [test for test in analysed.tests if test.first == 0]
  if own:
    name = analysed.metrics[0]
    ahead = len(analysed.below(name)[0])
    some = f"{ahead} of the {len(own)} other rows tested" if ahead < len(own) else f"all {ahead} other rows tested"
    others = "no other row tested" if not ahead else "the other row" if len(own) == 1 else some
    said.append(
      f" User by user, its {name} is higher than that of {others} (p < {analysis.SURE:.2f} after Holm's correction)."
    )
  return paragraph(*said, kind="lead")
