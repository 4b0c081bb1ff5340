"""Folders that `python -m mlrec.ingest` has made: what names them, and which data sets they hold."""

from collections.abc import Collection
from collections.abc import Mapping
import os
import pathlib
from typing import Any
from typing import NamedTuple

from mlrec import files
from mlrec.data import impression_files
from mlrec.data.interactions import DataError

# Written last.
MARKER = "ingest.json"
HISTORIES, SEQUENCES, ITEMS, VIDEOS = "histories", "sequences", "items", "videos"
# What the content is that a key of `config.data` names.
_OF_KEY = {"videos": ("video",), "content": ("title", "cover", "sound track")}
# What names of prepared data sets begin with, and those of what `mlrec.ingest` has made.
_PREPARED, _OWN = "microlens/", "microlens/own-"


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


def takes_place_of(source: str | os.PathLike[str], named: str) -> bool:
  """Whether `source` is the path of such a folder, in whose runs nothing is read of the release that a config names.

  Args:
    source: `config.data.source`.
    named: where the config has content lie; empty for nowhere.
  """
  is_of_release = not named or (named.startswith(_PREPARED) and not named.startswith(_OWN))
  return is_of_release and is_ingested(source)


def places(data: Mapping[str, Any]) -> dict[str, str]:
  """Where content really lies, by those keys of `config.data` in whose place the folder of its `source` is.

  Empty for what the folder has not, and nothing of it is read.

  Raises:
    DataError: as `read`.
  """
  source = str(data["source"])
  if impression_files.is_folder(source):
    return {} if data["features"] else {"features": impression_files.vectors_of(source)}
  return {
    key: source if any(holds(source, noun) for noun in nouns) else ""
    for key, nouns in _OF_KEY.items()
    if takes_place_of(source, data[key])
  }


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
  return files.sha256_of_json(content)
