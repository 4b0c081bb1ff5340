"""Renders results/ into the tables of the project's README, between its `<!-- NAME -->` marks.

python benchmarks/table.py
"""

import json
import pathlib
import re

from compare import RESULTS

README = pathlib.Path(__file__).parent.parent / "README.md"


def main() -> None:
  text = README.read_text(encoding="utf-8")
  for name, lines in (("speed", speed_table()), ("quality", quality_table())):
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
      raise SystemExit(f"{README} has no marks <!-- {name} --> and <!-- /{name} -->")
    text = marks.sub(lambda match, lines=lines: match[1] + "\n".join(lines) + "\n" + match[2], text)
  README.write_text(text, encoding="utf-8")


def speed_table() -> list[str]:
  """A row for each figure of each comparison."""
  lines = ["| work | against | figure | ours | theirs | times better |", "|---|---|---|---|---|---|"]
  for record in records(r"(?!quality_).*"):
    for figure, values in record["figures"].items():
      cells = [record["label"], record["against"], figure, f"{values['ours']:,}", f"{values['theirs']:,}"]
      lines.append("| " + " | ".join([*cells, f"{values['ratio']}"]) + " |")
  return lines


def quality_table() -> list[str]:
  """A row for each result."""
  keys = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
  lines = ["| model | seeds | " + " | ".join(f"test {key}" for key in keys) + " | valid hr@10 |", "|---" * 7 + "|"]
  for record in records(r"quality_.*"):
    cells = [shown(record["test"][key]) for key in keys] + [shown(record["valid"]["hr@10"])]
    lines.append(f"| {record['label']} | {len(record['seeds'])} | " + " | ".join(cells) + " |")
  return lines


def shown(value: dict[str, float]) -> str:
  return f"{value['mean']:.4f} ± {value['std']:.4f}" if value["std"] else f"{value['mean']:.4f}"


def records(pattern: str) -> list[dict]:
  """Results whose names match, in the order of their names."""
  paths = sorted(path for path in RESULTS.glob("*.json") if re.fullmatch(pattern, path.stem))
  return [json.loads(path.read_text()) for path in paths]


if __name__ == "__main__":
  main()
