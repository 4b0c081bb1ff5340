"""Folders that `python -m mlrec.ingest` has made: what names them, and which data sets they hold."""

from collections.abc import Collection
from collections.abc import Mapping
import hashlib
import os
import pathlib
from typing import Any
from typing import NamedTuple

from mlrec import files
from mlrec.data.interactions import DataError

# Written last.
MARKER = "ingest.json"
HISTORIES, SEQUENCES, ITEMS, VIDEOS = "histories", "sequences", "items", "videos"


class Ingested(NamedTuple):
  """What a folder holds.

  Attributes:
    sets: `microlens/own-…` by kind: `histories` and `sequences`, and `items` and `videos` where there are such.
    holds: what there is of at least one item, in the singular: "title", "cover", "sound track", "video".
    made_of: the files and settings that it was made of, as JSON.
  """

  sets: Mapping[str, str]
  holds: Collection[str]
  made_of: Any


def is_ingested(folder: str | os.PathLike[str]) -> bool:
  """Whether it is the path of such a folder, finished."""
  return bool(os.fspath(folder)) and (pathlib.Path(folder).expanduser() / MARKER).is_file()


def holds(folder: str | os.PathLike[str], what: str) -> bool:
  """Whether it is the path of such a folder, and `what` is among what it `holds`.

  Raises:
    DataError: as `read`.
  """
  return is_ingested(folder) and what in read(folder).holds


def write(folder: pathlib.Path, ingested: Ingested) -> None:
  """Says what a folder holds, as the last of its files."""
  content = {"sets": dict(ingested.sets), "holds": sorted(ingested.holds), "made_of": ingested.made_of}
  files.write_json(folder / MARKER, content | {"sha256": _digest(content)})


def read(folder: str | os.PathLike[str]) -> Ingested:
  """What a folder holds.

  Raises:
    DataError: it was not made by `mlrec.ingest`, or what says so is damaged.
  """
  path = pathlib.Path(folder).expanduser() / MARKER
  try:
    content = files.read_json(path)
    if content.pop("sha256") != _digest(content):
      raise ValueError("its digest differs")
    sets = {str(kind): str(name) for kind, name in content["sets"].items()}
    return Ingested(sets, frozenset(map(str, content["holds"])), content["made_of"])
  except FileNotFoundError as error:
    raise DataError(f"{folder}: no {MARKER} in it: mlrec.ingest did not make it, or did not finish") from error
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise DataError(f"{path}: it is not what was written ({error}); make the folder again") from error


def _digest(content: Any) -> str:
  return hashlib.sha256(files.canonical_json(content).encode()).hexdigest()
