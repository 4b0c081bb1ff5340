"""HTTP as uvicorn speaks it, with bounds on what a connection may cost before the application hears of it."""

import asyncio
from collections.abc import Callable
import http
from typing import Any
from typing import NamedTuple

from fastapi.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlrec.serving.refusals import Json
from mlrec.serving.refusals import RETRY


class Bounds(NamedTuple):
  """What a connection may cost.

  Attributes:
    head_bytes: the address and the headers of a request, all of them; also of what follows its body.
    headers: how many.
    head_s: seconds within which they come, from the first byte, or from when the connection was made.
    taken_s: seconds within which a client takes some of an answer that waits for it.
    connections: those that are answered at once; others are told to come again.
  """

  head_bytes: int = 1 << 16
  headers: int = 100
  head_s: float = 10.0
  taken_s: float = 60.0
  connections: int = 2048


BOUNDS = Bounds()
CLOSING = (b"connection", b"close")


class Bounded(HttpToolsProtocol):
  """One connection. What is refused here is told as the application tells its refusals."""

  def __init__(self, *, bounds: Bounds, **of_uvicorn: Any):
    super().__init__(**of_uvicorn)
    self._bounds = bounds
    self._in_head, self._in_body = False, False
    # Bytes since the parser last made something of them: those it keeps.
    self._unread = 0
    self._head_due = _Timer(self.loop, bounds.head_s, self._head_is_late)
    self._taken_due = _Timer(self.loop, bounds.taken_s, lambda: self.transport.abort())

  @property
  def is_asked(self) -> bool:
    """Whether a request has come, answered or not."""
    return self.cycle is not None

  def end_with_answer(self) -> None:
    """Has the connection end with the answer that is under way, which says so if it has not begun."""
    if self._is_answering():
      self.cycle.keep_alive = False
      self.cycle.default_headers = [*self.cycle.default_headers, CLOSING]

  def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
    super().connection_made(transport)
    self._head_due.start()

  def connection_lost(self, exc: Exception | None) -> None:
    self._head_due.stop()
    self._taken_due.stop()
    super().connection_lost(exc)

  def data_received(self, data: bytes) -> None:
    # Empty lines before a request begin none for the parser.
    self._in_head = self._in_head or not self._in_body
    self._unread += len(data)
    super().data_received(data)
    if self.transport.is_closing():
      return
    if self._unread > self._bounds.head_bytes:
      self._refuse(431, self._too_large())
    elif self._in_head:
      self._head_due.start()
    else:
      self._head_due.stop()

  def on_message_begin(self) -> None:
    self._in_head = True
    super().on_message_begin()

  def on_headers_complete(self) -> None:
    self._in_head, self._in_body, self._unread = False, True, 0
    self.app = self._refusal() or self.config.loaded_app
    super().on_headers_complete()

  def on_body(self, body: bytes) -> None:
    self._unread = 0
    super().on_body(body)

  def on_message_complete(self) -> None:
    self._in_body, self._unread = False, 0
    super().on_message_complete()

  def pause_writing(self) -> None:
    super().pause_writing()
    self._taken_due.start()

  def resume_writing(self) -> None:
    self._taken_due.stop()
    super().resume_writing()

  def send_400_response(self, msg: str) -> None:
    del msg
    self._refuse(400, "the request is no HTTP/1.1 that is understood")

  def _refusal(self) -> Response | None:
    """What answers a request, now that its head is there, in the application's place; None where nothing does."""
    size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
    if size > self._bounds.head_bytes or len(self.headers) > self._bounds.headers:
      return Json({"error": self._too_large()}, 431, {"connection": "close"})
    if len(self.connections) > self._bounds.connections:
      return Json({"error": "there are too many connections"}, 503, {"connection": "close", **RETRY})
    return None

  def _is_answering(self) -> bool:
    return self.cycle is not None and not self.cycle.response_complete

  def _too_large(self) -> str:
    most = self._bounds
    return f"the address and the headers exceed {most.head_bytes:,} bytes, or {most.headers} headers"

  def _head_is_late(self) -> None:
    if self._unread:
      self._refuse(408, f"the address and the headers did not come within {self._bounds.head_s:g} s")
    else:
      # Browsers open connections ahead, and take an answer on one for the answer to what they ask next.
      self.transport.close()

  def _refuse(self, status: int, error: str) -> None:
    """Closes the connection; says why, where no other answer is under way."""
    if not self._is_answering():
      answer = Json({"error": error}, status, {"connection": "close"})
      head = b"".join(b"%b: %b\r\n" % pair for pair in answer.raw_headers)
      phrase = http.HTTPStatus(status).phrase.encode()
      self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, phrase, head, bytes(answer.body)))
    self.transport.close()


class _Timer:
  """Calls back, unless it is stopped before."""

  def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]):
    self._loop, self._seconds, self._callback = loop, seconds, callback
    self._handle: asyncio.TimerHandle | None = None

  def start(self) -> None:
    """Begins to count, where it does not yet."""
    if self._handle is None:
      self._handle = self._loop.call_later(self._seconds, self._callback)

  def stop(self) -> None:
    if self._handle is not None:
      self._handle.cancel()
      self._handle = None
