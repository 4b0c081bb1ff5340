"""The process that serves: its port, its signals, its end."""

import asyncio
from collections.abc import Callable
import contextlib
import functools
import signal
import socket
import time
from types import FrameType
from typing import Any

from fastapi import FastAPI
import uvicorn

from mlrec import machine
from mlrec.config import ConfigError
from mlrec.serving.protocol import Bounded
from mlrec.serving.protocol import BOUNDS
from mlrec.serving.protocol import Bounds
from mlrec.serving.protocol import CLOSING

_BACKLOG, _OPEN_FILES = 2048, 4096
_IDLE_S, _END_S = 30, 30
# At the end: how long who has not asked yet may, and how long what has arrived may take to be read.
_LATE_S, _READ_S = 1.0, 0.05


def bind(host: str, port: int) -> socket.socket:
  """A socket that holds an address, before anything that takes long is done; port 0 is any that is free.

  Raises:
    ConfigError: the address is in use, is not this machine's, or may not be taken.
  """
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
  except (socket.gaierror, UnicodeError) as error:
    raise ConfigError(f"--host={host}: there is no such address ({error})") from error
  bound = socket.socket(family, kind, protocol)
  try:
    # Not to wait for connections of a server that has ended; one that runs still holds the address.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    bound.listen(_BACKLOG)
  except OSError as error:
    bound.close()
    raise ConfigError(
      f"--host={host} --port={port}: it cannot be served there ({error.strerror}); choose another --port, or 0 for any"
    ) from error
  return bound


def url(bound: socket.socket) -> str:
  """Where a browser on this machine finds what is served at a socket."""
  host, port = bound.getsockname()[:2]
  host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
  return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class Server(uvicorn.Server):
  """Serves one application, and ends in order: whoever is connected by then, or waits to be, is answered."""

  def __init__(self, app: FastAPI, bounds: Bounds = BOUNDS):
    """`bounds` are those of each connection."""
    config = uvicorn.Config(
      app, http=functools.partial(Bounded, bounds=bounds),  # type: ignore[arg-type]  # of a class it asks for no more
      log_level="warning", access_log=False, server_header=False, timeout_keep_alive=_IDLE_S,
      timeout_graceful_shutdown=_END_S, backlog=_BACKLOG, lifespan="on", ws="none",
    )  # fmt: skip
    super().__init__(config)

  async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
    self.server_state.default_headers = [*self.server_state.default_headers, CLOSING]
    for connected in self._connected():
      connected.end_with_answer()
    for connection in await self._stop_accepting(sockets or []):
      await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
    # What has arrived is read, and whoever has just been connected has a moment to ask.
    end = time.monotonic() + _LATE_S
    while True:
      await asyncio.sleep(_READ_S)
      if time.monotonic() > end or all(connected.is_asked for connected in self._connected()):
        break
    await super().shutdown(sockets)

  async def _stop_accepting(self, sockets: list[socket.socket]) -> list[socket.socket]:
    """Closes what listens; connections that waited there: closing it with them in it would reset them."""
    for bound in sockets:
      asyncio.get_running_loop().remove_reader(bound)
    # Connections that asyncio has accepted become the server's in a step of their own, which fails once it is closed.
    await asyncio.sleep(_READ_S)
    waiting: list[socket.socket] = []
    for bound in sockets:
      bound.setblocking(False)
      with contextlib.suppress(BlockingIOError):
        while True:
          waiting.append(bound.accept()[0])
    # Not a step between: the next connection is refused, and its client knows that nothing was asked.
    for server in self.servers:
      server.close()
    for bound in sockets:
      bound.close()
    return waiting

  def _connected(self) -> list[Bounded]:
    return [connected for connected in self.server_state.connections if isinstance(connected, Bounded)]

  def _protocol(self) -> Bounded:
    make: Any = self.config.http_protocol_class
    return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def serve(make: Callable[[Callable[[Exception], None]], FastAPI], bound: socket.socket) -> None:
  """Serves until SIGTERM or SIGINT; requests under way are then answered.

  Args:
    make: the application, of what it is to call where it cannot go on.
    bound: as of `bind`.

  Raises:
    Exception: what it could not go on for.
  """
  machine.allow_open_files(_OPEN_FILES)
  failures: list[Exception] = []

  def fail(error: Exception) -> None:
    failures.append(error)
    server.should_exit = True

  server = Server(make(fail))
  # Once it has ended, the server raises the signal again for whoever listened before.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _heard)
  server.run(sockets=[bound])
  if failures:
    raise failures[0]


def _heard(number: int, frame: FrameType | None) -> None:
  del number, frame
