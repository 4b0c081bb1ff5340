"""What a connection may cost, and how the server ends, over the loopback."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI
from fastapi import Response

from mlrec.serving import server
from mlrec.serving.protocol import BOUNDS
from support.tiny_runs import wait_for

_GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
_LARGE = 1 << 26


@contextlib.contextmanager
def serving(app=None, made=server.Server, **bounds):
  """A server of an application, by default of one that answers at once, in a thread; and its socket."""
  bound = server.bind("127.0.0.1", 0)
  running = made(app or simple(), BOUNDS._replace(**bounds))
  thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
  thread.start()
  try:
    yield running, bound.getsockname()
  finally:
    running.should_exit = True
    thread.join()


def simple():
  app = FastAPI()

  @app.get("/")
  async def answer():
    return "answered"

  @app.post("/")
  async def answer_after_body(body: dict):
    return body

  @app.get("/large")
  async def answer_much():
    return Response(bytes(_LARGE))

  return app


def connected(address):
  return socket.create_connection(address, timeout=30)


def answer(connection):
  """Status, headers and body of the one answer that is left on a connection, which ends; None where it just ends."""
  parts = []
  while part := connection.recv(1 << 16):
    parts.append(part)
  if not parts:
    return None
  head, _, body = b"".join(parts).partition(b"\r\n\r\n")
  first, *headers = head.decode().lower().split("\r\n")
  return int(first.split()[1]), dict(header.split(": ", 1) for header in headers), body


def until_answered(connection):
  found = b""
  while not found.endswith(b'"answered"'):
    part = connection.recv(1 << 16)
    assert part, found
    found += part


def refused(connection, status, message):
  found, headers, body = answer(connection)
  assert found == status
  assert headers["content-type"] == "application/json"
  assert headers["connection"] == "close"
  assert message in json.loads(body)["error"]
  return headers


@pytest.mark.parametrize(
  "request_of",
  [
    b"GET /?" + b"a" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\ncookie: " + b"a" * 2000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\ncookie: " + b"a" * 2000,
    b"GET /" + b"a" * 2000,
    b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20 + b"\r\n",
    b"\r\n" * 1000,
  ],
)
def test_addresses_and_headers_that_are_too_large_are_refused(request_of):
  with serving(head_bytes=1000, headers=10) as (_, address), connected(address) as connection:
    connection.sendall(request_of)
    refused(connection, 431, "exceed 1,000 bytes, or 10 headers")
    with connected(address) as another:
      another.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + b"a: b\r\n" * 8 + b"\r\n")
      assert answer(another)[0] == 200


def test_a_connection_ends_where_too_much_follows_a_body_in_headers():
  with serving(head_bytes=1000) as (_, address), connected(address) as connection:
    connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\na: ")
    time.sleep(0.1)
    connection.sendall(b"a" * 2000)
    assert answer(connection) is None


@pytest.mark.parametrize("before", [b"", _GET], ids=["first", "second"])
@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nhost:", b"G", b"\r\n"], ids=["headers", "method", "line"])
def test_a_request_that_does_not_come_is_not_waited_for_however_it_drips(before, head):
  with serving(head_s=0.5) as (_, address), connected(address) as connection:
    if before:
      connection.sendall(before)
      until_answered(connection)
    connection.sendall(head)
    with contextlib.suppress(OSError):
      for _ in range(30):
        time.sleep(0.02)
        connection.sendall(b"x" if head.startswith(b"G") and b":" in head else b"")
    refused(connection, 408, "did not come within 0.5 s")


def test_a_connection_on_which_nothing_is_asked_ends_without_a_word():
  with serving(head_s=0.2) as (_, address), connected(address) as connection:
    assert answer(connection) is None


def test_time_and_size_of_a_body_are_not_those_of_headers():
  with serving(head_s=0.2, head_bytes=1000) as (_, address), connected(address) as connection:
    body = json.dumps({"a": "b" * 5000}).encode()
    connection.sendall(
      b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
      b"content-length: %d\r\n\r\n" % len(body)
    )
    for part in (body[:3000], body[3000:]):
      time.sleep(0.3)
      connection.sendall(part)
    assert answer(connection)[0] == 200


def test_an_answer_of_which_nothing_is_taken_is_given_up():
  with serving(taken_s=0.2) as (running, address), connected(address) as connection:
    connection.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
    wait_for(lambda: running.server_state.total_requests)
    wait_for(lambda: not running.server_state.connections)
    taken = 0
    with contextlib.suppress(ConnectionResetError):
      while part := connection.recv(1 << 20):
        taken += len(part)
    assert taken < _LARGE


def test_what_is_no_http_is_told_so():
  with serving() as (_, address), connected(address) as connection:
    connection.sendall(b"what is this?\r\n\r\n")
    refused(connection, 400, "no HTTP/1.1 that is understood")


def test_connections_beyond_those_that_are_answered_are_told_to_come_again():
  with serving(connections=1) as (_, address), connected(address) as first, connected(address) as second:
    second.sendall(_GET)
    assert refused(second, 503, "too many connections")["retry-after"] == "1"
    first.sendall(_GET)
    until_answered(first)


def test_who_is_connected_when_the_end_comes_is_answered(monkeypatch):
  """Whether accepted or not, read or not, or connected without having asked so far."""
  halted, may_go_on = threading.Event(), threading.Event()

  class Halted(server.Server):
    async def on_tick(self, counter):
      if self.should_exit:
        halted.set()
        may_go_on.wait(30)  # Nothing is accepted or read meanwhile.
      return await super().on_tick(counter)

  monkeypatch.setattr(server, "_LATE_S", 30)
  with serving(made=Halted) as (running, address), contextlib.ExitStack() as connections:
    accepted = [connections.enter_context(connected(address)) for _ in range(20)]
    wait_for(lambda: len(running.server_state.connections) == 20)
    running.should_exit = True
    assert halted.wait(30)
    waiting = [connections.enter_context(connected(address)) for _ in range(100)]
    for connection in (*accepted, *waiting[1:]):
      connection.sendall(_GET)
    may_go_on.set()
    wait_for(lambda: not running.servers[0].is_serving())
    with pytest.raises(ConnectionRefusedError):
      connected(address)
    waiting[0].sendall(_GET)
    for connection in (*accepted, *waiting):
      status, headers, body = answer(connection)
      assert (status, headers["connection"], body) == (200, "close", b'"answered"')


def test_an_answer_that_is_given_at_the_end_says_that_the_connection_ends_with_it():
  app, begun = FastAPI(), threading.Event()

  @app.get("/")
  async def answer_at_the_end():
    begun.set()
    while running.servers[0].is_serving():
      await asyncio.sleep(0.01)
    return "answered"

  with serving(app) as (running, address), connected(address) as connection:
    connection.sendall(_GET)
    assert begun.wait(30)
    running.should_exit = True
    status, headers, _ = answer(connection)
  assert (status, headers["connection"]) == (200, "close")
