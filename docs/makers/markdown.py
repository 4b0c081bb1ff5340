"""Markdown that several makers write."""

from collections.abc import Iterable
from collections.abc import Sequence
import re


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table; what is in a cell may be anything."""
  lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
  lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
  return "\n".join(lines)


def _cell(text: str) -> str:
  return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
  """In the type of programs, an empty text as a pair of quotation marks."""
  fence = "``" if "`" in text else "`"
  return f"{fence}{text}{fence}" if text else '`""`'


def prose(text: str) -> str:
  """A docstring's text, whose lines that are indented by two or more are commands, and whose flags are code."""
  blocks = []
  for block in re.split(r"\n\s*\n", text.strip("\n")):
    lines = block.splitlines()
    if all(line.startswith("  ") for line in lines):
      blocks.append("\n".join(["```sh", *(line[2:] for line in lines), "```"]))
    else:
      # Code is in every second part.
      parts = re.split(r"(`[^`]*`)", block)
      parts[::2] = [re.sub(r"(?<!\w)--\w[\w.]*(=[^\s,.;:)]+)?", r"`\g<0>`", part) for part in parts[::2]]
      blocks.append("".join(parts))
  return "\n\n".join(blocks)
