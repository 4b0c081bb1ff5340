"""What the records of users say beyond a table's figures: paired tests of its rows, and what their lists are like."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from mlrec.data.interactions import DataError
from mlrec.runs.per_user import PerUser
from mlrec.runs.per_user import UserRecords
from mlrec.runs.report import lists
from mlrec.runs.report import statistics
from mlrec.runs.report.rows import FinishedRun
from mlrec.runs.report.rows import Row
from mlrec.runs.report.rows import Table
from mlrec.runs.report.statistics import Difference
from mlrec.runs.result import Spread
from mlrec.runs.workdir import Workdir

# What is tested; where users have several targets, the recall in place of the last.
_HITS, _RECALL = "hr@10", "recall@10"
METRICS = ("ndcg@10", _HITS)
# Below it a difference is one that other users would have told, too.
SURE = 1 - statistics.LEVEL
# The best rows of a table that are tested against each other.
MOST_TESTED = 12
GINI, NOVELTY, DIVERSITY = "gini", "novelty", "diversity"
# The vectors `[n + 1, D]` of items by their original ids `[n]`; None where none of them has one.
VectorsOf = Callable[[np.ndarray], np.ndarray | None]


class PairedTest(NamedTuple):
  """Two systems on the users that both ranked.

  Attributes:
    first: place of its row in the table.
    second: likewise.
    users: how many.
    differences: of the first less the second, by metric.
    corrected: their p values by Holm's correction over all pairs that are tested together, by metric.
  """

  first: int
  second: int
  users: int
  differences: Mapping[str, Difference]
  corrected: Mapping[str, float]

  def order(self, metric: str) -> tuple[int, int]:
    """The place of the row that gains more, and that of the other."""
    ahead = self.differences[metric].mean > 0
    return (self.first, self.second) if ahead else (self.second, self.first)


@dataclasses.dataclass(frozen=True)
class Analysis:
  """What the records of a table's runs say.

  Attributes:
    metrics: what is tested.
    tests: of each pair of rows that have records, the `MOST_TESTED` best of them.
    lists: what the lists of each row are like, over its seeds, by name; None for a row without records.
    notes: a line on what could not be used.
  """

  metrics: Sequence[str]
  tests: list[PairedTest]
  lists: list[Mapping[str, Spread] | None]
  notes: list[str]

  @property
  def tested(self) -> list[int]:
    """The places of the rows that are tested, ascending."""
    return sorted({place for test in self.tests for place in (test.first, test.second)})

  def below(self, metric: str) -> dict[int, set[int]]:
    """By the place of each row that is tested, those that the test tells to be below it."""
    found: dict[int, set[int]] = {place: set() for place in self.tested}
    for test in self.tests:
      if test.corrected[metric] < SURE:
        high, low = test.order(metric)
        found[high].add(low)
    return found

  def best(self, table: Table, split: str, metric: str) -> set[int]:
    """The places of the rows that may be called best: the highest, and those that the test does not tell from it.

    One that is alone there is better than all others that are tested. None may, where no pair is tested, or a row that
    is not has a higher mean.
    """
    tested = self.tested
    means = [value.mean if (value := row.metric(split, metric)) else -np.inf for row in table.rows]
    highest = max(tested, key=lambda place: means[place], default=None)
    if highest is None or any(mean > means[highest] for place, mean in enumerate(means) if place not in tested):
      return set()
    told = self.below(metric)[highest]
    # Rows that share no users with the highest are not tested against it.
    with_highest = {place for test in self.tests if highest in test[:2] for place in test[:2]}
    return {highest} | {place for place in tested if place in with_highest and place not in told}


class _System(NamedTuple):
  """`users [B]` ascending, and the mean gains of each over the seeds, by metric `[B]`."""

  users: np.ndarray
  gains: Mapping[str, np.ndarray]


def analyse(table: Table, split: str, vectors_of: VectorsOf | None = None) -> Analysis:
  """Reads the records of a table's runs, one run at a time.

  Args:
    table: runs of one data set.
    split: whose records.
    vectors_of: of the content of items; None for no such vectors.
  """
  metrics = metrics_of(table, split)
  systems: dict[int, _System] = {}
  lists_of: list[Mapping[str, Spread] | None] = []
  notes: list[str] = []
  vectors: tuple[np.ndarray, np.ndarray | None] | None = None
  for place, row in enumerate(table.rows):
    found = []
    figures: list[dict[str, float]] = []
    for run in row.runs:
      try:
        records = _read(run, split)
      except DataError as error:
        notes.append(str(error))
        break
      if vectors_of and (vectors is None or not np.array_equal(vectors[0], records.items)):
        vectors = records.items, vectors_of(records.items)
      figures.append(_figures(records, split, vectors[1] if vectors else None))
      found.append(records.splits[split])
    complete = len(found) == len(row.runs)
    lists_of.append(_spreads(figures) if complete else None)
    if complete and len(systems) < MOST_TESTED:
      systems[place] = _system(found, metrics)
  return Analysis(metrics, _tests(systems, itertools.combinations(systems, 2), metrics), lists_of, notes)


def nothing(table: Table, split: str) -> Analysis:
  """Of a table whose records are not read."""
  return Analysis(metrics_of(table, split), [], [None] * len(table.rows), [])


def metrics_of(table: Table, split: str) -> tuple[str, ...]:
  """What is tested of the rows of a table."""
  several = all(row.metric(split, _RECALL) for row in table.rows)
  return tuple(_RECALL if several and name == _HITS else name for name in METRICS)


def compare(rows: Sequence[Row], pairs: Iterable[tuple[int, int]], split: str) -> tuple[list[PairedTest], list[str]]:
  """Tests pairs of rows, by their places, on the users that all seeds of both ranked.

  Args:
    rows: of one data set.
    pairs: first less second; those with a row whose runs have no records are left out.
    split: whose records.

  Returns:
    The tests, and a line on each row that has none.
  """
  pairs, notes = list(pairs), []
  systems: dict[int, _System] = {}
  for place in sorted({place for pair in pairs for place in pair}):
    try:
      systems[place] = _system([_read(run, split).splits[split] for run in rows[place].runs], METRICS)
    except DataError as error:
      notes.append(str(error))
  return _tests(systems, [pair for pair in pairs if systems.keys() >= set(pair)], METRICS), notes


def _read(run: FinishedRun, split: str) -> PerUser:
  """The records of a run, which are those that its result is made of."""
  path = Workdir(run.workdir).per_user
  if not path.exists():
    raise DataError(
      f"{run.workdir} has no {path.name}, as runs of older versions, of rankers and of config.eval.per_user = False: "
      "left out of paired tests and metrics of lists"
    )
  records, result = PerUser.read(path), run.result
  if (records.data, records.config_hash, records.seed) != (result.data, result.config_hash, result.seed):
    raise DataError(f"{path}: these are the records of another run than {Workdir(run.workdir).result.name} is of")
  if split not in records.splits:
    raise DataError(f"{path} has no records of the {split} split")
  stated, found = result.metric(split, _HITS), records.splits[split]
  if stated is None or not len(found.ranks) or abs(float(found.gains[_HITS].mean()) - stated) > 1e-6:
    raise DataError(f"{path}: its ranks do not make the {split} hr@10 of {Workdir(run.workdir).result.name}, {stated}")
  return records


def _figures(records: PerUser, split: str, vectors: np.ndarray | None) -> dict[str, float]:
  # A list a user, however many targets there are.
  recommended = records.splits[split].recommended[records.splits[split].firsts]
  figures = {
    GINI: lists.gini(recommended, len(records.items)),
    NOVELTY: lists.novelty(recommended, records.train_counts),
  }
  diversity = None if vectors is None else lists.intra_list_diversity(recommended, vectors)
  return figures if diversity is None else figures | {DIVERSITY: diversity}


def _spreads(figures: Sequence[Mapping[str, float]]) -> Mapping[str, Spread]:
  shared = [name for name in figures[0] if all(name in one for one in figures)]
  return {name: Spread.of([one[name] for one in figures]) for name in shared}


def _system(found: Sequence[UserRecords], metrics: Sequence[str]) -> _System:
  """The users that every seed ranked, and their mean gains."""
  whom = [records.users[records.firsts] for records in found]
  users = _common(whom)
  places = [_places(of_seed, users) for of_seed in whom]
  gains = [records.gains for records in found]
  return _System(users, {name: np.mean([one[name][at] for one, at in zip(gains, places)], axis=0) for name in metrics})


def _common(groups: Sequence[np.ndarray]) -> np.ndarray:
  users = np.unique(groups[0])
  for other in groups[1:]:
    users = np.intersect1d(users, other, assume_unique=True)
  return users


def _places(users: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Where each of `wanted` is in `users`, which has all of them."""
  order = np.argsort(users, kind="stable")
  return order[np.searchsorted(users[order], wanted)]


def _tests(
  systems: Mapping[int, _System], tested: Iterable[tuple[int, int]], metrics: Sequence[str]
) -> list[PairedTest]:
  """A test of each pair; pairs that have the same users in common are tested on the same draws of them."""
  groups: dict[bytes, tuple[np.ndarray, list[tuple[int, int]]]] = {}
  for first, second in tested:
    users = _common([systems[first].users, systems[second].users])
    if len(users):
      groups.setdefault(users.tobytes(), (users, []))[1].append((first, second))
  found: list[tuple[int, int, int, dict[str, Difference]]] = []
  for users, pairs in groups.values():
    members = sorted({place for pair in pairs for place in pair})
    columns = [(place, name) for name in metrics for place in members]
    gains = np.stack([systems[p].gains[name][_places(systems[p].users, users)] for p, name in columns], axis=1)
    column = {key: number for number, key in enumerate(columns)}
    asked = [(column[a, name], column[b, name]) for name in metrics for a, b in pairs]
    differences = iter(statistics.paired_bootstrap(gains, asked))
    by_metric = {name: [next(differences) for _ in pairs] for name in metrics}
    for number, (a, b) in enumerate(pairs):
      found.append((a, b, len(users), {name: by_metric[name][number] for name in metrics}))
  found.sort(key=lambda test: test[:2])
  corrected = {name: statistics.holm([test[3][name].p for test in found]) for name in metrics}
  return [
    PairedTest(*test, {name: corrected[name][number] for name in metrics}) for number, test in enumerate(found)
  ]  # fmt: skip
