"""The plot of a report: a bar a row, with the spread over seeds and the published figure where there is one."""

from collections.abc import Callable
import importlib.util
import math
import pathlib
from typing import Any

from mlrec.config import ConfigError
from mlrec.files import replacing
from mlrec.runs.report.rows import Table
from mlrec.terminal import one_line

_BAR_INCHES, _WIDTH_INCHES, _FRAME_INCHES = 0.32, 7.0, 1.1
_OURS, _PUBLISHED = "#4878a8", "#d1495b"


def require() -> None:
  """Raises a ConfigError that says what to install where matplotlib is missing."""
  if importlib.util.find_spec("matplotlib") is None:
    raise ConfigError('the plot needs matplotlib: pip install "matplotlib>=3.9", or give --noplot')


def draw(tables: list[Table], split: str, metric: str, paths: list[pathlib.Path]) -> None:
  """Draws a panel for each table into files whose endings say their form; the same table gives the same SVG.

  Args:
    tables: of which rows without the metric are not drawn.
    split: whose metric.
    metric: its name.
    paths: what to write.
  """
  heights = [_FRAME_INCHES + _BAR_INCHES * len(table.rows) for table in tables]

  def fill(figure: Any) -> None:
    panels = figure.subplots(len(tables), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for panel, table in zip(panels[:, 0], tables):
      _draw_panel(panel, table, split, metric)

  render(fill, (_WIDTH_INCHES, sum(heights)), paths)


def render(fill: Callable[[Any], None], inches: tuple[float, float], paths: list[pathlib.Path]) -> None:
  """Writes a figure, whole files or none; the same figure gives the same SVG.

  Args:
    fill: draws into it.
    inches: width and height.
    paths: what to write; their endings say in which form.
  """
  import matplotlib
  from matplotlib.figure import Figure

  # SVG has ids made of a salt, and a date, which would differ from one call to the next.
  with matplotlib.rc_context({"svg.hashsalt": "mlrec", "svg.fonttype": "none"}):
    figure = Figure(figsize=inches, layout="constrained")
    fill(figure)
    for path in paths:
      form = path.suffix.removeprefix(".")
      with replacing(path) as temporary:
        figure.savefig(temporary, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)


def plain(text: str) -> str:
  """The text as matplotlib draws it: a dollar is a dollar, not the beginning of a formula."""
  return one_line(text).replace("$", r"\$")


def _draw_panel(panel: Any, table: Table, split: str, metric: str) -> None:
  rows = [(row, value) for row in table.rows if (value := row.metric(split, metric))]
  labels = [label for row, label in zip(table.rows, table.labels) if row.metric(split, metric)]
  places = range(len(rows))
  panel.barh(
    places,
    [value.mean for _, value in rows],
    # One seed has no spread to show.
    xerr=[value.std if len(row.runs) > 1 else math.nan for row, value in rows],
    color=_OURS, height=0.7, error_kw={"capsize": 2, "linewidth": 1}, label="ours",
  )  # fmt: skip
  beside = [
    (place, row.published.metrics[metric])
    for place, (row, _) in zip(places, rows)
    if split == "test" and row.published and metric in row.published.metrics
  ]
  if beside:
    panel.plot(
      [figure for _, figure in beside], [place for place, _ in beside], "D", color=_PUBLISHED, label="published"
    )  # fmt: skip
    panel.legend(loc="lower right")
  panel.set_yticks(places, [plain(label) for label in labels])
  panel.invert_yaxis()
  panel.set_xlabel(f"{split} {metric}")
  panel.set_title(plain(table.title), fontsize="small")
