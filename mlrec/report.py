"""The table of finished runs: `python -m mlrec.report [NAME=]WORKDIR … [--out=DIR] [--format=markdown|csv]`.

Runs that differ in their seeds alone are one row: mean ± sample standard deviation. Runs of different data have tables
of their own, and what is left out is named. Where the data are MicroLens-100K, the paper's figures stand beside ours. A
row is called by its model, or NAME, and best where paired tests of the rows, user by user, say so. The same models
under several splits stand side by side, with where their order changes. With --out the table is written as `report.md`,
`report.csv`, `report.svg` and `report.png`, too, and with --html as `report.html`: one page with learning curves,
popular and cold items, cost, all of the tests, what lists are like beyond accuracy, and how configs differ.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib
import sys

from absl import flags

from mlrec import command_line
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.runs.report import render
from mlrec.terminal import one_line

_OUT = flags.DEFINE_string("out", None, "A folder to write the table to, in all its forms.")
_FORMAT = flags.DEFINE_enum("format", "markdown", ["markdown", "csv"], "What is printed.")
_METRIC = flags.DEFINE_string(
  "metric", "hr@10", "What rows are sorted by, and what the plot shows, such as ndcg@10 or mrr."
)
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "valid"], "Whose metrics are shown.")
_PLOT = flags.DEFINE_bool("plot", True, "With --out: also the plot, which needs matplotlib.")
_HTML = flags.DEFINE_bool("html", False, "With --out: also a page that is whole in itself, which needs nothing more.")
_TESTS = flags.DEFINE_bool(
  "tests", True, "Test rows of one data set against each other, user by user; --html does in any case."
)
_VECTORS = flags.DEFINE_string(
  "vectors", "", "With --html: vectors of items, as of config.data.features, by which the diversity of lists is told."
)


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    out = pathlib.Path(_OUT.value).expanduser() if _OUT.value else None
    texts = render.make(
      argv[1:], split=_SPLIT.value, metric=_METRIC.value, out=out, draw=_PLOT.value, html=_HTML.value,
      vectors=_VECTORS.value, tests=_TESTS.value, note=_note,
    )  # fmt: skip
    terminal.write(texts[_FORMAT.value], sys.stdout)
    return 0
  except ConfigError as error:
    return command_line.report(error, command_line.REFUSED)


def _note(line: str) -> None:
  terminal.tell(f"note: {one_line(line)}")


if __name__ == "__main__":
  command_line.run(main)
