"""The keys of a config, of the source of `mlrec.config.default_config`: its assignments and the comments above them."""

import ast
import inspect
import textwrap
from typing import Any
from typing import NamedTuple

from makers import markdown
from mlrec import config as config_lib

_SECTION = "config."


class Key(NamedTuple):
  """A key of a config.

  Attributes:
    name: with its section, such as `optimizer.lr`.
    default: its default.
    meaning: the comment above its assignment.
    mutable: whether it may change when a run is resumed.
  """

  name: str
  default: Any
  meaning: str
  mutable: bool


def read() -> list[Key]:
  """Every key, in the order of the source.

  Raises:
    ValueError: a key has no comment, or an assignment is not of the form that this reads.
  """
  source = textwrap.dedent(inspect.getsource(config_lib.default_config))
  lines = source.splitlines()
  defaults = config_lib.default_config()
  found = []
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
      continue
    name = ast.unparse(node.targets[0]).removeprefix(_SECTION)
    default = defaults
    for part in name.split("."):
      default = default[part]
    if isinstance(node.value, ast.Call) and ast.unparse(node.value) == "ConfigDict()":
      continue  # a section
    meaning = _comment_above(lines, node.lineno - 1)
    if not meaning:
      raise ValueError(f"config.{name} has no comment above it in mlrec/config.py")
    found.append((node.lineno, Key(name, default, meaning, name in config_lib.MUTABLE)))
  return [key for _, key in sorted(found, key=lambda pair: pair[0])]


def _comment_above(lines: list[str], place: int) -> str:
  comment: list[str] = []
  while place and lines[place - 1].strip().startswith("#"):
    place -= 1
    comment.insert(0, lines[place].strip().removeprefix("#").strip())
  return " ".join(comment)


def page() -> str:
  """A table for each section."""
  sections: dict[str, list[Key]] = {}
  for key in read():
    sections.setdefault(key.name.rpartition(".")[0].partition(".")[0], []).append(key)
  parts = []
  for section, members in sections.items():
    rows = [(_name(key), *_default(key.default), key.meaning, "yes" if key.mutable else "") for key in members]
    heads = ("key", "type", "default", "meaning", "may change on resuming")
    parts.append(f"## {section or 'At the top'}\n\n{markdown.table(heads, rows)}")
  return "\n\n".join(parts)


def _name(key: Key) -> str:
  return f'<a id="{key.name}"></a>`config.{key.name}`'


def _default(value: Any) -> tuple[str, str]:
  """The words for its type, and the default itself."""
  if hasattr(value, "to_dict"):
    return "section", markdown.code(repr(value.to_dict()))
  words = {bool: "bool", int: "integer", float: "number", str: "text", tuple: "tuple"}
  shown = f"{value:g}" if isinstance(value, float) else repr(value) if not isinstance(value, str) else value
  return words[type(value)], markdown.code(shown)
