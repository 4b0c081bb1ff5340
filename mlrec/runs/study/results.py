"""What the workdirs of a study hold, as a table: Markdown for people, CSV for programs."""

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import pathlib
import re

from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec import files
from mlrec.config import ConfigError
from mlrec.runs.report import analysis
from mlrec.runs.report import rows
from mlrec.runs.report import statistics
from mlrec.runs.report import tables
from mlrec.runs.report.analysis import PairedTest
from mlrec.runs.report.rows import FinishedRun
from mlrec.runs.report.rows import Row
from mlrec.runs.result import Metrics
from mlrec.runs.result import Spread
from mlrec.runs.study import definition
from mlrec.runs.study.definition import BUCKET_METRICS
from mlrec.runs.study.definition import BUCKETS
from mlrec.runs.study.definition import PublishedPoint
from mlrec.runs.study.definition import Study
from mlrec.runs.study.definition import StudyRun
from mlrec.runs.workdir import Workdir

# Of the workdir: why runs failed, by their folders.
FAILURES = "failures.json"
_COUNTED = re.compile(r"count_(\d+).*")
_SPLIT = "test"


@dataclasses.dataclass(frozen=True)
class Point:
  """A run of a study and what came of it.

  Attributes:
    run: of the study.
    row: of its finished seeds; None where there is none.
    reason: why there is none.
    published: the figures that stand beside it, by metric.
  """

  run: StudyRun
  row: Row | None
  reason: str
  published: dict[str, float]

  def metric(self, name: str) -> Spread | None:
    """A test metric over the seeds, `warm/…` included."""
    return self.row.metric(_SPLIT, name) if self.row else None

  @property
  def seeds(self) -> int:
    return len(self.row.runs) if self.row else 0


@dataclasses.dataclass(frozen=True)
class Results:
  """A study and its points.

  Attributes:
    study: what was to be run.
    points: one for each of its runs, in their order.
    data: a line for each data set that was read.
    notes: what is left out, and why.
    tests: of the pairs that the study compares and that are finished, by their places among the points.
  """

  study: Study
  points: list[Point]
  data: list[str]
  notes: list[str]
  tests: Sequence[PairedTest] = ()

  @property
  def alone(self) -> list[PublishedPoint]:
    """Published figures beside which there is no run."""
    places = {_place(point.run) for point in self.points}
    return [figure for figure in self.study.published if _place(figure) not in places]


def read(study: Study, config: ConfigDict, workdir: pathlib.Path) -> Results:
  """What of a study is finished in its workdir.

  Args:
    study: checked.
    config: what its runs override.
    workdir: of the study.

  Raises:
    ConfigError: a file is damaged.
  """
  failures = read_failures(workdir)
  points, notes = [], []
  for run in study.runs:
    row, reason, more = _row(run, definition.config_of(config, run), workdir / run.folder)
    beside = {figure.metric: figure.value for figure in study.published if _place(figure) == _place(run)}
    points.append(Point(run, row, "" if row else failures.get(run.folder, reason), beside))
    notes += more
  runs = [run for point in points if point.row for run in point.row.runs]
  found = rows.tables(runs, split=_SPLIT, metric="hr@10")[0] if runs else []
  tests, more = _tests(study, points)
  return Results(study, points, [table.title for table in found], notes + more, tests)


def _tests(study: Study, points: Sequence[Point]) -> tuple[list[PairedTest], list[str]]:
  """Paired tests of what the study compares, where both runs are finished."""
  place = {point.run.name: number for number, point in enumerate(points) if point.row}
  pairs = [(place[a], place[b]) for a, b in study.compared if a in place and b in place]
  # Rows without a result are in no pair.
  return analysis.compare([point.row for point in points], pairs, _SPLIT) if pairs else ([], [])  # type: ignore[misc]


def _row(run: StudyRun, config: ConfigDict, folder: pathlib.Path) -> tuple[Row | None, str, list[str]]:
  """The row of a run, why there is none, and what else is to be told."""
  workdir = Workdir(folder)
  if not workdir.config.exists():
    return None, "not begun", []
  different = config_lib.differences(rows.read_config(workdir), config_lib.to_json(config))
  if different:
    return None, f"its workdir holds a run of another config: {'; '.join(different)}", []
  found, notes = rows.read([str(folder)], split=_SPLIT)
  if not found:
    return None, "not finished", []
  return Row(run.name, [_with_warm(one) for one in found]), "", notes


def _with_warm(run: FinishedRun) -> FinishedRun:
  metrics = {**run.result.metrics, _SPLIT: with_warm(run.result.metrics[_SPLIT])}
  return dataclasses.replace(run, result=dataclasses.replace(run.result, metrics=metrics))


def with_warm(metrics: Metrics) -> Metrics:
  """Metrics, and those of all targets that training names: the means of the buckets by their targets."""
  sizes = {name.partition("/")[0]: value for name, value in metrics.items() if name.endswith("/targets")}
  warm = {name: size for name, size in sizes.items() if _COUNTED.fullmatch(name) and size}
  if not warm:
    return metrics
  means = {
    f"warm/{metric}": sum(size * (metrics[f"{name}/{metric}"] or 0.0) for name, size in warm.items())
    / sum(warm.values())
    for metric in BUCKET_METRICS
  }
  return {**metrics, **means}


def buckets(results: Results) -> list[str]:
  """The buckets of targets that some run has, from those that training never has to those that it has most often."""
  names = {
    name.partition("/")[0]
    for point in results.points
    if point.row
    for run in point.row.runs
    for name in run.result.metrics[_SPLIT]
    if name.endswith("/hr@10")
  }

  def least(name: str) -> int:
    match = _COUNTED.fullmatch(name)
    return int(match[1]) if match else 0

  return sorted(names - {"warm"}, key=least)


def read_failures(workdir: pathlib.Path) -> dict[str, str]:
  """Why runs failed, by their folders."""
  path = workdir / FAILURES
  if not path.exists():
    return {}
  try:
    failures = files.read_json(path)
    if not isinstance(failures, dict) or not all(isinstance(reason, str) for reason in failures.values()):
      raise ValueError("expected an object of reasons by folder")
    return failures
  except (OSError, ValueError) as error:
    raise ConfigError(f"{path} cannot be read: {error}") from error


def markdown(results: Results) -> str:
  """The study for people; nothing in it depends on how long a run took."""
  study = results.study
  lines = [f"# {study.title}", ""]
  lines += [study.note, ""] if study.note else []
  lines += [f"Data: {tables.escaped(title)}." for title in results.data] + [""] if results.data else []
  lines += [*tables.markdown(dict(_columns(results))), ""]
  if study.published:
    lines += [f"“paper”: {study.published_source}.", ""]
  if results.alone:
    lines += ["Published figures beside which there is no run:", "", *_alone(results), ""]
  lines += _tested(results)
  missing = [point for point in results.points if point.row is None]
  if missing:
    lines += [
      "Without a result:",
      "",
      *(f"* {tables.escaped(f'{point.run.name}: {point.reason}')}" for point in missing),
      "",
    ]
  if results.notes:
    lines += ["Left out:", "", *(f"* {tables.escaped(note)}" for note in results.notes), ""]
  return "\n".join(lines)


def _columns(results: Results) -> Iterator[tuple[str, list[str]]]:
  study, points = results.study, results.points
  yield "series", [point.run.series for point in points]
  if study.layout != BUCKETS or len({point.run.x for point in points}) > 1:
    yield study.x_label, [_shown(point.run) for point in points]
  yield "seeds", [str(point.seeds) for point in points]
  names = list(study.metrics)
  if study.layout == BUCKETS:
    names = [f"{bucket}/{metric}" for metric in study.metrics for bucket in buckets(results)]
  # What any reader asks for next.
  names += [name for name in ("hr@10", "ndcg@10", "cold/hr@10") if name not in names]
  for name in names:
    shown = name.removeprefix("count_").replace("/", " ")
    yield shown, [tables.spread(point.metric(name), point.seeds) for point in points]
    yield f"paper {shown}", [tables.number(point.published.get(name), ".4f") for point in points]
  yield "parameters", [tables.number(point.row.most("parameters") if point.row else None, ",.0f") for point in points]
  yield "config", [tables.code(point.row.config_hash) if point.row else tables.NONE for point in points]


def _tested(results: Results) -> list[str]:
  """The lines on paired tests."""
  if not results.tests:
    return []
  name = lambda place: results.points[place].run.name  # noqa: E731
  columns = {
    "first": [name(test.first) for test in results.tests],
    "second": [name(test.second) for test in results.tests],
  }
  shown = [metric for metric in results.study.metrics if metric in analysis.METRICS]
  for metric in shown or analysis.METRICS:
    found = [test.differences[metric] for test in results.tests]
    columns |= {
      f"Δ {metric}": [f"{one.mean:+.4f}" for one in found],
      f"{statistics.LEVEL:.0%} of {metric}": [f"{one.low:+.4f} to {one.high:+.4f}" for one in found],
      f"p of {metric}": [f"{one.p:.4f}" for one in found],
      f"p of {metric} (Holm)": [f"{test.corrected[metric]:.4f}" for test in results.tests],
    }
  users = sorted({test.users for test in results.tests})
  of = f"{users[0]:,}" if len(users) == 1 else f"{users[0]:,} to {users[-1]:,}"
  told = (
    f"First less second, over {of} test users: {statistics.RESAMPLES:,} bootstrap resamples, two-sided p, and that "
    "with Holm's correction over these pairs. Gains of several seeds are averaged for each user first: the tests say "
    "whether other users would tell the same, and the deviations in the table above how much seeds differ."
  )
  return ["Paired tests:", "", *tables.markdown(columns), "", told, ""]


def _alone(results: Results) -> list[str]:
  figures = results.alone
  return tables.markdown({
    "series": [figure.series for figure in figures],
    results.study.x_label: [_shown(figure) for figure in figures],
    "metric": [figure.metric for figure in figures],
    "paper": [tables.number(figure.value, ".4f") for figure in figures],
  })  # fmt: skip


def as_csv(results: Results) -> str:
  """The study for programs: a line a run or published figure, all test metrics to their last digit."""
  names = sorted({
    name for point in results.points if point.row for run in point.row.runs for name in run.result.metrics[_SPLIT]
  })  # fmt: skip
  lines = [_line(point, names) for point in results.points]
  lines += [
    {"series": figure.series, "x": figure.x, "label": figure.label, f"paper/{figure.metric}": figure.value}
    for figure in results.alone
  ]
  return tables.comma_separated(lines)


def _line(point: Point, names: list[str]) -> dict[str, object]:
  run, row = point.run, point.row
  line: dict[str, object] = {"series": run.series, "x": run.x, "label": run.label, "workdir": run.folder}
  line["seeds"] = " ".join(map(str, row.seeds)) if row else ""
  line["data"] = row.runs[0].result.data if row else ""
  line["config_hash"] = row.config_hash if row else ""
  for name in names:
    spread = point.metric(name)
    line |= {f"{_SPLIT}/{name}": spread and spread.mean, f"{_SPLIT}/{name}/std": spread and spread.std}
  line |= {f"paper/{metric}": value for metric, value in point.published.items()}
  return line | {"reason": point.reason}


def _place(one: StudyRun | PublishedPoint) -> tuple[str, float | str, str]:
  return one.series, one.x, one.label


def _shown(one: StudyRun | PublishedPoint) -> str:
  return f"{one.label} ({one.x:g})" if one.label and not isinstance(one.x, str) else one.label or f"{one.x}"


def write_failures(workdir: pathlib.Path, failures: dict[str, str]) -> None:
  """Keeps why runs failed; nothing where none did.

  Raises:
    ConfigError: the workdir cannot be written.
  """
  path = workdir / FAILURES
  try:
    if failures:
      workdir.mkdir(parents=True, exist_ok=True)
      files.write_json(path, dict(sorted(failures.items())))
    else:
      path.unlink(missing_ok=True)
  except OSError as error:
    raise ConfigError(f"--workdir={workdir} cannot be written: {error.strerror}") from error
