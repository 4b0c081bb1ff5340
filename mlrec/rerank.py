"""Retrieval, then ranking: candidates of one run in the order of another, which predicts clicks.

  python -m mlrec.rerank --retriever=configs/rank/retriever.py --ranker=configs/rank/din.py
  python -m mlrec.rerank --retriever=runs/a --ranker=runs/b --candidates=50 --mix
  python -m mlrec.rerank --retriever=runs/a --ranker=runs/b --user=42

Either is a workdir of python -m mlrec.main, or a config, which is trained first, in a folder of its own under runs/;
the same command finds it there again. Without --user the targets of both runs are ranked among all items, before and
after: candidates first, in the ranker's order, then all other items in the retriever's. With --mix both scores count,
weighted as validation says.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import json
import pathlib
from typing import Any

from absl import flags

from mlrec import command_line
from mlrec import config as config_lib
from mlrec import files
from mlrec import machine
from mlrec import run_flags
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import TEST

_RETRIEVER = flags.DEFINE_string("retriever", None, "What finds candidates: a workdir, or a config to be trained.")
_RANKER = flags.DEFINE_string("ranker", None, "What orders them, a model that predicts clicks: likewise.")
_CANDIDATES = flags.DEFINE_integer("candidates", 50, "How many items of the retriever are ranked.", lower_bound=2)
_SPLIT = flags.DEFINE_enum("split", TEST, EVALUATED, "Whose targets are ranked.")
_MIX = flags.DEFINE_bool(
  "mix", False, "Order by both scores, with that weight of the ranker whose NDCG@10 on validation is the best."
)
_USER = flags.DEFINE_list("user", [], "Users to recommend to instead, by their original ids, separated by commas.")
_K = flags.DEFINE_integer("k", 10, "With --user: how many items for each.", lower_bound=1)
_TO = flags.DEFINE_string("to", None, "A .json file to write, with all figures.")
# What is printed of metrics, and how wide.
_COLUMNS, _WIDTH = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "mrr"), 10


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --retriever=runs/a")
    for flag in (_RETRIEVER, _RANKER):
      if not flag.value:
        raise ConfigError(f"--{flag.name}=WORKDIR is required: a run of python -m mlrec.main, or a config of one")
    if _MIX.value and _SPLIT.value != TEST:
      raise ConfigError(f"--mix chooses on validation, and --split={_SPLIT.value} would be judged on what it chose by")
    if _TO.value and _USER.value:
      raise ConfigError("--to is for figures, and --user recommends")
    machine.share_arenas()
    # JAX, Flax and Orbax come in here: mistakes in flags are told at once.
    return run_flags.reporting(_run)
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _run() -> None:
  from mlrec.inference.recommender import Recommender
  from mlrec.inference.two_stage import TwoStage

  retriever, ranker = (Recommender.load(_workdir(flag)) for flag in (_RETRIEVER, _RANKER))
  stages = TwoStage(retriever, ranker, _CANDIDATES.value)
  if _MIX.value:
    stages.choose_weight()
    terminal.say(f"weight of the ranker {stages.weight:g}, chosen on validation")
  if _USER.value:
    _recommend(stages)
  else:
    _evaluate(stages)


def _workdir(flag: Any) -> pathlib.Path:
  """The workdir that a flag names, which is trained first where it is a config."""
  path = pathlib.Path(flag.value).expanduser()
  if path.is_dir():
    return path
  file, _, argument = flag.value.partition(":")
  found = config_lib.found(file)
  if not pathlib.Path(found).is_file():
    raise ConfigError(f"--{flag.name}={flag.value}: it is no workdir, and as a config {config_lib.missing(file)}")
  from mlrec.runs import experiment
  from mlrec.runs import workdir

  config = config_lib.validate(config_lib.from_file(f"{found}:{argument}", "get_config", "it makes the config"))
  if config.seeds:
    raise ConfigError(f"--{flag.name}={flag.value}: it is of several seeds; train it, and name the workdir of one")
  target = workdir.default(found, argument, config)
  status = command_line.run_reporting(lambda: experiment.run(config, target, say=terminal.say), target, terminal.say)
  if status or not workdir.Workdir(target).result.exists():
    raise SystemExit(status)
  return target


def _evaluate(stages: Any) -> None:
  found = stages.evaluate(_SPLIT.value)
  users, candidates = terminal.counted(found.users, "user"), terminal.counted(stages.candidates, "candidate")
  terminal.say(f"{_SPLIT.value}, {users}, {candidates} of each: the target is among them for {found.among:.1%}")
  rows = {
    stages.retriever.loaded.config.model.name: found.before,
    f"then {stages.ranker.loaded.config.model.name}": found.after,
  }
  width = max(map(len, rows)) + 2
  terminal.say(" " * width + "".join(column.rjust(_WIDTH) for column in _COLUMNS))
  for name, figures in rows.items():
    terminal.say(name.ljust(width) + "".join(f"{figures[column]:{_WIDTH}.4f}" for column in _COLUMNS))
  if _TO.value:
    path = pathlib.Path(_TO.value).expanduser()
    said = {
      "retriever": str(stages.retriever.loaded.workdir), "ranker": str(stages.ranker.loaded.workdir),
      "split": _SPLIT.value, "candidates": stages.candidates, "weight": stages.weight, **found._asdict(),
    }  # fmt: skip
    files.write_text(path, json.dumps(said, indent=2, allow_nan=False) + "\n")
    terminal.say(f"figures {path}")


def _recommend(stages: Any) -> None:
  found, places = stages.recommend_users(_USER.value, _K.value)
  for user, items, before in zip(_USER.value, found, places):
    if len(_USER.value) > 1:
      terminal.say(terminal.escaped(f"user {user}:"))
    for place, ((item, score), was) in enumerate(zip(items, before), start=1):
      terminal.say(terminal.escaped(f"{place:>3}  {item!s:<12} {score:9.4f}  (place {was} of retrieval)"))


if __name__ == "__main__":
  command_line.run(main)
