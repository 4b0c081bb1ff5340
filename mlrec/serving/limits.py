"""What a request may cost before anybody looks at it: the size of its body, and the time that it takes to come."""

import asyncio
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp
from starlette.types import Message
from starlette.types import Receive
from starlette.types import Scope
from starlette.types import Send


class Limits:
  """An ASGI layer that answers 413 where a body is too large, and 408 where it does not come."""

  def __init__(self, app: ASGIApp, *, body_bytes: int, body_s: float):
    """`body_s` are the seconds that a body may take to come, all of it."""
    self._app, self._bytes, self._seconds = app, body_bytes, body_s

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
      return await self._app(scope, receive, send)
    said = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if said.isdigit() and int(said[:20]) > self._bytes:
      return await self._refuse(413, f"the body exceeds {self._bytes:,} bytes", scope, receive, send)
    try:
      async with asyncio.timeout(self._seconds):
        body = await self._whole(receive)
    except TimeoutError:
      return await self._refuse(408, f"the body did not come within {self._seconds:g} s", scope, receive, send)
    if body is None:
      return await self._refuse(413, f"the body exceeds {self._bytes:,} bytes", scope, receive, send)
    messages = iter([body])

    async def replay() -> Message:
      return next(messages, None) or await receive()

    await self._app(scope, replay, send)

  async def _whole(self, receive: Receive) -> Message | None:
    """The body as one message, or the message that the client has gone; None where it is too large."""
    parts: list[bytes] = []
    size = 0
    while True:
      message = await receive()
      if message["type"] != "http.request":
        return message
      parts.append(message.get("body", b""))
      size += len(parts[-1])
      if size > self._bytes:
        return None
      if not message.get("more_body", False):
        return {"type": "http.request", "body": b"".join(parts), "more_body": False}

  async def _refuse(self, status: int, error: str, *asgi: Any) -> None:
    # The rest of the body is not read: the connection cannot be used again.
    await JSONResponse({"error": error}, status, {"connection": "close"})(*asgi)
