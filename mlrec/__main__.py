"""Lists the commands, a line each: `python -m mlrec`."""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import ast
import pathlib
import sys

from mlrec import terminal
from mlrec.registry import closest

_HELP = ("--help", "-help", "-h", "-?")


def commands() -> dict[str, str]:
  """What each command of the package does, by the name that `python -m` takes."""
  runs = 'if __name__ == "__main__":'
  folder = pathlib.Path(__file__).parent
  paths = [path for path in sorted(folder.glob("*.py")) if path.name != pathlib.Path(__file__).name]
  texts = {f"mlrec.{path.stem}": path.read_text(encoding="utf-8") for path in paths}
  return {name: _first_line(text) for name, text in texts.items() if runs in text}


def _first_line(text: str) -> str:
  """What a module's docstring says first, up to a colon, behind which is how the command is called."""
  described = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
  return " ".join(described.partition(":")[0].split()).rstrip(".")


def main(argv: list[str]) -> int:
  """Prints the commands; returns the exit status."""
  found = commands()
  asked = [argument for argument in argv[1:] if argument not in _HELP]
  if asked:
    near = closest(f"mlrec.{asked[0].removeprefix('mlrec.')}", found)
    terminal.tell(terminal.escaped(f"error: python -m mlrec takes no arguments, not {asked[0]!r}; {near}"))
    return 2
  width = max(map(len, found)) + 2
  terminal.say("python -m NAME, where NAME is one of these; with --help it says what it takes:\n")
  for name, what in found.items():
    terminal.say(f"  {name:<{width}}{what}")
  terminal.say("\nData sets are prepared by python -m tfds_microlens.")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
