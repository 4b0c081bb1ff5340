"""Every command of the package: what its module says, and its flags with defaults and meanings."""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

from makers import markdown
import mlrec
from mlrec import __main__

_PACKAGE = pathlib.Path(mlrec.__file__).parent
_FOLDER = pathlib.Path(__file__).parents[1]


class Flag(NamedTuple):
  """A flag of a command.

  Attributes:
    name: without its hyphens; of a switch `[no]name`.
    default: as it is written on a command line; empty where there is none.
    meaning: its help.
  """

  name: str
  default: str
  meaning: str


class Command(NamedTuple):
  """A command.

  Attributes:
    module: what `python -m` runs.
    description: its module's docstring.
    flags: in alphabetical order.
  """

  module: str
  description: str
  flags: list[Flag]


def commands() -> list[Command]:
  """All commands, each read by a process of its own: absl's flags are of one program."""
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    return list(pool.map(read, __main__.commands()))


def read(module: str) -> Command:
  """What a command says of itself."""
  environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_PACKAGE.parent), str(_FOLDER)])}
  found = subprocess.run(
    [sys.executable, "-m", "makers.flags_of", module], check=True, capture_output=True, text=True, env=environment
  )
  said = json.loads(found.stdout)
  return Command(module, said["description"], [Flag(*flag) for flag in said["flags"]])


def page() -> str:
  """A section for each command, and one for the command that prepares data sets, which prints its own."""
  parts = []
  for command in commands():
    rows = [
      (f"`--{flag.name}`", markdown.code(flag.default) if flag.default else "", markdown.prose(flag.meaning))
      for flag in command.flags
    ]
    described = markdown.prose(command.description)
    parts.append(f"## {command.module}\n\n{described}\n\n{markdown.table(('flag', 'default', 'meaning'), rows)}")
  prepare = subprocess.run(
    [sys.executable, "-m", "tfds_microlens", "--help"], check=True, capture_output=True, text=True,
    env=os.environ | {"COLUMNS": "100"},
  )  # fmt: skip
  parts.append(f"## tfds_microlens\n\n```text\n{prepare.stdout.strip()}\n```")
  return "\n\n".join(parts)
