"""What commands print: text that is safe wherever it comes from, to streams that may go away."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging as std_logging
import os
import re
import sys
import threading
from typing import TextIO

from absl import flags
from absl import logging

# Control characters other than line ends, and those that turn the direction of what follows: a terminal obeys them.
_UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_lost = threading.Event()
_on_lost: list[Callable[[], None]] = []


def printable(text: str) -> str:
  r"""The text with control characters written out, as `\x1b`; line ends stay."""
  return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def escaped(text: str) -> str:
  r"""The text in a line of its own characters: line ends are written out too, as `\n`."""
  return printable(text.replace("\n", "\\n"))


def one_line(text: str) -> str:
  """The same, without line ends."""
  return printable(text.replace("\n", " "))


def shortened(text: str, most: int) -> str:
  """Its words, with single spaces between them, in `most` characters or fewer."""
  return " ".join(text.split())[:most]


def counted(number: int, noun: str) -> str:
  """As many of what a noun that takes an s names: `1 row`, `1,200 rows`."""
  return f"{number:,} {noun}{'' if number == 1 else 's'}"


def say(text: str) -> None:
  """Prints a line to standard output, at once."""
  write(text + "\n", sys.stdout)


def tell(text: str) -> None:
  """Prints a line to standard error, at once."""
  write(text + "\n", sys.stderr)


def log_plainly() -> None:
  """Has what is logged from the level of warnings printed as `warning: …` on standard error, and Orbax's not at all.

  Orbax logs each save, and each failure several times over; failures also raise.
  """
  mark_flags_as_parsed()
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING)
  handler = logging.get_absl_handler()
  handler.setFormatter(_Plain())
  handler.addFilter(lambda record: "orbax" not in record.pathname)


def mark_flags_as_parsed() -> None:
  """Has absl take its flags for parsed where no command has parsed them: it warns of that, and Grain asks for it."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


class _Plain(std_logging.Formatter):
  """The level and the message: whoever started a command has no use for the line of code."""

  def format(self, record: std_logging.LogRecord) -> str:
    return f"{record.levelname.lower()}: {printable(super().format(record))}"


def write(text: str, stream: TextIO) -> None:
  """Writes text that is seen at once, or not at all.

  What cannot be written is lost, and nothing stops for it; but where the reader of a pipe has gone, as that of
  `… | head -1` does, a run is asked to stop (`on_lost_reader`).
  """
  try:
    stream.write(text)
    stream.flush()
  except OSError as error:
    _discard(stream)
    if isinstance(error, BrokenPipeError):
      _lost.set()
      for callback in _on_lost:
        callback()


@contextlib.contextmanager
def on_lost_reader(callback: Callable[[], None]) -> Iterator[None]:
  """Has `callback` be called once nobody reads what is written any more, at once if that is so already."""
  _on_lost.append(callback)
  if _lost.is_set():
    callback()
  try:
    yield
  finally:
    _on_lost.remove(callback)


def _discard(stream: TextIO) -> None:
  """Has nothing more of a stream be written: what it holds back would fail again, at exit as well."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
