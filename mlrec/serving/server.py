"""The process that serves: its port, its signals, its end."""

from collections.abc import Callable
import signal
import socket
from types import FrameType

from fastapi import FastAPI
import uvicorn

from mlrec import machine
from mlrec.config import ConfigError

_BACKLOG, _CONNECTIONS, _OPEN_FILES = 2048, 2048, 4096
_IDLE_S, _END_S = 30, 30


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

  config = uvicorn.Config(
    make(fail), log_level="warning", access_log=False, server_header=False, limit_concurrency=_CONNECTIONS,
    timeout_keep_alive=_IDLE_S, timeout_graceful_shutdown=_END_S, backlog=_BACKLOG, lifespan="on", ws="none",
  )  # fmt: skip
  server = uvicorn.Server(config)
  # Once it has ended, the server raises the signal again for whoever listened before.
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _heard)
  server.run(sockets=[bound])
  if failures:
    raise failures[0]


def _heard(number: int, frame: FrameType | None) -> None:
  del number, frame
