"""The service on the web: routes, their checks, and what is answered to a question that cannot be."""

import asyncio
from collections.abc import AsyncIterator
from collections.abc import Callable
import contextlib
import importlib.metadata
import threading
from typing import Annotated
from typing import Any

from fastapi import FastAPI
from fastapi import HTTPException
from fastapi import Path
from fastapi import Query
from fastapi.responses import FileResponse
from fastapi.responses import Response

from mlrec.serving import schemas
from mlrec.serving.batcher import Batcher
from mlrec.serving.limits import Limits
from mlrec.serving.pages import add_pages
from mlrec.serving.refusals import Json
from mlrec.serving.refusals import tell_refusals
from mlrec.serving.routes import answer_head
from mlrec.serving.routes import Route
from mlrec.serving.service import MOST_AT_ONCE
from mlrec.serving.service import Question
from mlrec.serving.service import Service

_BODY_BYTES, _BODY_S = 1 << 20, 10.0
_ANSWER_S = 10.0
_A_DAY = {"cache-control": "public, max-age=86400"}
_JPEG = "image/jpeg"
_ItemId = Annotated[str, Path(description="An original id.")]


def create(
  service: Service,
  *,
  on_ready: Callable[[], None] = lambda: None,
  on_failure: Callable[[Exception], None] = lambda error: None,
  queued: int = 1024,
  answer_s: float = _ANSWER_S,
) -> FastAPI:
  """The ASGI application.

  It begins to compile when it is started, and answers questions once that is done; `/health` says when.

  Args:
    service: what it serves.
    on_ready: called, in the event loop, before the first question is answered.
    on_failure: called, in the event loop, where the model cannot answer at all.
    queued: questions that may wait; others are answered 503.
    answer_s: seconds within which a question is answered, or 503.
  """
  batcher: Batcher[Question, list[dict[str, Any]]] = Batcher(service.answer, most=MOST_AT_ONCE, queued=queued)
  ready, ending = threading.Event(), threading.Event()

  async def warm() -> None:
    try:
      if await asyncio.get_running_loop().run_in_executor(batcher.thread, service.warm, ending.is_set):
        on_ready()
        ready.set()
    except Exception as error:
      on_failure(error)

  @contextlib.asynccontextmanager
  async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    batcher.start()
    warming = asyncio.create_task(warm())
    try:
      yield
    finally:
      ending.set()
      await warming
      await batcher.close()

  async def answered(question: tuple[Question, list[Any]]) -> Response:
    if not ready.is_set():
      raise HTTPException(503, "the service is starting: its programs are being compiled")
    asked, unknown = question
    return Json({"items": await batcher.ask(asked, within_s=answer_s), "unknown": unknown})

  app = FastAPI(
    title="mlrec", version=_version(), docs_url=None, redoc_url=None, lifespan=lifespan,
    description=f"Recommendations of the run {service.name}.", default_response_class=Json,
  )  # fmt: skip
  app.router.route_class = Route
  app.add_middleware(Limits, body_bytes=_BODY_BYTES, body_s=_BODY_S)
  tell_refusals(app)
  _add_questions(app, service, answered)
  _add_items(app, service)
  add_pages(app)

  @app.get("/health", response_model=schemas.Health, responses=_refused(503), summary="Whether questions are answered")
  async def health() -> Response:
    found = {"status": "ready" if ready.is_set() else "starting", **service.facts(), "waiting": batcher.waiting}
    return Json(found | {"version": app.version}, 200 if ready.is_set() else 503)

  answer_head(app)
  return app


def _version() -> str:
  try:
    return importlib.metadata.version("mlrec")
  except importlib.metadata.PackageNotFoundError:
    return "unknown"  # run out of a folder


def _refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
  """What OpenAPI is told of refusals."""
  return {status: {"model": schemas.Refusal} for status in statuses}


def _add_questions(app: FastAPI, service: Service, answered: Callable[..., Any]) -> None:
  def of_recommend(asked: schemas.RecommendQuestion) -> tuple[Question, list[Any]]:
    return service.question(**asked.model_dump() | {"history": asked.history or ()})

  def of_similar(asked: schemas.SimilarQuestion) -> tuple[Question, list[Any]]:
    return service.similar(**asked.model_dump())

  refusals: dict[str, Any] = {"response_model": schemas.Answer, "responses": _refused(404, 408, 413, 422, 503)}

  @app.post("/recommend", summary="The best items for a user, or after a history", **refusals)
  async def recommend(asked: schemas.RecommendQuestion) -> Response:
    return await answered(of_recommend(asked))

  @app.get("/recommend", summary="The same, for what fits an address", **refusals)
  async def recommend_simply(asked: Annotated[schemas.RecommendQuestion, Query()]) -> Response:
    return await answered(of_recommend(asked))

  @app.post("/similar", summary="The nearest neighbours of an item", **refusals)
  async def similar(asked: schemas.SimilarQuestion) -> Response:
    return await answered(of_similar(asked))

  @app.get("/similar", summary="The same, for what fits an address", **refusals)
  async def similar_simply(asked: Annotated[schemas.SimilarQuestion, Query()]) -> Response:
    return await answered(of_similar(asked))


def _add_items(app: FastAPI, service: Service) -> None:
  """What reads files is run in threads."""

  @app.get("/items", response_model=schemas.ItemList, responses=_refused(422), summary="Items, most watched first")
  def items(asked: Annotated[schemas.ListQuestion, Query()]) -> Response:
    found, following = service.listed(asked.first, asked.k, asked.text)
    return Json({"items": found, "next": following})

  @app.get("/items/{item:path}", response_model=schemas.WholeItem, responses=_refused(404, 422), summary="An item")
  def item(item: _ItemId) -> Response:
    return Json(service.item(item))

  @app.get(
    "/pictures/{item:path}", responses=_pictures(), response_class=Response, summary="Its cover, or middle frame"
  )
  def picture(item: _ItemId) -> Response:
    return _jpeg(service.catalogue.picture(service.key(item)), "the item has no picture")

  @app.get(
    "/frames/{place}/{item:path}", responses=_pictures(), response_class=Response, summary="A frame of its video"
  )
  def frame(place: Annotated[int, Path(ge=0)], item: _ItemId) -> Response:
    frames = service.catalogue.frames(service.key(item))
    return _jpeg(frames[place] if place < len(frames) else None, f"the item has {len(frames)} frames")

  @app.get(
    "/media/{item:path}", response_class=FileResponse, responses=_refused(404, 422), summary="Its video, by ranges"
  )
  def media(item: _ItemId) -> Response:
    found = service.video(item)
    if found is None:
      raise HTTPException(404, "the item has no video")
    path, kind = found
    return FileResponse(path, media_type=kind)


def _pictures() -> dict[int | str, dict[str, Any]]:
  return {200: {"content": {_JPEG: {}}}, **_refused(404, 422)}


def _jpeg(picture: bytes | None, otherwise: str) -> Response:
  if picture is None:
    raise HTTPException(404, otherwise)
  return Response(picture, media_type=_JPEG, headers=_A_DAY)
