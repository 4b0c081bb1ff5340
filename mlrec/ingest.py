"""A log of interactions, titles and media of your own to a prepared data set that every config takes.

  python -m mlrec.ingest --interactions=log.parquet --items=items.csv --media=DIR --to=OUT
  python -m mlrec.main --config=configs/50k/sasrec.py --config.data.source=OUT

The log is CSV, TSV or other delimited text, JSON lines or Parquet, also compressed. The folder OUT is there whole or
not at all; killed and run again, the same command starts over but for the media that it has decoded. OUT/report.md says
what was read, what was left out and why.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

from collections.abc import Callable
from collections.abc import Mapping
import os
import pathlib
import sys
from typing import Any

from absl import flags

from mlrec import command_line
from mlrec import terminal
from mlrec.data import DataError

_FLAGS = flags.FlagValues()


def _text(name: str, default: str, meaning: str) -> None:
  flags.DEFINE_string(name, default, meaning, flag_values=_FLAGS)


_TO = flags.DEFINE_string("to", None, "The folder to make; it is there whole or not at all.", flag_values=_FLAGS)
_text("interactions", "", "The log: a file with a row an interaction, delimited text, JSON lines or Parquet.")
_text("user", "", "The log's column of users; a usual name is found.")
_text("item", "", "The log's column of items; a usual name is found.")
_text("time", "", "The log's column of times; a usual name is found. 'none': the order of the rows counts.")
_text("time_unit", "", "The unit of times that are numbers: s, ms, us or ns; told by their size unless said.")
_text("rating", "", "The log's column of ratings, for --min_rating, without which all count; a usual name is found.")
flags.DEFINE_float("min_rating", None, "Interactions with a lower rating are left out.", flag_values=_FLAGS)
_text("repeats", "keep", "Of an item that a user has several times: keep (all), first or last.")
_text("core", "", "K or USERS,ITEMS: users and items of fewer interactions are left out, until none are.")
flags.DEFINE_bool("no_header", False, "The log has no header: columns are 1, 2, 3, …", flag_values=_FLAGS)
_text(
  "separator", "", "Of a log of delimited text; a tab, a comma, a semicolon or a bar, by its first line, unless said."
)
_text("item_separator", "", "Of several items, oldest first, in one cell of the log.")
_text("encoding", "utf-8", "The character set of delimited text, such as latin-1.")
_text("items", "", "A table of items: a file with a row an item, in any form that a log may have.")
_text("items_id", "", "The items table's column of ids; that of the log's name, or of a usual one, is found.")
flags.DEFINE_bool("items_no_header", False, "The table of items has no header.", flag_values=_FLAGS)
_text("items_separator", "", "As --separator, of the table of items.")
_text("title", "", "The items table's column of titles; a usual name is found.")
_text("cover_path", "", "The items table's column of paths of covers, relative to --media, or to the table.")
_text("audio_path", "", "The items table's column of paths of sound tracks, likewise.")
_text("video_path", "", "The items table's column of paths of videos, likewise.")
_text("media", "", "A folder of covers, sound tracks and videos, in any folders, each named by the id of its item.")
_text("frames", "", "Of videos: <frames>x<side>[-i<interval>], 5x224 unless said; 'none' for no videos.")
_text("cover", "", "Of covers: the side of the square, 224 unless said; 'none' for no covers.")
_text("audio", "", "Of sound: seconds, 10s unless said, which also asks for that of videos; 'none' for no sound.")
# Flags by what they turn off.
_NEGATED = {"no_header": "header", "items_no_header": "items_header"}
# How settings are written, for messages: in a command line, and in Python.
_FLAG_WORDS = {name: f"--{name}=" for name in _FLAGS} | {name: f"--{flag}" for flag, name in _NEGATED.items()}
_PYTHON_WORDS = {name: f"{name}=" for name in _FLAG_WORDS} | {name: f"{name}=False" for name in _NEGATED.values()}
_HELP = flags.DEFINE_bool("help", False, "Print this.", flag_values=_FLAGS)


def main(argv: list[str]) -> int:
  """Does what the command line says; returns the exit status."""
  _FLAGS.unparse_flags()
  for name in _FLAGS:
    _FLAGS[name].unparse()
  try:
    rest = _FLAGS(argv)[1:]
    if _HELP.value:
      terminal.say(f"{__doc__}\n{_usual_names()}\n{_FLAGS.get_help()}")
      return 0
    if rest:
      raise DataError(f"unexpected argument {rest[0]!r}: options start with --, such as --interactions=FILE")
    if not _TO.value:
      raise DataError("--to=DIR is required: the folder to make")
    options: dict[str, Any] = {name: _FLAGS[name].value for name in _FLAGS if name not in ("help", *_NEGATED)}
    options |= {name: not _FLAGS[flag].value for flag, name in _NEGATED.items()}
    terminal.log_plainly()
    _ingest(options, _FLAG_WORDS, str, terminal.say)
    terminal.say(f"{_TO.value}: --config.data.source={_TO.value}; {_TO.value}/report.md says what was left out")
    return 0
  except (DataError, flags.Error) as error:
    return command_line.report(terminal.one_line(" ".join(str(error).split())), command_line.REFUSED)


def ingest(
  interactions: str | os.PathLike[str],
  *,
  to: str | os.PathLike[str],
  user: str = "",
  item: str = "",
  time: str = "",
  time_unit: str = "",
  rating: str = "",
  min_rating: float | None = None,
  repeats: str = "keep",
  core: str | int = "",
  header: bool = True,
  separator: str = "",
  item_separator: str = "",
  encoding: str = "utf-8",
  items: str | os.PathLike[str] = "",
  items_id: str = "",
  items_header: bool = True,
  items_separator: str = "",
  title: str = "",
  cover_path: str = "",
  audio_path: str = "",
  video_path: str = "",
  media: str | os.PathLike[str] = "",
  frames: str = "",
  cover: str | int = "",
  audio: str | int = "",
  say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
  """Makes a prepared data set of a log, a table of items and a folder of media.

  Memory grows with the users and the items, not with the log. Ids that are positive integers stay what they are; all
  others are texts, for which integers stand that are the same in every log, and the texts are kept beside them
  (`Interactions.user_names`, `item_names`).

  Args:
    interactions: the log, a row an interaction: delimited text (CSV, TSV, …), JSON lines or Parquet; text also
      compressed by gzip, zstd, bzip2 or LZ4.
    to: the folder to make. One that the same call has made stays as it is; any other that is not empty is refused.
    user: the log's column of users; empty for one of a usual name. Without a header columns are "1", "2", ….
    item: likewise of items, which may be lists, oldest first.
    time: likewise of times; "none" has the order of the rows count.
    time_unit: `s`, `ms`, `us` or `ns` of times that are numbers; empty to tell it by their size.
    rating: a column of the log; empty for that of a usual name.
    min_rating: rows that are rated lower are left out; None to read no ratings.
    repeats: what becomes of an item that a user has several times: `keep`, or the `first` or the `last` alone stays.
    core: the least interactions of a user and of an item, one number for both or "USERS,ITEMS"; users and items of
      fewer are left out until there are none.
    header: whether the first row of the log, if it is delimited text, names the columns.
    separator: of the log, if it is delimited text; empty to tell it by the first line.
    encoding: of delimited text.
    item_separator: of several items in one cell.
    items: a table of items, a row each.
    items_id: its column of ids; empty for one of the log's name, or of a usual one.
    items_header: whether its first row names the columns.
    items_separator: of the table, if it is delimited text; empty to tell it by the first line.
    title: its column of titles; empty for one of a usual name.
    cover_path: its column of covers' files, relative to `media`, or to the table.
    audio_path: likewise of sound tracks.
    video_path: likewise of videos.
    media: a folder, with all below it, of files that are named by their item's id.
    frames: which of a video are kept, `<frames>x<side>[-i<interval>]`; empty for `5x224`, "none" for no videos.
    cover: the side of square covers; empty for 224, "none" for no covers.
    audio: seconds of sound, such as `10s`; empty for that where there are sound tracks by themselves, "none" for none.
    say: is called with each line of what is found and guessed.

  Returns:
    What `report.json` in the folder holds: what was read and what was left out, and why.

  Raises:
    DataError: something cannot be read, is ambiguous or is refused; the message, a line, says what was expected.
  """
  options: dict[str, Any] = dict(
    to=to, interactions=os.fspath(interactions), user=user, item=item, time=time, time_unit=time_unit, rating=rating,
    min_rating=min_rating, repeats=repeats, core=str(core), header=header, separator=separator,
    item_separator=item_separator, encoding=encoding, items=os.fspath(items), items_id=items_id,
    items_header=items_header, items_separator=items_separator, title=title,
    cover_path=cover_path, audio_path=audio_path, video_path=video_path, media=os.fspath(media), frames=frames,
    cover=str(cover), audio=str(audio),
  )  # fmt: skip
  return _ingest(options, _PYTHON_WORDS, repr, say)


def _ingest(
  options: Mapping[str, Any], words: Mapping[str, str], value: Callable[[Any], str], say: Callable[[str], None]
) -> dict[str, Any]:
  """`ingest`, with the words in which its options were written."""
  # TFDS, PyArrow and the media libraries come in here: mistakes in flags are told at once.
  from tfds_microlens.ingest import job
  from tfds_microlens.ingest.settings import Settings
  from tfds_microlens.ingest.wording import Wording

  settings = {name: option for name, option in options.items() if name != "to"}
  return job.run(Settings(**settings, words=Wording(words, value)), pathlib.Path(options["to"]), say)


def _usual_names() -> str:
  """The names of columns that are found without being said."""
  from tfds_microlens.ingest import columns

  lines = [f"  {role}: {names}" for role, names in columns.described().items()]
  return "Usual names of columns, in any case and with any signs between letters:\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
  sys.exit(main(sys.argv))
