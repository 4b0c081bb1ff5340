"""Prints what a command says of itself as JSON: `python -m makers.flags_of mlrec.main`."""

import importlib
import json
import sys
from typing import Any

from absl import flags


def described(name: str) -> dict[str, Any]:
  """`{"description": …, "flags": [[name, default, meaning], …]}` of a module."""
  module = importlib.import_module(name)
  own = vars(module).get("_FLAGS")
  if own is not None:
    found = [own[flag] for flag in own if flag not in ("help", "flagfile", "undefok")]
  else:
    found = flags.FLAGS.flags_by_module_dict()[name]
  rows = [[_name(flag), _default(flag), _meaning(flag)] for flag in sorted(found, key=lambda flag: flag.name)]
  return {"description": module.__doc__, "flags": rows}


def _name(flag: flags.Flag) -> str:
  # Nobody turns off what says no.
  return f"[no]{flag.name}" if flag.boolean and not flag.name.startswith(("no_", "items_no_")) else flag.name


def _default(flag: flags.Flag) -> str:
  return "" if flag.default in (None, "", []) else (flag.default_as_str or "").strip("'")


def _meaning(flag: flags.Flag) -> str:
  choices = getattr(flag, "enum_values", None)
  return (f"{', '.join(f'`{choice}`' for choice in choices)}: " if choices else "") + flag.help


if __name__ == "__main__":
  print(json.dumps(described(sys.argv[1])))
