"""Answers to what cannot be answered: a status, and JSON that says in a line what was wrong and what was expected."""

import asyncio
from collections.abc import Mapping
from collections.abc import Sequence
import http
import json
import re
from typing import Any

from fastapi import FastAPI
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from mlrec.data.interactions import DataError
from mlrec.registry import closest
from mlrec.serving import schemas
from mlrec.serving.batcher import Busy
from mlrec.serving.batcher import Closed
from mlrec.serving.service import NothingKnown
from mlrec.serving.service import NotKnown

RETRY = {"retry-after": "1"}
_MOST_TOLD, _VALUE_CHARACTERS = 5, 60
_SAY_THEIR_VALUE = ("missing", "value_error", "too_long", "too_short")
_KEYS: Mapping[str, type[BaseModel]] = {
  "/recommend": schemas.RecommendQuestion,
  "/similar": schemas.SimilarQuestion,
  "/items": schemas.ListQuestion,
}


class Json(JSONResponse):
  """JSON in ASCII: ids and titles may hold what UTF-8 does not."""

  def render(self, content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def tell_refusals(app: FastAPI) -> None:
  """Has an application answer errors so."""
  # The nearest of texts take long to find: one question at a time has them sought.
  one_at_a_time = asyncio.Lock()

  async def of_unknown(request: Request, error: NotKnown) -> Response:
    async with one_at_a_time:
      nearest = await run_in_threadpool(error.ids.nearest, error.one)
    return Json({"error": str(error), "nearest": nearest}, 422 if isinstance(error, NothingKnown) else 404)

  async def of_data(request: Request, error: DataError) -> Response:
    return Json({"error": str(error)}, 422)

  async def of_load(request: Request, error: Exception) -> Response:
    return Json({"error": str(error) or "the answer took too long"}, 503, RETRY)

  async def of_form(request: Request, error: RequestValidationError) -> Response:
    return Json({"error": "; ".join(_told(request.url.path, error.errors()))}, 422)

  async def of_status(request: Request, error: HTTPException) -> Response:
    headers = {**(RETRY if error.status_code == 503 else {}), **(error.headers or {})}
    told = str(error.detail)
    if error.status_code == 405:
      # Of several routes of the address, the error names the methods of the first.
      headers["Allow"] = ", ".join(_methods(request))
      told = f"{short(request.url.path)} is not asked by {short(request.method)}, but by {headers['Allow']}"
    elif told == http.HTTPStatus.NOT_FOUND.phrase:
      told = f"there is nothing at {short(request.url.path)}: /docs says what there is"
    return Json({"error": told}, error.status_code, headers)

  async def of_failure(request: Request, error: Exception) -> Response:
    # The server logs it.
    return Json({"error": "the service failed; its log says why"}, 500)

  handlers: Mapping[type[Exception], Any] = {
    NotKnown: of_unknown,
    DataError: of_data,
    Busy: of_load,
    Closed: of_load,
    TimeoutError: of_load,
    RequestValidationError: of_form,
    HTTPException: of_status,
    Exception: of_failure,
  }
  for kind, handler in handlers.items():
    app.add_exception_handler(kind, handler)


def _methods(request: Request) -> list[str]:
  """What an address answers to."""
  found = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
  return sorted({method for route in found for method in route.methods})


def _told(path: str, errors: Sequence[Any]) -> list[str]:
  """What is wrong with each key, once."""
  lines: dict[str, str] = {}
  for error in errors:
    # Branches of a union are told apart at the end: a place in a list is an integer.
    key = ".".join(str(part) for part in error["loc"][1:] if not re.search(r"\[|^constrained-|^(int|str)$", str(part)))
    if error["type"] == "json_invalid":
      lines[""] = f"the body is no JSON ({error.get('ctx', {}).get('error', error['msg'])})"
    elif error["type"] == "extra_forbidden" and path in _KEYS:
      lines[key] = f"unknown key {key[:_VALUE_CHARACTERS]!r}: {closest(key, list(_KEYS[path].model_fields))}"
    elif isinstance(error.get("input"), bytes):
      lines[""] = "the body is not said to be JSON: expected the header Content-Type: application/json"
    else:
      text = error["msg"].removeprefix("Value error, ")
      value = "" if error["type"] in _SAY_THEIR_VALUE else f", not {short(error.get('input'))}"
      said = f"{text[:1].lower()}{text[1:]}{value}"
      lines[key] = f"{lines[key]} or {said}" if key in lines else f"{key}: {said}" if key else said
  return list(lines.values())[:_MOST_TOLD]


def short(value: Any) -> str:
  """The value, as a message shows it."""
  if isinstance(value, list | dict):
    return f"a {'list' if isinstance(value, list) else 'section'} of {len(value):,}"
  text = repr(value)
  return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}…"
