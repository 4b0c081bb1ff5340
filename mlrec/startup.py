"""What a `python -m` command does before it imports anything that takes long."""

import os
import signal
import sys
from typing import cast
from typing import TextIO


def prepare() -> None:
  """Has Ctrl-C end the process at once, and text be written wherever it goes.

  Until a run listens to SIGINT itself (`mlrec.train.stop`), there is nothing to save, and a traceback out of an import
  says nothing. A stream that was closed by who started the process is replaced by none, and a character that a stream's
  encoding lacks is written as an escape.
  """
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
  sys.stdout, sys.stderr = _usable(sys.stdout), _usable(sys.stderr)


def _usable(stream: TextIO | None) -> TextIO:
  if stream is None:
    return cast(TextIO, open(os.devnull, "w", encoding="utf-8"))
  if hasattr(stream, "reconfigure"):
    stream.reconfigure(errors="backslashreplace")
  return stream
