"""The plot of a study: a panel a metric, the published figures beside ours."""

from collections.abc import Iterable
from collections.abc import Sequence
import math
import pathlib
from typing import Any

from mlrec.runs.report.plot import render
from mlrec.runs.result import Spread
from mlrec.runs.study import results as results_lib
from mlrec.runs.study.definition import BARS
from mlrec.runs.study.definition import BUCKETS
from mlrec.runs.study.definition import LINES
from mlrec.runs.study.definition import PublishedPoint
from mlrec.runs.study.definition import SCATTER
from mlrec.runs.study.results import Point
from mlrec.runs.study.results import Results

_PANEL_INCHES = (6.4, 3.8)
_COLOURS = ("#4878a8", "#d1495b", "#66a182", "#edae49", "#7b5e9e", "#8d6a4f", "#2e4057", "#9aa5b1")
_MARKERS = "osv^PX*h"
_LEGEND_INCHES = 1.6
_GROUP_WIDTH = 0.8
# Characters of the names below an axis, beyond which they would run into one another and are slanted.
_MOST_LEVEL = 70


def draw(results: Results, paths: list[pathlib.Path]) -> None:
  """Draws a study into files whose endings say their form; the same results give the same SVG.

  Args:
    results: of which runs without the metric are not drawn.
    paths: what to write.
  """
  metrics = results.study.metrics

  def fill(figure: Any) -> None:
    figure.suptitle(results.study.title, fontsize="medium")
    named: dict[str, Any] = {}
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
      draw_panel(axes, results, metric)
      axes.set_ylabel(f"test {metric}")
      axes.grid(alpha=0.3)
      axes.set_axisbelow(True)
      handles, labels = axes.get_legend_handles_labels()
      named |= dict(zip(labels, handles))
    if named:
      # One for all panels, where it hides nothing.
      figure.legend(named.values(), named.keys(), fontsize="x-small", loc="outside right upper")

  render(fill, (_PANEL_INCHES[0] * len(metrics) + _LEGEND_INCHES, _PANEL_INCHES[1]), paths)


def draw_panel(axes: Any, results: Results, metric: str) -> None:
  """Draws what a study found of a metric, in its layout, into one pair of axes."""
  _PANELS[results.study.layout](axes, results, metric)


def _lines(axes: Any, results: Results, metric: str) -> None:
  for style, name in _styles(results):
    points = sorted(_points(results, name, metric))
    if points:
      places, means, stds = zip(*points)
      axes.errorbar(places, means, yerr=stds, capsize=2, label=name, **style)
    figures = sorted((one.x, one.value) for one in _published(results, name, metric))
    if figures:
      axes.plot(*zip(*figures), linestyle="--", label=f"{name}, published", **(style | {"markerfacecolor": "none"}))
  ticks = {float(point.run.x) for point in results.points} | {float(one.x) for one in results.study.published}
  if all(tick.is_integer() for tick in ticks):
    # There is nothing between whole numbers, such as those of layers.
    axes.set_xticks(sorted(map(int, ticks)))
  axes.set_xlabel(results.study.x_label)


def _scatter(axes: Any, results: Results, metric: str) -> None:
  for style, name in _styles(results):
    points = _points(results, name, metric)
    if points:
      places, means, stds = zip(*points)
      axes.errorbar(places, means, yerr=stds, capsize=2, linestyle="none", label=name, **style)
    figures = _published(results, name, metric)
    if figures:
      hollow = style | {"markerfacecolor": "none"}
      shown = zip(*((one.x, one.value) for one in figures))
      axes.plot(*shown, linestyle="none", label=f"{name}, published", **hollow)
  for label, (x, y) in _highest(results, metric).items():
    axes.annotate(label, (x, y), textcoords="offset points", xytext=(3, 4), fontsize=5, rotation=30)
  axes.margins(0.08)
  axes.set_xlabel(results.study.x_label)


def _highest(results: Results, metric: str) -> dict[str, tuple[Any, float]]:
  """The place of each label: its highest point, for the points of one label stand above one another."""
  points = [
    (point.run.label, point.run.x, value.mean) for point in results.points if (value := point.metric(metric))
  ]  # fmt: skip
  points += [(one.label, one.x, one.value) for one in results.study.published if one.metric == metric]
  return {label: (x, y) for label, x, y in sorted(points, key=lambda point: point[2]) if label}


def _bars(axes: Any, results: Results, metric: str) -> None:
  names = list(dict.fromkeys([*(point.run.x for point in results.points), *(one.x for one in results.study.published)]))
  styles = _styles(results)
  for number, (style, name) in enumerate(styles):
    points = _points(results, name, metric)
    if points:
      groups, means, stds = zip(*points)
      places = _in_groups(map(names.index, groups), number, len(styles))
      _draw_bars(axes, places, means, stds, len(styles), name, style)
    figures = _published(results, name, metric)
    if figures:
      axes.plot(
        _in_groups([names.index(one.x) for one in figures], number, len(styles)), [one.value for one in figures], "D",
        markersize=5, color=style["color"], markeredgecolor="black", label=f"{name}, published",
      )  # fmt: skip
  labels = list(map(str, names))
  slant = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len("".join(labels)) > _MOST_LEVEL else {}
  axes.set_xticks(range(len(labels)), labels, **slant)
  axes.set_xlabel(results.study.x_label)


def _buckets(axes: Any, results: Results, metric: str) -> None:
  names = results_lib.buckets(results)
  drawn = [point for point in results.points if point.row]
  several = len({point.run.x for point in results.points}) > 1
  for number, point in enumerate(drawn):
    values = [point.metric(f"{name}/{metric}") or Spread(math.nan, math.nan) for name in names]
    means, stds = [value.mean for value in values], [_seen(value.std, point) for value in values]
    label = point.run.name if several else point.run.series
    places = _in_groups(range(len(names)), number, len(drawn))
    _draw_bars(axes, places, means, stds, len(drawn), label, _style(number))
  axes.set_xticks(range(len(names)), [name.removeprefix("count_") + _targets(drawn, name) for name in names])
  axes.set_xlabel(results.study.x_label)


def _targets(points: list[Point], bucket: str) -> str:
  """A line that says how many targets the bucket has, where it is as many for all points."""
  sizes = {size.mean for point in points if (size := point.metric(f"{bucket}/targets"))}
  return f"\n{sizes.pop():,.0f} targets" if len(sizes) == 1 else ""


def _in_groups(groups: Iterable[int], number: int, of: int) -> list[float]:
  """Where in each of `groups` the bar `number` of so many stands."""
  return [group + ((number + 0.5) / of - 0.5) * _GROUP_WIDTH for group in groups]


def _draw_bars(
  axes: Any, places: list[float], means: Sequence[float], stds: Sequence[float], of: int, label: str,
  style: dict[str, Any],
) -> None:  # fmt: skip
  axes.bar(places, means, _GROUP_WIDTH / of, yerr=stds, capsize=2, label=label, color=style["color"])


_PANELS = {
  LINES: _lines, SCATTER: _scatter, BARS: _bars, BUCKETS: _buckets
}  # fmt: skip


def _styles(results: Results) -> list[tuple[dict[str, Any], str]]:
  """Each series' style and name; a series has one style, ours and published."""
  series = [*(point.run.series for point in results.points), *(one.series for one in results.study.published)]
  return [(_style(number), name) for number, name in enumerate(dict.fromkeys(series))]


def _style(number: int) -> dict[str, Any]:
  return {
    "color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)], "markersize": 5
  }  # fmt: skip


def _points(results: Results, series: str, metric: str) -> list[tuple[Any, float, float]]:
  """Place, mean and spread of each run of a series that has the metric."""
  return [
    (point.run.x, value.mean, _seen(value.std, point))
    for point in results.points
    if point.run.series == series and (value := point.metric(metric))
  ]


def _published(results: Results, series: str, metric: str) -> list[PublishedPoint]:
  return [one for one in results.study.published if one.series == series and one.metric == metric]


def _seen(std: float, point: Point) -> float:
  # One seed has no spread to show.
  return std if point.seeds > 1 else math.nan
