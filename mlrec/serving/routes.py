"""How requests are read: keys once each, and HEAD wherever GET is answered."""

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
import json
from typing import Any

from fastapi import FastAPI
from fastapi import HTTPException
from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from mlrec.serving import schemas
from mlrec.serving.refusals import short


class Route(APIRoute):
  """Refuses a key that is there twice: which of the two is meant nobody knows."""

  def get_route_handler(self) -> Callable[..., Any]:
    handle = super().get_route_handler()

    async def handle_once(request: Request) -> Response:
      _each_once(name for name, _ in request.query_params.multi_items() if name not in schemas.LISTS)
      return await handle(_Request(request.scope, request.receive))

    return handle_once


class _Request(Request):
  async def json(self) -> Any:
    body = await self.body()
    try:
      return json.loads(body, object_pairs_hook=_section)
    except json.JSONDecodeError:
      raise  # FastAPI tells it, with where it is.
    except UnicodeDecodeError as error:
      raise HTTPException(422, "the body is no JSON (it is not UTF-8)") from error
    except RecursionError as error:
      raise HTTPException(422, "the body is nested too deeply") from error
    except ValueError as error:
      raise HTTPException(422, "the body holds a number of too many digits") from error


def _section(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    _each_once(key for key, _ in pairs)
  return found


def _each_once(keys: Iterable[str]) -> None:
  twice = next((key for key, count in Counter(keys).items() if count > 1), None)
  if twice is not None:
    raise HTTPException(422, f"the key {short(twice)} is there more than once")


def answer_head(app: FastAPI) -> None:
  """Has all that answers GET so far answer HEAD too; the server leaves the body out."""
  for route in [*app.routes]:
    if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
      app.add_api_route(route.path, route.endpoint, methods=["HEAD"], include_in_schema=False)
