"""Tables of figures as Markdown: what reports and studies share."""

from collections.abc import Mapping

NONE = "–"


def markdown(columns: Mapping[str, list[str]]) -> list[str]:
  """The lines of a table; columns that have nothing in any row are left out.

  Args:
    columns: cells by the name of their column, as many in each.
  """
  kept = {name: cells for name, cells in columns.items() if set(cells) != {NONE}}
  rows = [list(kept), *map(list, zip(*kept.values()))]
  lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
  return [lines[0], "|---" * len(kept) + "|", *lines[1:]]


def spread(value: tuple[float, float] | None, seeds: int) -> str:
  """Mean and standard deviation; the mean alone of one seed."""
  if value is None:
    return NONE
  return f"{value[0]:.4f} ± {value[1]:.4f}" if seeds > 1 else f"{value[0]:.4f}"


def number(value: float | None, form: str) -> str:
  return NONE if value is None else format(value, form)
