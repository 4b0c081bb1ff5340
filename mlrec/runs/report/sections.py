"""The sections of a page, each of one table; one that has nothing to show is empty."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

from mlrec import metrics_by_user
from mlrec.data.splits import TEST
from mlrec.runs import published
from mlrec.runs.report import analysis
from mlrec.runs.report import charts
from mlrec.runs.report import curves
from mlrec.runs.report import differences
from mlrec.runs.report import standing
from mlrec.runs.report import statistics
from mlrec.runs.report import style
from mlrec.runs.report import tables
from mlrec.runs.report.analysis import Analysis
from mlrec.runs.report.markup import element
from mlrec.runs.report.markup import joined
from mlrec.runs.report.markup import Markup
from mlrec.runs.report.parts import cell
from mlrec.runs.report.parts import Cells
from mlrec.runs.report.parts import colour_of
from mlrec.runs.report.parts import figure
from mlrec.runs.report.parts import grid
from mlrec.runs.report.parts import legend
from mlrec.runs.report.parts import metric as metric_of
from mlrec.runs.report.parts import named
from mlrec.runs.report.parts import number
from mlrec.runs.report.parts import paragraph
from mlrec.runs.report.parts import rows_grid
from mlrec.runs.report.parts import scrolled
from mlrec.runs.report.rows import bucket_title
from mlrec.runs.report.rows import Row
from mlrec.runs.report.rows import Table
from mlrec.runs.result import Spread
from mlrec.runs.workdir import Workdir

# Whose learning curves are drawn.
_CURVE = "ndcg@10"
# What minutes, MiB and parameters are between, where they are drawn.
_LEAST_COST, _MOST_COST = 1e-6, 1e15
# Tests that are shown without being asked for.
_MOST_OPEN = 28
_COSTS: Mapping[str, Callable[[Row], float | None]] = {
  "CPU minutes a seed": lambda row: row.minutes("cpu"),
  "peak memory, MiB": lambda row: row.most("peak_memory_mib"),
  "parameters": lambda row: row.most("parameters"),
}


def results(table: Table, analysed: Analysis, split: str) -> Markup:
  """Metrics of each row, what was published of it, and what was spent on tuning it; set off is what is best by test."""
  columns: dict[str, Cells] = {"seeds": [str(len(row.runs)) for row in table.rows]}
  shown = (*published.METRICS, *metrics_by_user.RECALLS, "mrr", "coverage@10")
  for name in shown:
    columns[name] = metric_of(table, split, name)
    if name in published.METRICS and split == TEST:
      beside = [row.published.metrics.get(name) if row.published else None for row in table.rows]
      columns[f"paper {name}"] = [None if value is None else f"{value:.4f}" for value in beside]
  columns |= standing.tuning_columns(table)
  columns["config"] = [row.config_hash for row in table.rows]
  best = standing.best(table, analysed, split)
  said = (standing.told_of_best(table, analysed, best), standing.told_of_tuning(table))
  # Here it is set off, and not named.
  notes = [paragraph(one.replace(f"“{standing.BEST}”", "Set off")) for one in said if one]
  return joined(element("h3", "Results"), rows_grid(columns, table, best=best), *notes)


def learning_curves(table: Table) -> Markup:
  """Validations of the rows that learn by steps."""
  found = [
    (place, run, points)
    for place, row in enumerate(table.rows)
    for run in row.runs
    if len(points := curves.validations(Workdir(run.workdir).files.metrics, _CURVE)) > 1
  ]
  if not found:
    return Markup()
  # Epochs end at validations, so that the best one tells how many steps an epoch has.
  in_epochs = all(run.result.best_epoch > 0 and run.result.best_step > 0 for _, run, _ in found)
  lines = []
  # The best row is drawn last, above the others.
  for place, run, points in reversed(found):
    scale = run.result.best_epoch / run.result.best_step if in_epochs else 1
    name = f"{table.labels[place]}, seed {run.result.seed}"
    lines.append(charts.Line(colour_of(place), name, [(step * scale, value) for step, value in points]))
  caption = f"{_CURVE} on validation, a line a seed; the dot is the best."
  chart = charts.lines(lines, x="epoch" if in_epochs else "step", y=f"valid {_CURVE}", title=caption)
  shown = figure(caption, chart, legend(table, sorted({place for place, *_ in found})))
  return element("div", element("h3", "Learning curves"), shown)


def bucket_chart(table: Table, split: str) -> Markup:
  """HR@10 by how often training has the target, of the best rows."""
  names, rows = table.buckets(split), table.rows[: style.COLOURS]
  if not names:
    return Markup()
  series = []
  for place, row in enumerate(rows):
    found = [row.metric(split, name) for name in names]
    values = [_fraction(value) for value in found]
    spreads = [value.std if value and 0 <= value.std <= 1 else 0.0 for value in found]
    series.append(charts.Bars(colour_of(place), table.labels[place], values, spreads))
  caption = "HR@10 by how often training has the target" + (
    f": the best {len(rows)} rows." if len(rows) < len(table.rows) else "."
  )
  titles = [bucket_title(name) for name in names]
  chart = charts.bars(titles, series, x="training interactions of the target", y=f"{split} hr@10", title=caption)
  shown = figure(caption, chart, legend(table, range(len(rows))))
  return element("div", element("h3", "Popular and cold items"), shown)


def buckets(table: Table, split: str) -> Markup:
  """The same of all rows, as a table."""
  names = table.buckets(split)
  if not names:
    return Markup()
  titles = [bucket_title(name) for name in names]
  sizes = [_targets(table, split, name) for name in names]
  columns: dict[str, Cells] = {
    f"{title} ({size:,.0f} targets)" if size is not None else title: metric_of(table, split, name)
    for title, size, name in zip(titles, sizes, names)
  }
  caption = f"HR@10 of the {split} split by training interactions of the target:"
  return joined(paragraph(caption), rows_grid(columns, table))


def costs(table: Table, split: str, metric: str) -> Markup:
  """What rows took, and what they gave for it."""
  columns: dict[str, Cells] = {}
  for kind in ("wall", "cpu", "device"):
    columns[f"{kind} min"] = [_plain(row.minutes(kind), ",.1f") for row in table.rows]
  columns["peak MiB"] = [_plain(row.most("peak_memory_mib"), ",.0f") for row in table.rows]
  columns["device peak MiB"] = [_plain(row.most("peak_device_memory_mib"), ",.0f") for row in table.rows]
  columns["parameters"] = [_plain(row.most("parameters"), ",.0f") for row in table.rows]
  pictures = []
  for title, cost_of in _COSTS.items():
    points = [
      charts.Point(colour_of(place), str(place + 1), table.labels[place], cost, value)
      for place, row in enumerate(table.rows)
      if (cost := cost_of(row)) and _LEAST_COST <= cost <= _MOST_COST
      if (value := _fraction(row.metric(split, metric))) is not None
    ]
    if len(points) > 1:
      caption = f"{split} {metric} by {title}."
      pictures.append(figure(caption, charts.points(points, x=f"{title} (log)", y=metric, title=caption), Markup()))
  return joined(
    element("h3", "Cost"),
    paragraph("Minutes are means over seeds, memory is the most of any; numbers are those of the rows."),
    element("div", *pictures, class_="charts small") if pictures else "",
    rows_grid(columns, table),
  )


def paired_tests(table: Table, analysed: Analysis) -> Markup:
  """Each pair of rows, user by user."""
  if not analysed.tests:
    return Markup()
  names = ["pair", "users"]
  for name in analysed.metrics:
    names += [f"Δ {name}", f"{statistics.LEVEL:.0%} interval", "p (Holm)"]
  lines = []
  for test in analysed.tests:
    pair = joined(named(table, test.first), " − ", named(table, test.second))
    cells = [element("th", pair, scope="row"), cell(f"{test.users:,}")]
    for name in analysed.metrics:
      found, p = test.differences[name], test.corrected[name]
      kind = "sure" if p < analysis.SURE else None
      cells += [cell(_signed(found.mean), kind), cell(f"{_signed(found.low)} to {_signed(found.high)}", kind)]
      cells.append(cell("< 0.001" if p < 0.001 else f"{p:.3f}", kind))
    lines.append(cells)
  # Of many pairs, first those of the best row.
  opened = (
    len(lines) if len(lines) <= _MOST_OPEN else sum(test.first == analysed.tests[0].first for test in analysed.tests)
  )
  shown = grid(names, lines[:opened])
  if rest := lines[opened:]:
    shown = joined(shown, element("details", element("summary", f"{len(rest)} more pairs"), grid(names, rest)))
  limit = f" The best {analysis.MOST_TESTED} rows are tested." if len(table.rows) > analysis.MOST_TESTED else ""
  return joined(
    element("h3", "Paired tests"),
    paragraph(
      f"The first row less the second, over the users that both ranked: {statistics.RESAMPLES:,} bootstrap resamples "
      f"of users, two-sided, with Holm's correction over all pairs of the table, for each metric. Gains of several "
      "seeds are averaged for each user first, so that the tests are about users: how much seeds differ is not in "
      f"them. Before the correction, no p is below 1/{statistics.RESAMPLES + 1:,}. "
      f"Set off: p < {analysis.SURE:.2f}.{limit}"
    ),
    shown,
  )


def lists(table: Table, analysed: Analysis, split: str) -> Markup:
  """What is recommended, beyond how accurate it is."""

  def figures(name: str, form: str) -> list[Markup | None]:
    return [
      number(found.get(name), len(row.runs), form) if found else None for found, row in zip(analysed.lists, table.rows)
    ]

  if not any(analysed.lists):
    return Markup()
  columns: dict[str, Cells] = {
    "coverage@10": metric_of(table, split, "coverage@10"), "Gini": figures(analysis.GINI, ".3f"),
    "novelty, bits": figures(analysis.NOVELTY, ".2f"), "diversity": figures(analysis.DIVERSITY, ".3f"),
  }  # fmt: skip
  diversity = (
    "Diversity: 1 less the mean cosine of the content vectors of a list's items, two by two. "
    if any(found and analysis.DIVERSITY in found for found in analysed.lists)
    else ""
  )
  return joined(
    element("h3", "Beyond accuracy"),
    paragraph(
      "Of each user's first ten places. Coverage: the share of all items that some list has. Gini: how unevenly items "
      "are recommended, 0 for evenly, 1 for one item alone. Novelty: the mean of −log₂ p, p an item's share of the "
      f"training interactions (one added to each item's). {diversity}"
    ),
    rows_grid(columns, table),
  )


def config_differences(table: Table) -> Markup:
  """The keys in which rows' configs differ."""
  found = differences.of_configs(table)
  if not found:
    return Markup()
  head = [element("th", "key", class_="text", scope="col")]
  head += [element("th", named(table, place), class_="text", scope="col") for place in range(len(table.rows))]
  body = [
    element("tr", element("th", _breakable(key), scope="row"), *(cell(value, "value") for value in values))
    for key, values in found.items()
  ]
  return joined(
    element("h3", "Differences of configs"),
    paragraph(f"The keys in which rows differ; {tables.NONE} where a config lacks one."),
    scrolled(element("tr", *head), body),
  )


def _fraction(value: Spread | None) -> float | None:
  """What can be drawn: a file that somebody else has written may state any number."""
  return value.mean if value and 0 <= value.mean <= 1 else None


def _breakable(key: str) -> Markup:
  """A dotted key that may go on in the next line after each dot."""
  return joined(*key.split("."), between=joined(".", element("wbr")))


def _signed(value: float) -> str:
  return f"{value:+.4f}".replace("-", "−")


def _plain(value: float | None, form: str) -> str | None:
  return None if value is None else format(value, form)


def _targets(table: Table, split: str, bucket: str) -> float | None:
  """How many targets a bucket has: of runs of one data set, as many for each."""
  name = f"{bucket.rpartition('/')[0]}/targets"
  known: Sequence[float] = [value.mean for row in table.rows if (value := row.metric(split, name))]
  return known[0] if known else None
