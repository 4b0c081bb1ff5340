"""Questions and answers of the service as JSON, with their limits."""

from typing import Annotated
from typing import Self

from pydantic import BaseModel
from pydantic import ConfigDict
from pydantic import Field
from pydantic import model_validator
from pydantic import Strict

from mlrec.serving.service import MOST_HISTORY
from mlrec.serving.service import MOST_ITEMS

MOST_FILTERED, _LONGEST_ID = 10_000, 1000
# Keys that an address may name several times.
LISTS = ("history", "only", "exclude")
OriginalId = (
  Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)] | Annotated[str, Strict(), Field(max_length=_LONGEST_ID)]
)
_K = Field(10, ge=1, le=MOST_ITEMS, description="How many items.")
_ONLY = Field(None, min_length=1, max_length=MOST_FILTERED, description="Answer none but these items.")
_EXCLUDE: list[OriginalId] = Field([], max_length=MOST_FILTERED, description="Do not answer these items.")


class RecommendQuestion(BaseModel):
  """Whom to recommend for, a user of the run or anybody's history, and what."""

  model_config = ConfigDict(
    extra="forbid", json_schema_extra={"examples": [{"history": [3, 4], "k": 5}, {"user": 7, "exclude": [3]}]}
  )
  user: OriginalId | None = Field(None, description="A user of the run.")
  history: list[OriginalId] | None = Field(
    None, min_length=1, max_length=MOST_HISTORY, description="Items that somebody watched, oldest first."
  )
  k: int = _K
  only: list[OriginalId] | None = _ONLY
  exclude: list[OriginalId] = _EXCLUDE
  seen: bool = Field(False, description="Also items of the history itself.")
  why: bool = Field(False, description="Name the nearest items of the history.")

  @model_validator(mode="after")
  def _of_one(self) -> Self:
    if (self.user is None) == (self.history is None):
      raise ValueError(f"expected one of user and history, not {'neither' if self.user is None else 'both'}")
    return self


class SimilarQuestion(BaseModel):
  """The item whose neighbours are asked for."""

  model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"item": 3, "k": 5}]})
  item: OriginalId
  k: int = _K
  only: list[OriginalId] | None = _ONLY
  exclude: list[OriginalId] = _EXCLUDE


class ListQuestion(BaseModel):
  """Which part of the catalogue."""

  model_config = ConfigDict(extra="forbid")
  first: int = Field(0, ge=0, lt=2**63, description="The place to begin at: `next` of the answer before.")
  k: int = Field(48, ge=1, le=MOST_ITEMS, description="How many items.")
  text: str = Field("", max_length=200, description="What title or id must hold.")


class Near(BaseModel):
  id: int | str
  title: str
  nearness: float = Field(description="Cosine of the two items' vectors, or, of models without, a score.")
  near: bool = Field(description="Whether that is enough to call them near, as the page does.")


class Item(BaseModel):
  id: int | str
  title: str = Field(description="Empty where it has none.")
  picture: str | None = Field(description="Where its cover or middle frame is.")
  media: str | None = Field(description="Where its video is.")
  moves: bool = Field(description="Whether it has frames: `/items/{id}` says where.")


class Scored(Item):
  score: float = Field(description="Comparable within an answer.")
  why: list[Near] | None = None


class WholeItem(Item):
  frames: list[str] = Field(description="Where the frames of its video are, in their order.")
  watched: int = Field(description="How often, in the run's data.")


class Answer(BaseModel):
  items: list[Scored] = Field(description="Best first; fewer than asked for where no more are left.")
  unknown: list[int | str] = Field(description="Items of the question that the run does not know, passed over.")


class ItemList(BaseModel):
  items: list[Item]
  next: int | None = Field(description="Where to go on; null at the end.")


class Health(BaseModel):
  status: str = Field(description="ready, or starting.")
  run: str
  model: str
  users: int
  items: int
  waiting: int = Field(description="Questions that wait.")
  version: str


class Refusal(BaseModel):
  error: str
  nearest: list[int | str] | None = Field(None, description="Ids that may be meant, or else some that exist.")
