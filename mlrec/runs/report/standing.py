"""What may be said of a table's rows beside each other: which are best by the tests, and what was spent on tuning."""

from collections.abc import Mapping
from collections.abc import Sequence

from mlrec.runs.report import analysis
from mlrec.runs.report import statistics
from mlrec.runs.report.analysis import Analysis
from mlrec.runs.report.rows import Table

BEST = "best by test"
TRIALS, SECONDS = "tuning trials", "tuning s"


def best(table: Table, analysed: Analysis, split: str) -> dict[str, set[int]]:
  """By metric, the places of the rows that may be called best (`Analysis.best`)."""
  return {name: analysed.best(table, split, name) for name in analysed.metrics}


def best_column(table: Table, found: Mapping[str, set[int]]) -> list[str | None]:
  """For each row the metrics in which it may be called best; None where it is so in none."""
  named = [[name for name, places in found.items() if place in places] for place in range(len(table.rows))]
  return [", ".join(names) or None for names in named]


def tuning_columns(table: Table) -> dict[str, list[str | None]]:
  """What was spent on choosing each row's config, where that is stated."""
  spent = [row.tuning for row in table.rows]
  return {
    TRIALS: [None if one is None else f"{one[0]:,}" for one in spent],
    SECONDS: [None if one is None else f"{one[1]:,.0f}" for one in spent],
  }


def told_of_best(table: Table, analysed: Analysis, found: Mapping[str, set[int]]) -> str:
  """What the marks of `best_column` say, and what of them can be told in a line; empty where nothing was tested."""
  if not analysed.tests:
    return ""
  tested = len(analysed.tested)
  said = [
    f"“{BEST}”: the highest mean, and what a paired test does not tell from it (p ≥ {analysis.SURE:.2f}; "
    f"{statistics.RESAMPLES:,} bootstrap resamples of users, Holm's correction over the {len(analysed.tests)} pairs of "
    f"the {tested} rows tested)."
  ]
  for name, places in found.items():
    labels = [table.labels[place] for place in sorted(places)]
    if not labels:
      said.append(f"By {name} none may be called best: a row that is not tested has a higher mean.")
    elif len(labels) == 1:
      said.append(f"By {name} {labels[0]} is better than each of the other rows tested.")
    else:
      said.append(f"By {name} no row is best: {_listed(labels)} are not told apart from the highest.")
  return " ".join(said)


def told_of_tuning(table: Table) -> str:
  """Whether the configs of the rows were chosen at equal cost; empty where no row states what it cost."""
  spent = [row.tuning for row in table.rows]
  known = [one for one in spent if one is not None]
  if not known:
    return ""
  unknown = [label for label, one in zip(table.labels, spent) if one is None]
  parts = []
  for values, unit in (([one[0] for one in known], "trials"), ([one[1] for one in known], "seconds")):
    low, high = min(values), max(values)
    parts.append(f"{low:,.0f} {unit} each" if low == high else f"{low:,.0f} to {high:,.0f} {unit}")
  equal = "equal" if len(set(known)) == 1 and not unknown else "not equal"
  rest = f"; not stated of {_listed(unknown)}" if unknown else ""
  return f"Tuning budgets are {equal}: {' and '.join(parts)}{rest}."


def _listed(labels: Sequence[str]) -> str:
  return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
