"""The service's two pages, each one file that asks for nothing elsewhere."""

import base64
import hashlib
import importlib.resources
import re

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.responses import Response

_POLICY = (
  "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'; script-src {script}; style-src {style}"
)


def add_pages(app: FastAPI) -> None:
  """Adds `/`, to watch clips and be recommended others, and `/docs`, which shows the OpenAPI description."""
  # Read once: the files may be replaced by another version while the service runs.
  whole, docs = _Page("page.html"), _Page("docs.html")

  @app.get("/", include_in_schema=False)
  async def page() -> Response:
    return whole.response()

  @app.get("/docs", include_in_schema=False)
  async def documentation() -> Response:
    return docs.response()


class _Page:
  """An HTML file, and the policy by which a browser runs nothing but the script in it."""

  def __init__(self, name: str):
    self._text = importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    script, style = (_hash(self._text, tag) for tag in ("script", "style"))
    self._headers = {
      "content-security-policy": _POLICY.format(script=script, style=style),
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-cache",
    }

  def response(self) -> Response:
    return HTMLResponse(self._text, headers=self._headers)


def _hash(text: str, tag: str) -> str:
  """What a policy calls the one element of that tag."""
  (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
  return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
