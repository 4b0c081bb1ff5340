"""What was read, what was left out and why, and how long histories are: as JSON and to be read."""

from collections.abc import Mapping
import pathlib
from typing import Any

import numpy as np

from mlrec import files
from mlrec import terminal
from mlrec.data.interactions import DataError
from tfds_microlens.ingest.catalogue import Catalogue
from tfds_microlens.ingest.found_media import Found
from tfds_microlens.ingest.histories import Histories
from tfds_microlens.ingest.log import Log
from tfds_microlens.ingest.settings import Settings

JSON, MARKDOWN = "report.json", "report.md"
_ENDS = (1, 2, 3, 4, 9, 19, 49, 99, 199, 499, 999)
# What leave-one-out and the configs ask for.
_LEAST = (3, 5)
_MOST_MONTHS = 36
_BAR = 40


def write(folder: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes the report in both forms."""
  files.write_json(folder / JSON, content)
  files.write_text(folder / MARKDOWN, terminal.printable(_markdown(content)))


def read(folder: pathlib.Path) -> dict[str, Any]:
  """The report that was written.

  Raises:
    DataError: it is not there, or is damaged.
  """
  try:
    return files.read_json(folder / JSON)
  except (OSError, ValueError) as error:
    raise DataError(f"{folder / JSON}: it is not what was written ({error})") from error


def content(
  settings: Settings, log: Log, histories: Histories, catalogue: Catalogue, found: Found, made: Mapping[str, Any]
) -> dict[str, Any]:
  """The report; `made` is what became of media, by kind."""
  lengths, counts = histories.lengths[histories.users], histories.item_counts[histories.items]
  return {
    "log": {
      "file": settings.interactions,
      "columns": log.columns,
      "lines": log.lines,
      "rows": log.rows,
      "kept": log.kept,
      "dropped": {
        reason: {"rows": count, "first_row": log.first_dropped[reason]} for reason, count in log.dropped.items()
      },
      "ratings": {f"{value:g}": count for value, count in sorted(log.ratings.items())},
      "users": len(log.users),
      "items": len(log.items),
      "user_ids": "texts" if log.users.are_texts else "integers",
      "item_ids": "texts" if log.items.are_texts else "integers",
      "told": log.told,
    },
    "result": {
      "users": len(lengths),
      "items": len(counts),
      "interactions": histories.num_interactions,
      "dropped": histories.dropped,
      "core_rounds": histories.rounds,
      "repeats": histories.repeats,
      "repeats_at_the_same_time": histories.twice,
      "shortest": int(lengths.min()),
      "longest": int(lengths.max()),
      "median": float(np.median(lengths)),
      "users_below": {str(least): int((lengths < least).sum()) for least in _LEAST},
      "lengths": histogram(lengths),
      "lengths_before": histogram(histories.lengths_before),
      "item_counts": histogram(counts),
      "months": histories.months,
    },
    "items": {
      "file": settings.items,
      "rows": catalogue.rows,
      "titles": sum(bool(title.strip()) for title in catalogue.titles.values()),
      "of_no_interaction": catalogue.others,
      "named_again": catalogue.again,
      "without_id": catalogue.without_id,
    },
    "media": {
      "folder": settings.media,
      "files": found.files,
      "of_no_item": found.strangers,
      "of_no_interaction": found.others,
      "made": dict(made),
    },
  }


def histogram(lengths: np.ndarray) -> dict[str, int]:
  """How many of `lengths [n]`, 1 or more, are in each of the ranges that any are in."""
  ends = [*_ENDS, max(int(lengths.max()), _ENDS[-1] + 1)]
  starts = [1, *(end + 1 for end in ends[:-1])]
  counts = np.bincount(np.searchsorted(ends, lengths), minlength=len(ends)).tolist()
  return {
    f"{start}" if start == end else f"{start}-{end}": count for start, end, count in zip(starts, ends, counts) if count
  }


def repeats_line(histories: Histories, settings: Settings) -> str:
  """What is to be said of items that a user has several times and that are kept; empty if there are none."""
  if not histories.repeats or settings.repeats != "keep":
    return ""
  share = 100 * histories.repeats / max(int(histories.lengths_before.sum()), 1)
  return (
    f"{histories.repeats:,} ({share:.1f} %) are of an item that the user has already, and are kept; ranking leaves out "
    "what a user has, so that leave-one-out cannot find such a target"
    + settings.words.hint("repeats", "last", "; {} has the last of them count")
  )


def left_out_line(log: Log, histories: Histories) -> str:
  """What became of all rows, in a line; empty where all are left."""
  dropped = log.dropped | histories.dropped
  reasons = "; ".join(f"{count:,} {reason}" for reason, count in dropped.items())
  return f"of {log.rows:,} rows {histories.num_interactions:,} are left: {reasons}" if dropped else ""


def _markdown(report: Mapping[str, Any]) -> str:
  log, result, items, media = (report[key] for key in ("log", "result", "items", "media"))
  lines = [
    "# What became of a log",
    "",
    f"`{log['file']}`: {log['rows']:,} "
    + (f"items read, in {log['lines']:,} rows" if log["lines"] != log["rows"] else "rows read")
    + f"; {log['kept']:,} serve, of {log['users']:,} users and {log['items']:,} items.",
    "",
    *(f"- {line}" for line in log["told"]),
    "",
    f"Result: {result['users']:,} users, {result['items']:,} items, {result['interactions']:,} interactions; of a user "
    f"{result['shortest']:,} to {result['longest']:,}, {result['median']:g} in the middle.",
  ]
  became = [("read", log["rows"], "")]
  became += [(f"left out: {reason}", of["rows"], f"row {of['first_row']:,}") for reason, of in log["dropped"].items()]
  became += [(f"left out: {reason}", count, "") for reason, count in result["dropped"].items()]
  lines += ["", *_table(("interactions", "", "first"), [*became, ("left", result["interactions"], "")])]
  below = [(f"fewer than {least}", count) for least, count in result["users_below"].items()]
  lines += ["", *_table(("interactions", "users with"), below)]
  if result["repeats"]:
    lines += [
      "",
      f"{result['repeats']:,} interactions were of an item that the user had before, "
      f"{result['repeats_at_the_same_time']:,} of them at the same time.",
    ]
  if items["file"]:
    lines += [
      "",
      f"`{items['file']}`: {items['rows']:,} rows, {items['titles']:,} titles of these items; "
      f"{items['of_no_interaction']:,} rows of items in no interaction, {items['named_again']:,} of an item named "
      f"before (the later counts), {items['without_id']:,} without an id.",
    ]
  if media["folder"]:
    lines += [
      "",
      f"`{media['folder']}`: {media['files']:,} files, {media['of_no_item']:,} of media that no item's id names, "
      f"{media['of_no_interaction']:,} of items in no interaction.",
    ]
  made = [(kind, of["with"], of["without"], f"`{of['report']}`") for kind, of in media["made"].items()]
  lines += ["", *_table(("media", "items with", "without", "which and why"), made)] if made else []
  unusable = {kind: of["first_unusable"] for kind, of in media["made"].items() if of["first_unusable"]}
  lines += ["", *(f"- Of {kind} the first file that cannot be used is {first}" for kind, first in unusable.items())]
  months = result["months"]
  when = "months" if len(months) <= _MOST_MONTHS else "years"
  histograms = {
    "Interactions of a user": result["lengths"],
    "Interactions of a user, before the k-core": result["lengths_before"] if result["core_rounds"] else {},
    "Interactions of an item": result["item_counts"],
    "Ratings of the log": log["ratings"],
    f"Interactions by {when}": months if when == "months" else _by_year(months),
  }
  for title, counts in histograms.items():
    lines += ["", f"## {title}", "", *_bars(counts)] if counts else []
  return "\n".join(lines) + "\n"


def _by_year(months: Mapping[str, int]) -> dict[str, int]:
  found: dict[str, int] = {}
  for month, count in months.items():
    year = month.rpartition("-")[0]
    found[year] = found.get(year, 0) + count
  return found


def _bars(counts: Mapping[str, int]) -> list[str]:
  most = max(counts.values())
  rows = [(name, count, "█" * round(_BAR * count / most)) for name, count in counts.items()]
  return _table(("", "", ""), rows)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
  shown = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
  return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *shown)]
