"""Recommends items of a trained workdir, by original ids.

  python -m mlrec.recommend --workdir=runs/a --user=42
  python -m mlrec.recommend --workdir=runs/a --history=11,57,8 --k=20 --html=page.html
  python -m mlrec.recommend --workdir=runs/a --batch=users.parquet --to=out.parquet

The log need not be there any more. What a user has watched is left out, unless --seen. A history is of any user, and of
it items that the run does not know are passed over. With --new_items, items that the content (--content, --videos) has
and training had not are recommended too, by their content. --batch takes a column `user`, or `history`.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib
from typing import Any

from absl import flags

from mlrec import command_line
from mlrec import files
from mlrec import machine
from mlrec import run_flags
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.run_flags import RunFlags

_RUN = RunFlags.define()
_USER = flags.DEFINE_list("user", [], "Users of the run, by their original ids, separated by commas.")
_HISTORY = flags.DEFINE_list("history", [], "Original ids of the items that somebody watched, oldest first.")
_BATCH = flags.DEFINE_string("batch", None, "A .parquet or .csv file with a column `user` or `history`.")
_TO = flags.DEFINE_string("to", None, "With --batch: the .parquet or .csv file to write.")
_K = flags.DEFINE_integer("k", 10, "How many items for each user or history.", lower_bound=1)
_ONLY = flags.DEFINE_list("only", [], "Recommend none but these items; @FILE has one a line.")
_EXCLUDE = flags.DEFINE_list("exclude", [], "Do not recommend these items; @FILE has one a line.")
_SEEN = flags.DEFINE_bool("seen", False, "Also recommend what was watched already.")
_WHY = flags.DEFINE_bool("why", True, "Name the items of the history that are nearest to each.")
_HTML = flags.DEFINE_string("html", None, "A page to write, with covers or middle frames of the items.")
# Items of a history that a page shows, the newest.
_SHOWN = 10


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --workdir=runs/a")
    _check()
    machine.share_arenas()
    command_line.clean_up_on_sigterm()
    # JAX, Flax and Orbax come in here: mistakes in flags are told at once.
    return run_flags.reporting(_run)
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _check() -> None:
  _RUN.require()
  asked = [f"--{flag.name}" for flag in (_USER, _HISTORY, _BATCH) if flag.value]
  if len(asked) != 1:
    given = " and ".join(asked) or "none of them"
    raise ConfigError(f"expected one of --user, --history and --batch, not {given}")
  if bool(_BATCH.value) != bool(_TO.value):
    raise ConfigError("--batch=FILE and --to=FILE go together")
  for flag, example in ((_HTML, "page.html"), (_TO, "out.parquet")):
    if flag.value:
      _check_place(f"--{flag.name}={flag.value}", pathlib.Path(str(flag.value)).expanduser(), example)
  if _BATCH.value and _HTML.value:
    raise ConfigError("--html is for --user and --history: a page of a whole batch would be too large")


def _check_place(named: str, path: pathlib.Path, example: str) -> None:
  """Raises a ConfigError where no file can take the place of a path, or where none should."""
  if path.is_dir() or files.is_special(path):
    what = "folder" if path.is_dir() else "pipe or a device"
    raise ConfigError(f"{named} is a {what}: name a file, such as {example}")
  if not path.parent.is_dir():
    raise ConfigError(f"{named}: there is no folder {path.parent}; make it first")


def _run() -> None:
  from mlrec.inference.recommender import Filters

  recommender = _RUN.load()
  # An empty list leaves nothing; no list, everything.
  only = _listed(_ONLY.value) if _ONLY.value else None
  filters = Filters(only=only, exclude=_listed(_EXCLUDE.value), seen=_SEEN.value)
  if _BATCH.value:
    from mlrec.inference import batch_file

    source, target = (pathlib.Path(str(flag.value)).expanduser() for flag in (_BATCH, _TO))
    answered, items = batch_file.recommend(recommender, source, target, k=_K.value, filters=filters)
    terminal.say(f"{target}: {terminal.counted(items, 'item')} for {terminal.counted(answered, 'row')}")
  else:
    _show(recommender, filters)


def _show(recommender: Any, filters: Any) -> None:
  from mlrec.inference import page

  catalogue = _RUN.catalogue(recommender)
  if _USER.value:
    # A text may say by itself that it is a user's.
    names = [user if recommender.users.are_texts else f"user {user}" for user in _USER.value]
    histories = [recommender.history(user) for user in _USER.value]
    found = recommender.recommend_users(_USER.value, _K.value, filters)
  else:
    names, histories = ["the history given"], [_HISTORY.value]
    found = recommender.recommend(histories, _K.value, filters)
  parts = []
  for name, history, items in zip(names, histories, found):
    why = page.near(recommender, history, [item for item, _ in items]) if _WHY.value else []
    parts.append(page.Shown(name, _known(recommender, history)[-_SHOWN:], items, why))
    _print(recommender, catalogue, parts[-1], several=len(names) > 1)
  if _HTML.value:
    target = pathlib.Path(_HTML.value).expanduser()
    files.write_text(target, page.render(recommender, catalogue, parts))
    terminal.say(f"page {target}")


def _known(recommender: Any, history: list[Any]) -> list[Any]:
  found = recommender.items.find(history)
  return recommender.items.original(found[found > 0])


def _print(recommender: Any, catalogue: Any, part: Any, *, several: bool) -> None:
  if several:
    terminal.say(terminal.escaped(f"{part.name}:"))
  if not part.items:
    terminal.say("no item is left to recommend")
  for place, (item, score) in enumerate(part.items):
    (dense,) = recommender.items.dense([item])
    title = catalogue.title(int(recommender.items.values[dense]))
    near = ", ".join(str(other) for other, _ in part.why[place]) if part.why else ""
    text = f"{place + 1:>3}  {terminal.escaped(str(item)):<12} {score:9.4f}  {terminal.shortened(title, 70)}"
    terminal.say(terminal.escaped(text.rstrip() + (f"  (near {near})" if near else "")))


def _listed(values: list[str]) -> list[str]:
  """The values of a flag, those of files that it names by @FILE in their place."""
  out: list[str] = []
  for value in values:
    if not value.startswith("@"):
      out.append(value)
      continue
    path = pathlib.Path(value[1:]).expanduser()
    try:
      text = files.read_regular(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
      raise DataError(f"{path}: the list of items cannot be read ({error})") from error
    out += [line.strip() for line in text.splitlines() if line.strip()]
  return out


if __name__ == "__main__":
  command_line.run(main)
