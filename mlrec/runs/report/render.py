"""The report of finished runs, as text, CSV, a plot and a page."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import pathlib

import numpy as np

from mlrec import metrics_by_user
from mlrec.config import ConfigError
from mlrec.content import vectors as content_vectors
from mlrec.data.interactions import DataError
from mlrec.data.splits import TEST
from mlrec.files import write_text
from mlrec.runs import published
from mlrec.runs.report import analysis
from mlrec.runs.report import page
from mlrec.runs.report import plot
from mlrec.runs.report import rows
from mlrec.runs.report import side_by_side
from mlrec.runs.report import side_by_side_forms
from mlrec.runs.report import standing
from mlrec.runs.report import tables
from mlrec.runs.report.analysis import Analysis
from mlrec.runs.report.analysis import VectorsOf
from mlrec.runs.report.rows import Row
from mlrec.runs.report.rows import Table
from mlrec.train.summary import CLICK_METRICS


def make(
  arguments: list[str],
  *,
  split: str = TEST,
  metric: str = "hr@10",
  out: pathlib.Path | None = None,
  draw: bool = True,
  html: bool = False,
  tests: bool = True,
  vectors: str = "",
  note: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
  """The report as text, `markdown` and `csv`, and `html` if asked for.

  Args:
    arguments: `WORKDIR` or `NAME=WORKDIR` each.
    split: whose metrics.
    metric: what rows are sorted by.
    out: a folder to write it to; None for nowhere.
    draw: whether to draw it there, too.
    html: whether to write it there as a page, too, with what the records of users say.
    tests: whether rows of one table are tested against each other, user by user; on the page they are.
    vectors: of the content of items, by which the page tells how diverse lists are: a file or folder as of
      `config.data.features`; empty for none.
    note: prints a line on what is left out.

  Raises:
    ConfigError: a workdir is none, there is nothing to show, or a file cannot be written.
  """
  if not arguments:
    raise ConfigError("name a WORKDIR or more, such as runs/*")
  if html and not out:
    raise ConfigError("--html is written to the folder of --out: name one, such as --out=report")
  if vectors and not html:
    raise ConfigError(f"--vectors={vectors} is for the page: give --html, too")
  if out and draw:
    plot.require()
  runs, notes = rows.read(arguments, split=split)
  found, more = rows.tables(runs, split=split, metric=metric)
  for line in (*notes, *more):
    note(line)
  if not found:
    raise ConfigError(f"none of the workdirs holds a finished run with {split} metrics")
  left_out: list[str] = []
  vectors_of = _vectors_of(vectors, left_out.append) if vectors else None
  # Rows that stand alone are compared with nothing; a page has their lists, too.
  analysed = [
    analysis.analyse(table, split, vectors_of)
    if html or (tests and len(table.rows) > 1)
    else analysis.nothing(table, split)
    for table in found
  ]
  left_out += [line for one in analysed for line in one.notes]
  for line in left_out:
    note(line)
  texts = {"markdown": markdown(found, analysed, split), "csv": as_csv(found, analysed, split)}
  beside = side_by_side.make(found, analysed, split)
  if beside:
    texts["markdown"] += "\n" + side_by_side_forms.markdown(beside)
  if html:
    texts["html"] = page.make(
      found, analysed, beside, split=split, metric=metric, notes=[*notes, *more, *left_out]
    )  # fmt: skip
  if out:
    try:
      out.mkdir(parents=True, exist_ok=True)
      write_text(out / "report.md", texts["markdown"])
      write_text(out / "report.csv", texts["csv"])
      if beside:
        write_text(out / "protocols.csv", side_by_side_forms.as_csv(beside))
        write_text(out / "order_changes.csv", side_by_side_forms.changes_as_csv(beside))
      if html:
        write_text(out / "report.html", texts["html"])
      if draw:
        plot.draw(found, split, metric, [out / "report.svg", out / "report.png"])
    except OSError as error:
      raise ConfigError(f"--out={out} cannot be written: {error.strerror or error}") from error
  return texts


def _vectors_of(source: str, note: Callable[[str], None]) -> VectorsOf:
  """Looks vectors up in a file or folder; that they are of other items than a data set's is noted."""
  named = f"--vectors={source}"
  try:
    content_vectors.width(source, named=named)
  except DataError as error:
    raise ConfigError(str(error)) from error

  def look_up(items: np.ndarray) -> np.ndarray | None:
    ids = np.concatenate([[0], items])
    try:
      found = content_vectors.read(source, ids, named=named)
    except DataError as error:
      note(str(error))
      return None
    # What has none has no direction.
    return np.where(np.isin(ids, found.missing)[:, None], 0, found.vectors)

  return look_up


def markdown(found: list[Table], analysed: list[Analysis], split: str) -> str:
  """The tables for people: a heading, a table and what it says each; columns that no row has are left out."""
  parts = []
  for table, one in zip(found, analysed):
    best = standing.best(table, one, split)
    columns = dict(_columns(table, split, best))
    said = (standing.told_of_best(table, one, best), standing.told_of_tuning(table))
    told = [line for text in said if text for line in (tables.escaped(text), "")]
    parts.append("\n".join([f"### {tables.escaped(table.title)}", "", *tables.markdown(columns), "", *told]))
  return "\n".join(parts)


def _columns(table: Table, split: str, best: Mapping[str, set[int]]) -> Iterator[tuple[str, list[str]]]:
  """Names of columns and their cells, a cell a row; `best` as of `standing.best`."""

  def metric(name: str) -> list[str]:
    return [tables.spread(row.metric(split, name), len(row.runs)) for row in table.rows]

  yield "model", [row.label for row in table.rows]
  yield "seeds", [str(len(row.runs)) for row in table.rows]
  for name in published.METRICS:
    yield f"{split} {name}", metric(name)
    # What was published is of the test split.
    if split == TEST:
      beside = [row.published.metrics.get(name) if row.published else None for row in table.rows]
      yield f"paper {name}", [tables.number(value, ".4f") for value in beside]
  for name in metrics_by_user.RECALLS:
    yield f"{split} {name}", metric(name)
  yield standing.BEST, [text or tables.NONE for text in standing.best_column(table, best)]
  for name in table.buckets(split):
    yield name.removeprefix("count_").replace("/", " "), metric(name)
  yield "coverage@10", metric("coverage@10")
  for name in CLICK_METRICS:
    yield f"{split} {name}", metric(name)
  for kind in ("wall", "cpu", "device"):
    yield f"{kind} min", [tables.number(row.minutes(kind), ".1f") for row in table.rows]
  yield "peak MiB", [tables.number(row.most("peak_memory_mib"), ",.0f") for row in table.rows]
  yield "device peak MiB", [tables.number(row.most("peak_device_memory_mib"), ",.0f") for row in table.rows]
  for name, cells in standing.tuning_columns(table).items():
    yield name, [cell or tables.NONE for cell in cells]
  yield "parameters", [tables.number(row.most("parameters"), ",.0f") for row in table.rows]
  yield "config", [tables.code(row.config_hash) for row in table.rows]


def as_csv(found: list[Table], analysed: list[Analysis], split: str) -> str:
  """The tables for programs: a line a row, all metrics to their last digit, an empty cell where there is none."""
  runs = [run for table in found for row in table.rows for run in row.runs]
  names = sorted({name for run in runs for name in run.result.metrics[split]})
  lines = []
  for table, one in zip(found, analysed):
    best = standing.best(table, one, split)
    for place, row in enumerate(table.rows):
      # Of rows that are not tested nothing is said.
      tested = {f"{split}/{name}/best": int(place in best[name]) for name in best if place in one.tested}
      lines.append(_line(table, row, split, names) | tested)
  return tables.comma_separated(lines)


def _line(table: Table, row: Row, split: str, names: list[str]) -> dict[str, object]:
  line: dict[str, object] = {
    "model": row.label, "data": table.data, "source": table.name, "split": table.protocol,
    "config_hash": row.config_hash,
    "seeds": " ".join(map(str, row.seeds)),
  }  # fmt: skip
  for name in names:
    spread = row.metric(split, name)
    line |= {f"{split}/{name}": spread and spread.mean, f"{split}/{name}/std": spread and spread.std}
  beside = row.published.metrics if row.published and split == TEST else {}
  line |= {f"paper/{name}": beside.get(name) for name in published.METRICS}
  line |= {f"{kind}_minutes": row.minutes(kind) for kind in ("wall", "cpu", "device")}
  line |= {name: row.most(name) for name in ("peak_memory_mib", "peak_device_memory_mib", "parameters")}
  trials, seconds = row.tuning or (None, None)
  line |= {"tuning_trials": trials, "tuning_seconds": seconds}
  return line | {"workdirs": " ".join(str(run.workdir) for run in row.runs)}
