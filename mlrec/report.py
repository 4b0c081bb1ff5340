"""The table of finished runs: `python -m mlrec.report [NAME=]WORKDIR … [--out=DIR] [--format=markdown|csv]`.

Runs that differ in their seeds alone are one row: mean ± sample standard deviation. Runs of different data have tables
of their own, and what is left out is named. Where the data are MicroLens-100K, the paper's figures stand beside ours. A
row is called by its model, or NAME. With --out the table is written as `report.md`, `report.csv`, `report.svg` and
`report.png`, too.
"""

from collections.abc import Iterator
import csv
import io
import pathlib
import re
import sys

from absl import app
from absl import flags

from mlrec import cells
from mlrec import command_line
from mlrec import finished
from mlrec import published
from mlrec import report_plot
from mlrec.config import ConfigError
from mlrec.finished import Row
from mlrec.finished import Table
from mlrec.train.writers import write_text

_OUT = flags.DEFINE_string("out", None, "A folder to write the table to, in all its forms.")
_FORMAT = flags.DEFINE_enum("format", "markdown", ["markdown", "csv"], "What is printed.")
_METRIC = flags.DEFINE_string("metric", "hr@10", "What rows are sorted by, and what the plot shows.")
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "valid"], "Whose metrics are shown.")
_PLOT = flags.DEFINE_bool("plot", True, "With --out: also the plot, which needs matplotlib.")

_BUCKET = re.compile(r"(cold|count_(\d+).*)/hr@10")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    out = pathlib.Path(_OUT.value).expanduser() if _OUT.value else None
    print(make(argv[1:], split=_SPLIT.value, metric=_METRIC.value, out=out, plot=_PLOT.value)[_FORMAT.value], end="")
    return 0
  except ConfigError as error:
    return command_line.report(error, command_line.REFUSED)


def make(
  arguments: list[str],
  *,
  split: str = "test",
  metric: str = "hr@10",
  out: pathlib.Path | None = None,
  plot: bool = True,
) -> dict[str, str]:
  """The report as text, `markdown` and `csv`; what is left out is told on stderr.

  Args:
    arguments: `WORKDIR` or `NAME=WORKDIR` each.
    split: whose metrics.
    metric: what rows are sorted by.
    out: a folder to write it to; None for nowhere.
    plot: whether to draw it there, too.

  Raises:
    ConfigError: a workdir is none, there is nothing to show, or a file cannot be written.
  """
  if not arguments:
    raise ConfigError("name a WORKDIR or more, such as runs/*")
  if out and plot:
    report_plot.require()
  runs, notes = finished.read(arguments, split=split)
  tables, more = finished.tables(runs, split=split, metric=metric)
  for note in (*notes, *more):
    print(f"note: {note}", file=sys.stderr)
  if not tables:
    raise ConfigError(f"none of the workdirs holds a finished run with {split} metrics")
  texts = {"markdown": markdown(tables, split), "csv": as_csv(tables, split)}
  if out:
    try:
      out.mkdir(parents=True, exist_ok=True)
      write_text(out / "report.md", texts["markdown"])
      write_text(out / "report.csv", texts["csv"])
      if plot:
        report_plot.draw(tables, split, metric, [out / "report.svg", out / "report.png"])
    except OSError as error:
      raise ConfigError(f"--out={out} cannot be written: {error.strerror}") from error
  return texts


def markdown(tables: list[Table], split: str) -> str:
  """The tables for people: a heading and a table each; columns that no row has are left out."""
  parts = []
  for table in tables:
    columns = dict(_columns(table, split))
    parts.append("\n".join([f"### {table.title}", "", *cells.markdown(columns), ""]))
  return "\n".join(parts)


def _columns(table: Table, split: str) -> Iterator[tuple[str, list[str]]]:
  """Names of columns and their cells, a cell a row."""
  rows = table.rows

  def metric(name: str) -> list[str]:
    return [cells.spread(row.metric(split, name), len(row.runs)) for row in rows]

  yield "model", [row.label for row in rows]
  yield "seeds", [str(len(row.runs)) for row in rows]
  for name in published.METRICS:
    yield f"{split} {name}", metric(name)
    # What was published is of the test split.
    if split == "test":
      beside = [row.published.metrics.get(name) if row.published else None for row in rows]
      yield f"paper {name}", [cells.number(value, ".4f") for value in beside]
  for name in _buckets(table, split):
    yield name.removeprefix("count_").replace("/", " "), metric(name)
  yield "coverage@10", metric("coverage@10")
  for kind in ("wall", "cpu", "device"):
    yield f"{kind} min", [cells.number(row.minutes(kind), ".1f") for row in rows]
  yield "peak MiB", [cells.number(row.most("peak_memory_mib"), ",.0f") for row in rows]
  yield "device peak MiB", [cells.number(row.most("peak_device_memory_mib"), ",.0f") for row in rows]
  yield "parameters", [cells.number(row.most("parameters"), ",.0f") for row in rows]
  yield "config", [f"`{row.config_hash}`" for row in rows]


def as_csv(tables: list[Table], split: str) -> str:
  """The tables for programs: a line a row, all metrics to their last digit, an empty cell where there is none."""
  names = sorted({name for table in tables for row in table.rows for run in row.runs for name in run.result[split]})
  lines = [_line(table, row, split, names) for table in tables for row in table.rows]
  text = io.StringIO()
  writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
  writer.writeheader()
  writer.writerows(lines)
  return text.getvalue()


def _line(table: Table, row: Row, split: str, names: list[str]) -> dict[str, object]:
  line: dict[str, object] = {
    "model": row.label, "data": table.data, "source": table.name, "config_hash": row.config_hash,
    "seeds": " ".join(map(str, row.seeds)),
  }  # fmt: skip
  for name in names:
    mean, std = row.metric(split, name) or (None, None)
    line |= {f"{split}/{name}": mean, f"{split}/{name}/std": std}
  beside = row.published.metrics if row.published and split == "test" else {}
  line |= {f"paper/{name}": beside.get(name) for name in published.METRICS}
  line |= {f"{kind}_minutes": row.minutes(kind) for kind in ("wall", "cpu", "device")}
  line |= {name: row.most(name) for name in ("peak_memory_mib", "peak_device_memory_mib", "parameters")}
  return line | {"workdirs": " ".join(str(run.workdir) for run in row.runs)}


def _buckets(table: Table, split: str) -> list[str]:
  """HR@10 of the buckets of targets, from those that training never has to those that it has most often."""
  names = {name for row in table.rows for run in row.runs for name in run.result[split] if _BUCKET.fullmatch(name)}

  def least(name: str) -> int:
    match = _BUCKET.fullmatch(name)
    return int(match[2] or 0) if match else 0

  return sorted(names, key=least)


if __name__ == "__main__":
  app.run(main)
