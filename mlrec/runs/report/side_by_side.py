"""Protocols side by side: the same systems under several splits, and where their order changes.

Figures of one protocol do not compare with those of another; the order of systems does. An order is what the paired
tests say, with Holm's correction over all pairs of systems under all protocols, for each metric: whoever reads of an
order that changes then reads of one that is wrong, under either protocol, as rarely as `analysis.SURE` says.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
from typing import NamedTuple

from mlrec import config as config_lib
from mlrec import files
from mlrec.runs.report import analysis
from mlrec.runs.report import differences
from mlrec.runs.report import statistics
from mlrec.runs.report.analysis import Analysis
from mlrec.runs.report.rows import Row
from mlrec.runs.report.rows import Table
from mlrec.runs.result import Spread

# What of a config is another thing than the system: the data, and what says how much it cost.
_NOT_OF_SYSTEM = ("seed", "data.split", "data.min_length", "train.monitor")


class Cell(NamedTuple):
  """A system under a protocol.

  Attributes:
    value: of the metric; None where it has none.
    seeds: how many.
    ranks: the first and the last place that the tests leave it among the systems tested there, from 1; None where it
      was not tested.
  """

  value: Spread | None
  seeds: int
  ranks: tuple[int, int] | None


class Change(NamedTuple):
  """Two systems whose order under one protocol is the opposite of that under another.

  Attributes:
    metric: by which.
    first: the system that is higher `here`.
    second: the one that is higher `there`.
    here: place of a protocol.
    there: of the other.
    differences: of the first less the second, here and there.
    p: corrected, likewise.
  """

  metric: str
  first: str
  second: str
  here: int
  there: int
  differences: tuple[float, float]
  p: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class SideBySide:
  """Systems under several protocols.

  Attributes:
    protocols: their names.
    systems: of the rows that stand under two of them or more, the best of the first protocol first.
    metrics: what is told.
    cells: by metric and system, one for each protocol; None where the system is not there.
    changes: where the order changes.
    tests: how many pairs are tested, under all protocols together, by each metric.
    pairs: how many pairs of systems are tested under two protocols or more.
  """

  protocols: Sequence[str]
  systems: Sequence[str]
  metrics: Sequence[str]
  cells: Mapping[tuple[str, str], Sequence[Cell | None]]
  changes: Sequence[Change]
  tests: int
  pairs: int


class _Difference(NamedTuple):
  """Of a first system less a second one, with its corrected p."""

  mean: float
  p: float

  @property
  def reversed(self) -> "_Difference":
    return _Difference(-self.mean, self.p)

  @property
  def sure(self) -> bool:
    return self.p < analysis.SURE


# By the places of a protocol and of two systems, the first the earlier one.
_Differences = Mapping[tuple[int, int, int], _Difference]


def make(found: Sequence[Table], analysed: Sequence[Analysis], split: str) -> SideBySide | None:
  """The systems that tables of several protocols share; None where there are none.

  Args:
    found: tables.
    analysed: what the records of each say.
    split: whose metrics.
  """
  if len({table.protocol for table in found}) < 2:
    return None
  named = _systems(found)
  everywhere = [name for names in named for name in names]
  systems = [name for name in dict.fromkeys(everywhere) if everywhere.count(name) > 1]
  if not systems:
    return None
  rows = [{system: names.index(system) for system in systems if system in names} for names in named]
  metrics = [_metric_name(analysed, number) for number in range(len(analysis.METRICS))]
  cells: dict[tuple[str, str], list[Cell | None]] = {}
  changes: list[Change] = []
  tests: _Differences = {}
  for number, metric in enumerate(metrics):
    tests = _differences(systems, rows, analysed, number)
    for place, system in enumerate(systems):
      cells[metric, system] = [
        _cell(table.rows[of[system]], split, one.metrics[number], _ranks(tests, column, place))
        if system in of
        else None
        for column, (table, one, of) in enumerate(zip(found, analysed, rows))
      ]
    changes += _changes(metric, systems, tests)
  pairs = [pair for _, *pair in tests]
  several = sum(pairs.count([a, b]) > 1 for a, b in itertools.combinations(range(len(systems)), 2))
  return SideBySide(_protocols(found), systems, metrics, cells, changes, len(tests), several)


def _metric_name(analysed: Sequence[Analysis], number: int) -> str:
  """What a metric is called under all protocols: that of several targets, which with one is the other."""
  names = {one.metrics[number] for one in analysed}
  return next((name for name in names if name not in analysis.METRICS), analysis.METRICS[number])


def _protocols(found: Sequence[Table]) -> list[str]:
  """Names of the tables' protocols, with their sources and data where these tell them apart."""
  several = len({table.name for table in found}) > 1
  names = [f"{table.protocol}, {table.name}" if several else table.protocol for table in found]
  return [
    f"{name}, data {table.data}" if names.count(name) > 1 else name for name, table in zip(names, found)
  ]  # fmt: skip


def _systems(found: Sequence[Table]) -> list[list[str]]:
  """The system of each row of each table.

  It is what the row is called; where rows of one table are called alike, also what it is made of.
  """
  labels = [[row.label for row in table.rows] for table in found]
  ambiguous = {label for names in labels for label in names if names.count(label) > 1}
  return [
    [f"{row.label} {_made_of(row)}" if row.label in ambiguous else row.label for row in table.rows] for table in found
  ]


def _made_of(row: Row) -> str:
  """Six hexadecimal digits of a row's config without its data, its seed and what may change in any run."""
  ignored = (*config_lib.MUTABLE, *_NOT_OF_SYSTEM)
  values = {key: value for key, value in differences.values_of(row.runs[0]).items() if key not in ignored}
  return files.sha256_of_json(values)[:6]


def _differences(
  systems: Sequence[str], rows: Sequence[Mapping[str, int]], analysed: Sequence[Analysis], number: int
) -> _Differences:
  """Of all pairs that are tested, with p values corrected together."""
  found: dict[tuple[int, int, int], _Difference] = {}
  for column, (of, one) in enumerate(zip(rows, analysed)):
    system_of = {place: systems.index(system) for system, place in of.items()}
    for test in one.tests:
      if test.first in system_of and test.second in system_of:
        a, b = system_of[test.first], system_of[test.second]
        told = test.differences[one.metrics[number]]
        difference = _Difference(told.mean, told.p)
        found[column, min(a, b), max(a, b)] = difference if a < b else difference.reversed
  corrected = statistics.holm([difference.p for difference in found.values()])
  return {key: _Difference(difference.mean, p) for (key, difference), p in zip(found.items(), corrected)}


def _ranks(tests: _Differences, column: int, system: int) -> tuple[int, int] | None:
  """The places that are left to a system by those that are surely above and below it."""
  tested = {key[1:]: difference for key, difference in tests.items() if key[0] == column}
  own = [
    difference if first == system else difference.reversed
    for (first, second), difference in tested.items()
    if system in (first, second)
  ]
  if not own:
    return None
  among = len({one for pair in tested for one in pair})
  above, below = (sum(one.sure and (one.mean > 0) == higher for one in own) for higher in (False, True))
  return 1 + above, among - below


def _cell(row: Row, split: str, metric: str, ranks: tuple[int, int] | None) -> Cell:
  return Cell(row.metric(split, metric), len(row.runs), ranks)


def _changes(metric: str, systems: Sequence[str], tests: _Differences) -> list[Change]:
  """The pairs that are surely in one order under one protocol, and surely in the other under another."""
  found = []
  columns = sorted({column for column, *_ in tests})
  for a, b in itertools.combinations(range(len(systems)), 2):
    for here, there in itertools.combinations(columns, 2):
      one, other = tests.get((here, a, b)), tests.get((there, a, b))
      if one is None or other is None or not (one.sure and other.sure) or (one.mean > 0) == (other.mean > 0):
        continue
      first, second = (a, b) if one.mean > 0 else (b, a)
      one, other = (one, other) if one.mean > 0 else (one.reversed, other.reversed)
      found.append(
        Change(metric, systems[first], systems[second], here, there, (one.mean, other.mean), (one.p, other.p))
      )
  return found
