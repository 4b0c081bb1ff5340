"""Renders results/ into tables, between the `<!-- NAME -->` marks of the project's README and of this folder's.

python benchmarks/table.py
"""

import csv
import json
import pathlib
import re

from compare import RESULTS

FOLDER = pathlib.Path(__file__).parent
README, OWN_README = FOLDER.parent / "README.md", FOLDER / "README.md"
# What `python -m mlrec.report` made of the runs of configs/50k, of the steps to configs/50k/sasrec_title.py, and of
# configs/50k/sasrec_markov.py.
RECOMMENDERS, TITLES, IDS = "recommenders_50k.csv", "titles_50k.csv", "ids_50k.csv"
EVALUATIONS = "evaluations.json"
CATALOGUE, ITEM_TABLES = "catalogue.json", "item_tables_50k.csv"
SERVICE = "serve_load.json"


def main() -> None:
  render(README, speed=speed_table(), quality=report_table(RECOMMENDERS))
  render(
    OWN_README,
    encoders=encoder_table(),
    titles=report_table(TITLES),
    ids=report_table(IDS),
    evaluations=evaluation_table(),
    serve=serve_table(),
    catalogue=catalogue_table(),
    item_tables=report_table(ITEM_TABLES),
  )


def render(path: pathlib.Path, **tables: list[str]) -> None:
  """Puts the lines of each table between its marks."""
  text = path.read_text(encoding="utf-8")
  for name, lines in tables.items():
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
      raise SystemExit(f"{path} has no marks <!-- {name} --> and <!-- /{name} -->")
    text = marks.sub(lambda match, lines=lines: match[1] + "\n".join(lines) + "\n" + match[2], text)
  path.write_text(text, encoding="utf-8")


_FIGURES = {
  "users_per_s": "users/s",
  "items_per_s": "items/s",
  "cpu_s": "CPU seconds",
  "wall_s": "seconds",
  "peak_rss_mib": "peak memory, MiB",
}


def speed_table() -> list[str]:
  """A row for each figure of each comparison."""
  lines = ["| work | against | figure | ours | theirs | times better |", "|---|---|---|---|---|---|"]
  for record in records(r"\d_.*"):
    for figure, values in record["figures"].items():
      cells = [record["label"], record["against"], _FIGURES[figure]]
      cells += [_three_digits(values[key]) for key in ("ours", "theirs", "ratio")]
      lines.append("| " + " | ".join(cells) + " |")
  return lines


def _three_digits(value: float) -> str:
  """A number with the digits that a median of a few runs has."""
  return f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def encoder_table() -> list[str]:
  """A row for each video encoder: CPU seconds of a forward pass, and of one with its gradients."""
  kinds = (("forward_cpu_s", "forward"), ("both_cpu_s", "with gradients"))
  heads = [f"{kind}: ours" + " | theirs | times better" for _, kind in kinds]
  lines = ["| encoder | against | " + " | ".join(heads) + " |", "|---" * 8 + "|"]
  for record in records(r"encoder_.*"):
    cells = [record["label"], record["against"]]
    for figure, _ in kinds:
      cells += [f"{record['figures'][figure][key]}" for key in ("ours", "theirs", "ratio")]
    lines.append("| " + " | ".join(cells) + " |")
  return lines


def evaluation_table() -> list[str]:
  """A row for each config whose full-ranking evaluation was measured."""
  lines = ["| config | users/s | seconds | CPU seconds | memory added, MiB | peak MiB |", "|---" * 6 + "|"]
  for row in json.loads((RESULTS / EVALUATIONS).read_text())["rows"]:
    cells = [
      f"`{row['config']}`",
      f"{row['users_per_s']:,}",
      row["seconds"],
      row["cpu_seconds"],
      row["added_mib"],
      row["peak_mib"],
    ]
    lines.append("| " + " | ".join(map(str, cells)) + " |")
  return lines


def catalogue_table() -> list[str]:
  """A row for each optimiser of item tables: CPU milliseconds of a step by the number of items, and last by first."""
  rows = json.loads((RESULTS / CATALOGUE).read_text())["rows"]
  sizes = sorted({row["items"] for row in rows})
  heads = [f"{size:,} items" for size in sizes]
  lines = [
    f"| item tables | average | {' | '.join(heads)} | times | epoch's end, ms |",
    "|---" * (len(sizes) + 4) + "|",
  ]
  for key in dict.fromkeys((row["item_tables"], row["ema_decay"]) for row in rows):
    of_key = {row["items"]: row for row in rows if (row["item_tables"], row["ema_decay"]) == key}
    steps = [of_key[size]["step_cpu_ms"] for size in sizes]
    cells = [f"`{key[0]}`", key[1] or "none", *(f"{step:.1f}" for step in steps), f"{steps[-1] / steps[0]:.2f}"]
    lines.append("| " + " | ".join(map(str, [*cells, of_key[sizes[-1]]["epoch_end_cpu_ms"]])) + " |")
  return lines


def serve_table() -> list[str]:
  """A row for each number of connections: latencies in milliseconds."""
  keys = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p100_ms")
  lines = ["| connections | answered | requests/s | median, ms | 90 % | 95 % | 99 % | slowest |", "|---" * 8 + "|"]
  for row in json.loads((RESULTS / SERVICE).read_text())["rows"]:
    cells = [row["connections"], f"{row['statuses']['200']:,} of {row['requests']:,}", f"{row['requests_per_s']:,}"]
    lines.append("| " + " | ".join(map(str, [*cells, *(row[key] for key in keys)])) + " |")
  return lines


def report_table(name: str) -> list[str]:
  """A row for each row of a report that is kept."""
  columns = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "cold/hr@10")
  heads = ["model", "seeds", *(column.replace("/", " ") for column in columns), "CPU min", "parameters", "config"]
  lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
  with (RESULTS / name).open(newline="", encoding="utf-8") as file:
    for row in csv.DictReader(file):
      seeds = len(row["seeds"].split())
      metrics = [shown(row, f"test/{column}", seeds) for column in columns]
      rest = [f"{float(row['cpu_minutes']):.1f}", f"{int(row['parameters']):,}", f"`{row['config_hash']}`"]
      lines.append("| " + " | ".join([row["model"], str(seeds), *metrics, *rest]) + " |")
  return lines


def shown(row: dict[str, str], metric: str, seeds: int) -> str:
  """Mean, and spread where there are several seeds."""
  spread = f" ± {float(row[f'{metric}/std']):.4f}" if seeds > 1 else ""
  return f"{float(row[metric]):.4f}{spread}"


def records(pattern: str) -> list[dict]:
  """Results whose names match, in the order of their names."""
  paths = sorted(path for path in RESULTS.glob("*.json") if re.fullmatch(pattern, path.stem))
  return [json.loads(path.read_text()) for path in paths]


if __name__ == "__main__":
  main()
