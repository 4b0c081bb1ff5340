"""An HTTP server on this machine that misbehaves as real ones do."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import http.server
import re
import socket
import struct
import threading

Fault = Callable[["Handler", bytes, int], None]


class Server(http.server.ThreadingHTTPServer):
  """Serves files.

  Attributes:
    files: contents by name.
    faults: what goes wrong with each request for a file to come, in order; later requests are answered well.
    requests: path and headers of each request so far.
    ranges: whether parts of files are given.
    headers: sent with each file; the tag of its version is among them.
    released: set when the test has ended.
  """

  daemon_threads = True
  # Tests cut connections off.
  handle_error = lambda self, request, client_address: None  # noqa: E731

  def __init__(self, files: dict[str, bytes]):
    super().__init__(("127.0.0.1", 0), Handler)
    self.files = files
    self.faults: list[Fault] = []
    self.requests: list[tuple[str, dict[str, str]]] = []
    self.ranges = True
    self.headers = {"ETag": '"v1"'}
    self.released = threading.Event()

  @property
  def root(self) -> str:
    return f"http://127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
  server = Server(files)
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
  thread.start()
  try:
    yield server
  finally:
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server: Server

  def do_GET(self) -> None:
    server = self.server
    server.requests.append((self.path, dict(self.headers)))
    if self.headers["User-Agent"].startswith("Python-urllib"):
      return self.send_error(403)
    body = server.files.get(self.path.rpartition("/")[2])
    if body is None:
      return self.send_error(404)
    asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
    same = self.headers.get("If-Range") in (None, server.headers.get("ETag"), server.headers.get("Last-Modified"))
    first = int(asked[1]) if asked and same and server.ranges else 0
    if server.faults:
      return server.faults.pop(0)(self, body, first)
    if first >= len(body) and first:
      return self.send_error(416)
    self.send_head(body, first)
    self.wfile.write(body[first:])

  def send_head(self, body: bytes, first: int, **headers: str | None) -> None:
    """The head of a good answer; `headers` replace its own, by their names with `_` for `-`, or leave them out."""
    self.send_response(206 if first else 200)
    found = {"Content-Length": str(len(body) - first), **self.server.headers}
    if first:
      found["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
    for name, value in (found | {name.replace("_", "-"): value for name, value in headers.items()}).items():
      if value is not None:
        self.send_header(name, value)
    self.end_headers()

  def end(self) -> None:
    self.close_connection = True

  def log_message(self, *args: object) -> None:
    pass


def status(code: int) -> Fault:
  """An error."""
  return lambda handler, body, first: handler.send_error(code)


def stall(handler: Handler, body: bytes, first: int) -> None:
  """No answer."""
  handler.server.released.wait(5)
  handler.end()


def drop(count: int) -> Fault:
  """The connection ends after so many bytes."""

  def fault(handler: Handler, body: bytes, first: int) -> None:
    handler.send_head(body, first)
    handler.wfile.write(body[first : first + count])
    handler.end()

  return fault


def reset(count: int) -> Fault:
  """The connection is reset after so many bytes."""

  def fault(handler: Handler, body: bytes, first: int) -> None:
    drop(count)(handler, body, first)
    # Give the client time to read, for a reset throws away what is under way.
    handler.server.released.wait(0.05)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()

  return fault


def trickle(seconds: float) -> Fault:
  """A byte every so many seconds."""

  def fault(handler: Handler, body: bytes, first: int) -> None:
    handler.send_head(body, first)
    at = first
    while at < len(body) and not handler.server.released.wait(seconds):
      handler.wfile.write(body[at : at + 1])
      at += 1
    handler.end()

  return fault


def trickle_head(seconds: float) -> Fault:
  """A byte of an endless header every so many seconds."""

  def fault(handler: Handler, body: bytes, first: int) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not handler.server.released.wait(seconds):
      handler.wfile.write(b"a")
    handler.end()

  return fault


def endless(handler: Handler, body: bytes, first: int) -> None:
  """A body without a length that goes on, first as it should and then with zeros, until the client has enough."""
  handler.send_head(body, first, Content_Length=None)
  handler.wfile.write(body[first:])
  with contextlib.suppress(OSError):
    while not handler.server.released.is_set():
      handler.wfile.write(bytes(1 << 16))
  handler.end()


def slices(count: int) -> Fault:
  """So many bytes of the range that is asked for, as a range of its own."""

  def fault(handler: Handler, body: bytes, first: int) -> None:
    end = min(first + count, len(body))
    if first:
      handler.send_head(
        body, first, Content_Length=str(end - first), Content_Range=f"bytes {first}-{end - 1}/{len(body)}"
      )
    else:
      handler.send_head(body, first)
    handler.wfile.write(body[first:end])
    handler.end()

  return fault


def answer(code: int, body: bytes = b"", **headers: str) -> Fault:
  """Another answer altogether."""

  def fault(handler: Handler, _: bytes, first: int) -> None:
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
      handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)

  return fault
