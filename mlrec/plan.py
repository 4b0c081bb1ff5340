"""What a run would take on accelerators that are not here, before they are rented.

  python -m mlrec.plan --config=configs/video_sasrec.py:videomae_b,top --topology=v5e:4x4
  python -m mlrec.plan --config=configs/id_sasrec.py --topology=v5e:2x2 --items=1_142_528 --users=34_492_051
  python -m mlrec.plan --config=configs/id_sasrec.py --topology=v5e:2x2 --topology=v5e:4x4 --users_per_chip=128

The training step and what evaluation runs are compiled for each topology, by the code that trains and evaluates; a TPU
needs the extra `tpu` (libtpu), and no TPU. Printed are memory a chip, operations, bytes, transfers, the least time of a
step by the roofline, and what to change. GPUs (a100:8, h100:8, h200:8) are lowered, and their transfers are those of as
many CPU devices. Without the data, --items and --users state its sizes; those of MicroLens's releases are known.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import json
import os
import pathlib
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections import ConfigDict

from mlrec import command_line
from mlrec import config as config_lib
from mlrec import files
from mlrec import machine
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The experiment: a Python file with get_config(). Its keys are set by --config.KEY=VALUE."
)
_TOPOLOGY = flags.DEFINE_multi_string(
  "topology", [], "CHIP:AxB of TPUs, or GPU:NUMBER, such as v5e:4x4, v5p:4x4x4 or h100:8; several, smallest first."
)
_ITEMS = flags.DEFINE_string("items", "", "Items that there would be, if not those of the data, such as 1_142_528.")
_USERS = flags.DEFINE_string("users", "", "Users that there would be, if not those of the data, such as 34_492_051.")
_MEAN_LENGTH = flags.DEFINE_float("mean_length", 0.0, "The mean length of histories that are made up.")
_USERS_PER_CHIP = flags.DEFINE_integer(
  "users_per_chip", None, "Sets config.train.batch_size to so many users for each chip: weak scaling.", lower_bound=1
)
_PARTS_PER_CHIP = flags.DEFINE_integer(
  "parts_per_chip", 0, "Sets config.train.parts, and as many groups of a batch's negatives, to so many for each chip.",
  lower_bound=0,
)  # fmt: skip
_TIMEOUT = flags.DEFINE_float(
  "timeout", 0.0, "Seconds that a program may take to compile; 0 for no bound.", lower_bound=0.0
)
_TO = flags.DEFINE_string("to", None, "A .json file to write, with all figures.")

# Takes the command line for `command_line.run`.
_parse_flags = command_line.flags_parser(_CONFIG)


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --topology=v5e:4x4")
    if _CONFIG.value is None:
      raise ConfigError("--config=FILE.py is required, such as --config=configs/demo.py")
    if not _TOPOLOGY.value:
      raise ConfigError("--topology=CHIP:AxB is required, such as --topology=v5e:4x4")
    to = pathlib.Path(_TO.value).expanduser() if _TO.value else None
    if to:
      _check_room(to)
    sizes = _size("items", _ITEMS.value), _size("users", _USERS.value)
    machine.share_arenas()
    terminal.log_plainly()
    # Programs are compiled for what is not here: what is here is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    plans = _plans(_CONFIG.value, *sizes)
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)
  if to:
    files.write_text(to, json.dumps(plans, indent=2, allow_nan=False) + "\n")
    terminal.say(f"figures {to}")
  if any(plan["unfinished"] for plan in plans):
    # A compiler is still at work, and nothing but the end of the process stops it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(command_line.FAILED)
  return 0 if all(program["fits"] for plan in plans for program in plan["programs"]) else command_line.FAILED


def _check_room(to: pathlib.Path) -> None:
  """Raises a ConfigError where no file can be written there: at once, and not after all has been compiled."""
  try:
    files.check_writable(to)
  except OSError as error:
    raise ConfigError(f"--to={to} cannot be written: {files.reason(error)}") from error


def _plans(config: ConfigDict, items: int, users: int) -> list[dict[str, Any]]:
  from mlrec.planning import advice
  from mlrec.planning import page
  from mlrec.planning.estimate import plan
  from mlrec.planning.population import population
  from mlrec.planning.topology import Topology

  topologies = [Topology.parse(name) for name in _TOPOLOGY.value]
  configs = [_of_chips(config, topology.chips) for topology in topologies]
  out: list[dict[str, Any]] = []
  for topology, one in zip(topologies, configs):
    split = population(one, items=items, users=users, mean_length=_MEAN_LENGTH.value, say=terminal.tell)
    made = plan(one, topology, split, timeout=_TIMEOUT.value, say=terminal.tell)
    sentences = advice.advice(one, made)
    terminal.say(("\n" if out else "") + page.text(made, sentences))
    out.append(page.record(made, sentences))
    if made.unfinished:
      break
  return out


def _of_chips(config: ConfigDict, chips: int) -> ConfigDict:
  """The config, validated, with what is asked for of each chip."""
  config = config.copy_and_resolve_references()
  if _USERS_PER_CHIP.value:
    config.train.batch_size = _USERS_PER_CHIP.value * chips
  if _PARTS_PER_CHIP.value:
    from mlrec.models.recommenders.sequential import IN_BATCH

    config.train.parts = _PARTS_PER_CHIP.value * chips
    # Other losses have no groups.
    if config.model.get("loss", IN_BATCH) == IN_BATCH:
      config.loss.negative_groups = config.train.parts
  return config_lib.validate(config)


def _size(name: str, value: str) -> int:
  """A number as it is written in Python or with commas; 0 where none is given."""
  digits = value.replace("_", "").replace(",", "")
  if value and (not digits.isdecimal() or not int(digits)):
    raise ConfigError(f"--{name}={value}: expected a positive integer, such as 1_142_528")
  return int(digits) if value else 0


if __name__ == "__main__":
  command_line.run(main, _parse_flags)
