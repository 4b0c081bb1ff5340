"""Renders results/ into tables, between the `<!-- NAME -->` marks of the project's README and of this folder's.

python benchmarks/table.py
"""

import json
import pathlib
import re

from compare import RESULTS

FOLDER = pathlib.Path(__file__).parent
README, OWN_README = FOLDER.parent / "README.md", FOLDER / "README.md"


def main() -> None:
  render(README, speed=speed_table(), quality=quality_table())
  render(OWN_README, encoders=encoder_table())


def render(path: pathlib.Path, **tables: list[str]) -> None:
  """Puts the lines of each table between its marks."""
  text = path.read_text(encoding="utf-8")
  for name, lines in tables.items():
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not marks.search(text):
      raise SystemExit(f"{path} has no marks <!-- {name} --> and <!-- /{name} -->")
    text = marks.sub(lambda match, lines=lines: match[1] + "\n".join(lines) + "\n" + match[2], text)
  path.write_text(text, encoding="utf-8")


def speed_table() -> list[str]:
  """A row for each figure of each comparison."""
  lines = ["| work | against | figure | ours | theirs | times better |", "|---|---|---|---|---|---|"]
  for record in records(r"(?!quality_|encoder_).*"):
    for figure, values in record["figures"].items():
      cells = [record["label"], record["against"], figure, f"{values['ours']:,}", f"{values['theirs']:,}"]
      lines.append("| " + " | ".join([*cells, f"{values['ratio']}"]) + " |")
  return lines


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
