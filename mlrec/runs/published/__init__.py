"""Published figures, each file with its source in its head."""

from collections.abc import Iterator
import csv
from importlib import resources
import re
from typing import Any
from typing import NamedTuple

METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
# The files of MicroLens-100K in the order in which they are asked, and what tells that set from others.
_FILES_100K = ("microlens_100k.csv", "microlens_100k_encoders.csv")
_SOURCE_100K = re.compile(r"microlens[-/]100k", re.IGNORECASE)
_USERS_100K = 100_000


class PublishedRow(NamedTuple):
  """A row of a published table.

  Attributes:
    model: as the publication calls it.
    key: as `key_of` has it.
    metrics: those that were published, of `METRICS`.
  """

  model: str
  key: tuple[str, str, str, str]
  metrics: dict[str, float]


def key_of(config: dict[str, Any]) -> tuple[str, str, str, str]:
  """What the model of a config (JSON) is called, what of items it reads, by which encoder, and how that is trained.

  The second is `id`, `features` (vectors made before, beside IDs), `vectors` (such vectors alone), or the name of
  another item tower, such as `video`; the last two are empty without an encoder. Of `fused` the third is its towers'
  names, and the last how they are fused.
  """
  model = config["model"]
  sequential = model["name"] == "sequential"
  item = model.get("item")
  item = item if isinstance(item, dict) else {}
  name = model.get("user", {}).get("name", "") if sequential else model["name"]
  tower = item.get("name", "id")
  if tower == "fused":
    return name, tower, "+".join(item.get("towers", {})), item.get("fusion", "")
  if tower == "features":
    return name, "vectors", "", ""
  if tower not in ("id", "id_features"):
    return name, tower, item.get("encoder", ""), item.get("mode", "")
  return name, "features" if config["data"].get("features") else "id", "", ""


def microlens_100k() -> list[PublishedRow]:
  """All that was published of MicroLens-100K; of rows with one key the first is the fullest."""
  return [row for file in _FILES_100K for row in _read(file)]


def encoders_100k() -> dict[tuple[str, str], float]:
  """Test HR@10 of SASRec on MicroLens-100K by video encoder and mode (arXiv 2309.15379, Fig. 4)."""
  return {row.key[2:]: row.metrics["hr@10"] for row in _read("microlens_100k_encoders.csv")}


def kinetics_400() -> dict[str, float]:
  """Top-1 accuracy on Kinetics-400 of video encoders' published weights, in percent."""
  return {row["encoder"]: float(row["top1"]) for row in _lines("kinetics_400.csv")}


def is_microlens_100k(source: str, users: int | None) -> bool:
  """Whether a run's data are those of the published figures, by where they were read from and the number of users."""
  return bool(_SOURCE_100K.search(source)) and users in (None, _USERS_100K)


def _read(file: str) -> list[PublishedRow]:
  return [
    PublishedRow(
      row["model"],
      (row["name"], row["content"], row["encoder"], row["mode"]),
      {metric: float(row[metric]) for metric in METRICS if row.get(metric)},
    )
    for row in _lines(file)
  ]


def _lines(file: str) -> Iterator[dict[str, str]]:
  text = resources.files(__name__).joinpath(file).read_text(encoding="utf-8")
  return csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
