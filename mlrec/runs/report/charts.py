"""Charts as inline SVG, coloured by the page's own style sheet: lines, grouped bars and points."""

from collections.abc import Sequence
from typing import NamedTuple

from mlrec.runs.report.markup import element
from mlrec.runs.report.markup import joined
from mlrec.runs.report.markup import Markup
from mlrec.runs.report.scales import named
from mlrec.runs.report.scales import Scale

WIDTH, HEIGHT = 440, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 12, 46
# A point's label: width of a figure, height, distance from the point.
_FIGURE, _LINE, _NEAR = 7.5, 13.0, 8.0


class Line(NamedTuple):
  """A curve.

  Attributes:
    colour: class of its row, as of `page.colour_of`.
    name: told where one points at it.
    points: `(x, y)`, ascending in x.
  """

  colour: str
  name: str
  points: Sequence[tuple[float, float]]


class Bars(NamedTuple):
  """The bars of a row, one a group.

  Attributes:
    colour: class of its row.
    name: told where one points at a bar.
    values: of each group; None for no bar.
    spreads: half the length of the whisker on each; 0 for none.
  """

  colour: str
  name: str
  values: Sequence[float | None]
  spreads: Sequence[float]


class Point(NamedTuple):
  """A row's point.

  Attributes:
    colour: class of its row.
    label: a few figures beside it.
    name: told where one points at it.
    x: above 0.
    y: its value.
  """

  colour: str
  label: str
  name: str
  x: float
  y: float


def lines(series: Sequence[Line], *, x: str, y: str, title: str) -> Markup:
  """Curves over an axis `x` of epochs or steps; the best value of each has a dot."""
  points = [point for line in series for point in line.points]
  across = Scale.linear((point[0] for point in points), _LEFT, WIDTH - _RIGHT, whole=True)
  up = Scale.linear((point[1] for point in points), HEIGHT - _BOTTOM, _TOP)
  marks = []
  for line in series:
    places = [(across(a), up(b)) for a, b in line.points]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    best = max(range(len(places)), key=lambda place: line.points[place][1])
    told = element("title", f"{line.name}: best {line.points[best][1]:.4f} at {named(line.points[best][0])}")
    dot = element("circle", cx=f"{places[best][0]:.1f}", cy=f"{places[best][1]:.1f}", r=3.5, class_="dot")
    marks.append(element("g", told, element("path", d=path, class_="curve"), dot, class_=line.colour))
  return _chart(joined(_axis_up(up, y), _axis_across(across, x), *marks), title)


def bars(groups: Sequence[str], series: Sequence[Bars], *, x: str, y: str, title: str) -> Markup:
  """A group of bars for each of `groups`, one of each series, with whiskers."""
  tops = [value + spread for one in series for value, spread in zip(one.values, one.spreads) if value is not None]
  up = Scale.linear(tops, HEIGHT - _BOTTOM, _TOP, zero=True)
  room = (WIDTH - _LEFT - _RIGHT) / len(groups)
  width = 0.84 * room / len(series)
  marks = []
  for number, one in enumerate(series):
    drawn = []
    for group, (value, spread) in enumerate(zip(one.values, one.spreads)):
      if value is None:
        continue
      tall = max(up(0) - up(value), 1) if value > 0 else 0
      left = _LEFT + group * room + 0.08 * room + number * width
      told = element("title", f"{one.name}, {groups[group]}: {value:.4f}" + (f" ± {spread:.4f}" if spread else ""))
      # Between neighbours a hair of the ground is left; what is not 0 is to be seen.
      bar = element(
        "rect", x=f"{left + 0.5:.1f}", y=f"{up(0) - tall:.1f}", width=f"{max(width - 1, 1):.1f}",
        height=f"{tall:.1f}", class_="bar",
      )  # fmt: skip
      middle = left + width / 2
      whisker = f"M{middle:.1f} {up(max(value - spread, 0)):.1f}V{up(value + spread):.1f}"
      drawn.append(element("g", told, bar, *([element("path", d=whisker, class_="whisker")] if spread else [])))
    marks.append(element("g", *drawn, class_=one.colour))
  labels = [
    element("text", group, x=f"{_LEFT + (place + 0.5) * room:.1f}", y=HEIGHT - _BOTTOM + 17, class_="middle")
    for place, group in enumerate(groups)
  ]
  return _chart(joined(_axis_up(up, y), *labels, _name_across(x), *marks), title)


def points(series: Sequence[Point], *, x: str, y: str, title: str) -> Markup:
  """Points over a logarithmic axis `x`, each with its label beside it."""
  across = Scale.log((point.x for point in series), _LEFT + 6, WIDTH - _RIGHT - 6)
  up = Scale.linear((point.y for point in series), HEIGHT - _BOTTOM, _TOP + 6, zero=True)
  places = [(across(point.x), up(point.y)) for point in series]
  taken = [(a - 5, b - 5, a + 5, b + 5) for a, b in places]
  marks = []
  for point, (a, b) in zip(series, places):
    left, base = _label_place(a, b, point.label, taken)
    told = element("title", f"{point.name}: {named(point.x)}, {point.y:.4f}")
    dot = element("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r=5, class_="dot")
    label = element("text", point.label, x=f"{left:.1f}", y=f"{base:.1f}", class_="label")
    marks.append(element("g", told, dot, label, class_=point.colour))
  return _chart(joined(_axis_up(up, y), _axis_across(across, x), *marks), title)


def _label_place(
  a: float, b: float, label: str, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float]:  # fmt: skip
  """Left end and base line of a label beside the point, where nothing is yet if there is such a place; takes it."""
  wide = _FIGURE * len(label)
  choices = [
    (a + _NEAR, b + 4), (a - _NEAR - wide, b + 4), (a - wide / 2, b - _NEAR), (a - wide / 2, b + _NEAR + 10),
    (a + _NEAR - 2, b - _NEAR + 2), (a + _NEAR - 2, b + _NEAR + 8), (a - _NEAR - wide, b - _NEAR + 2),
  ]  # fmt: skip

  def box(left: float, base: float) -> tuple[float, float, float, float]:
    return left, base - _LINE + 3, left + wide, base + 1

  def crossings(place: tuple[float, float]) -> int:
    one = box(*place)
    outside = one[0] < _LEFT or one[2] > WIDTH or one[1] < 0 or one[3] > HEIGHT - _BOTTOM
    crossed = sum(one[0] < o[2] and o[0] < one[2] and one[1] < o[3] and o[1] < one[3] for o in taken)
    return crossed + 10 * outside

  chosen = min(choices, key=crossings)
  taken.append(box(*chosen))
  return chosen


def _chart(inside: Markup, title: str) -> Markup:
  return element("svg", element("title", title), inside, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")


def _axis_up(scale: Scale, name: str) -> Markup:
  parts = []
  for tick in scale.ticks:
    at = f"{scale(tick):.1f}"
    parts += [
      element("path", d=f"M{_LEFT} {at}H{WIDTH - _RIGHT}", class_="base" if tick == scale.low else "grid"),
      element("text", named(tick), x=_LEFT - 6, y=f"{scale(tick) + 4:.1f}", class_="end"),
    ]
  middle = (HEIGHT - _BOTTOM + _TOP) / 2
  parts.append(element("text", name, transform=f"translate(12 {middle}) rotate(-90)", class_="middle name"))
  return joined(*parts)


def _axis_across(scale: Scale, name: str) -> Markup:
  parts: list[Markup] = []
  for tick in scale.ticks:
    at = f"{scale(tick):.1f}"
    parts += [
      element("path", d=f"M{at} {HEIGHT - _BOTTOM}v4", class_="base"),
      element("text", named(tick), x=at, y=HEIGHT - _BOTTOM + 17, class_="middle"),
    ]
  return joined(*parts, _name_across(name))


def _name_across(name: str) -> Markup:
  return element("text", name, x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 8, class_="middle name")
