"""Serves a trained workdir over HTTP: recommendations as JSON, and a page to watch clips and be recommended others.

  python -m mlrec.serve --workdir=runs/a
  python -m mlrec.serve --workdir=runs/a --port=8001 --titles=PATH/MicroLens-50k_titles.csv --media=FOLDER_OF_MP4_FILES
  curl -s localhost:8000/recommend -H "Content-Type: application/json" -d '{"history": [11, 57, 8], "k": 5}'

/recommend, /similar, /items, /items/{id} and /health; /docs describes them. Once it answers, it says where. SIGTERM
ends it once what was asked is answered. Whoever reaches the address may ask: beyond this machine (--host=0.0.0.0), put
it behind what checks who does.
"""

if __name__ == "__main__":
  from mlrec import startup

  startup.prepare()

import pathlib
import socket
import sys

from absl import flags

from mlrec import command_line
from mlrec import machine
from mlrec import run_flags
from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.data import DataError
from mlrec.run_flags import RunFlags

_RUN = RunFlags.define()
_HOST = flags.DEFINE_string("host", "127.0.0.1", "The address to serve at; 0.0.0.0 for all of this machine.")
_PORT = flags.DEFINE_integer("port", 8000, "The port; 0 for any that is free.", lower_bound=0, upper_bound=65535)
_MEDIA = flags.DEFINE_string("media", "", "A folder of videos, at any depth, named after their items, such as 42.mp4.")


def main(argv: list[str]) -> int:
  """Does what the flags say; returns the exit status."""
  try:
    if len(argv) > 1:
      raise ConfigError(f"unexpected argument {argv[1]!r}: options start with --, such as --workdir=runs/a")
    _RUN.require()
    machine.share_arenas()
    try:
      from mlrec.serving import server
    except ModuleNotFoundError as error:
      raise ConfigError(f"{error.name} is not installed: pip install 'mlrec[serve]'") from error
    with server.bind(_HOST.value, _PORT.value) as bound:
      # JAX, Flax and Orbax come in here: mistakes in flags are told at once.
      return run_flags.reporting(lambda: _serve(bound))
  except (ConfigError, DataError) as error:
    return command_line.report(error, command_line.REFUSED)


def _serve(bound: socket.socket) -> None:
  from mlrec.serving import app as web
  from mlrec.serving import server
  from mlrec.serving.media import Media
  from mlrec.serving.service import Service

  media = Media.of(pathlib.Path(_MEDIA.value).expanduser()) if _MEDIA.value else None
  recommender = _RUN.load()
  found = f", {media.count(recommender.item_ids):,} with a file to play" if media else ""
  service = Service(recommender, _RUN.catalogue(recommender), media)

  def ready() -> None:
    machine.keep_for_good()
    url = server.url(bound)
    terminal.say(f"{terminal.counted(recommender.num_items, 'item')} of {service.name}{found}: {url} ({url}docs)")

  if sys.stderr.isatty():
    terminal.tell(f"{service.name} is loaded; its programs are compiled, then it says where it is served")
  server.serve(lambda fail: web.create(service, on_ready=ready, on_failure=fail), bound)
  terminal.say("ended: what was asked is answered")


if __name__ == "__main__":
  command_line.run(main)
