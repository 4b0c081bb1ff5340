"""Vectors of items that were computed elsewhere: published feature files, and those that `mlrec.features` keeps.

Four forms (the first two are those of MicroLens's release, `extracted_modality_features/`):

* `*.npy`: float `[items, D]`; row r is the item of original id r + 1.
* `*.json`: an object of item id (a string) to a list of D numbers.
* a folder of `vectors.npy [items + 1, D]` (row 0 stands for the padding and for items without content) and `items.npy`,
  ascending original ids, with `recipe.json`, which holds the digests of both, as `python -m mlrec.features` prints.
* `item_info.parquet` of the multimodal CTR challenge (`mlrec/sources/mmctr.py`): `item_id` and `item_emb_d128`.
"""

from collections.abc import Mapping
import functools
import hashlib
import os
import pathlib
import re
from typing import Any
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from mlrec import files
from mlrec.content.base import Need
from mlrec.content.base import PRESENT
from mlrec.data import impression_files
from mlrec.data.interactions import DataError

# What a finished folder holds; the last is written last, and has the digests of the others.
VECTORS, ITEMS, RECIPE = "vectors.npy", "items.npy", "recipe.json"
# The name of the content, and the key of `config.data`.
FEATURES = "features"
_ITEM_ID = re.compile(r"[0-9]{1,19}")
# Of the largest variance: smaller variances count as this much.
_LEAST_VARIANCE = 1e-6
_FORMS = (
  "a .npy or .json file of MicroLens's release, an item_info.parquet of the multimodal CTR challenge, or a folder that "
  "python -m mlrec.features has made"
)


class DamagedError(ValueError):
  """A kept file is not what was written."""


class Vectors(NamedTuple):
  """Vectors by dense id.

  Attributes:
    vectors: `[num_items + 1, D]` float32; row 0 is the padding item's.
    missing: original ids of the items that have none: theirs is the padding item's, zeros but where a folder says
      otherwise.
    fingerprint: stands for the content.
  """

  vectors: np.ndarray
  missing: np.ndarray
  fingerprint: str


class VectorContent:
  """Vectors as a content of items, a row for each dense id."""

  decodes = False

  def __init__(self, vectors: Vectors, item_ids: np.ndarray):
    """`item_ids`: `[num_items + 1]` original ids by dense id, 0 for padding."""
    self._vectors, self._present = vectors.vectors, _present(vectors, item_ids)
    self.fingerprint = vectors.fingerprint
    shape, dtype = self._vectors.shape[1:], str(self._vectors.dtype)
    self.needs = {FEATURES: Need(shape, dtype), f"{FEATURES}{PRESENT}": Need((), "bool")}

  def read(self, items: np.ndarray) -> dict[str, np.ndarray]:
    """`{"features": [*items.shape, D], "features_present": [*items.shape] bool}`."""
    return {FEATURES: np.asarray(self._vectors[items]), f"{FEATURES}{PRESENT}": self._present[items]}


def source_of(data: ConfigDict) -> str:
  """Where the vectors are that models read: `config.data.features`, or with the impressions; empty for nowhere."""
  return data.features or impression_files.vectors_of(data.source)


def load(data: ConfigDict, item_ids: np.ndarray, known_ids: np.ndarray | None = None) -> Vectors:
  """The vectors that `source_of` names, whitened where `config.data.whiten` says so.

  Args:
    data: `config.data`.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
    known_ids: the first of them, over which vectors are whitened; None for all.

  Raises:
    DataError: none are named, they are malformed, none belongs to these items, or one is not finite (its item is
      named).
  """
  source = source_of(data)
  named = _named(source)
  found = _of_split(_open(source, named), item_ids, named)
  if len(found.missing):
    logging.warning(
      "%s: %d of %d items have no vector (item %d first); theirs is the padding item's.",
      source, len(found.missing), len(item_ids) - 1, found.missing[0],
    )  # fmt: skip
  return whitened(found, item_ids, known_ids) if data.whiten else found


def width(source: str, *, named: str = "") -> int:
  """D of the vectors that `config.data.features = source` names; `named` is for messages, if it is another option.

  Raises:
    DataError: there are none, or they are malformed.
  """
  return _open(source, named or _named(source)).vectors.shape[1]


def read(path: str | os.PathLike[str], item_ids: np.ndarray, *, named: str = "") -> Vectors:
  """The vectors of a file or folder of any of the forms, as they are; missing ones are not logged.

  `named` is for messages, instead of the path.

  Raises:
    DataError: as `load`.
  """
  named = named or os.fspath(path)
  return _of_split(_open(os.fspath(path), named), item_ids, named)


def items_of(source: str, *, named: str = "") -> np.ndarray:
  """`[items + 1]` int64: 0 for padding, and the original ids of all items that have vectors there, ascending.

  `named` is for messages, instead of `source`.

  Raises:
    DataError: there are none, or they are malformed.
  """
  items = np.asarray(_open(source, named or source).items, np.int64)
  return np.concatenate([[0], items[items > 0]])


def check_folder(path: pathlib.Path) -> dict[str, Any]:
  """Compares a finished folder with the digests that it was finished with.

  Returns:
    The recipe that it states.

  Raises:
    DamagedError: a file is missing, malformed, or not what was written.
  """
  try:
    recipe = files.read_json(path / RECIPE)
    digests = recipe.get("files") if isinstance(recipe, dict) else None
    if not isinstance(digests, dict):
      raise ValueError(f"{RECIPE} has no digests of the other files, as older versions wrote it: make the folder again")
    for name in (VECTORS, ITEMS):
      if files.sha256(path / name) != digests.get(name):
        raise ValueError(f"{name} is not what was written (its digest differs): make the folder again")
    return {key: value for key, value in recipe.items() if key != "files"}
  except (OSError, ValueError) as error:
    raise DamagedError(f"{path}: {error}") from error


def write_folder(path: pathlib.Path, vectors: np.ndarray, items: np.ndarray, recipe: Mapping[str, Any]) -> None:
  """Writes a folder as `check_folder` expects it; `recipe.json` last.

  Args:
    path: an existing folder.
    vectors: `[items + 1, D]` float32, the padding item's first.
    items: `[items]` int64, ascending original ids.
    recipe: JSON.
  """
  digests = {}
  for name, array in ((VECTORS, vectors), (ITEMS, items)):
    with files.replacing(path / name) as temporary:
      with temporary.open("wb") as file:
        np.save(file, array)
      digests[name] = files.sha256(temporary)
  files.write_json(path / RECIPE, {**recipe, "files": digests})


def whitened(vectors: Vectors, item_ids: np.ndarray, known_ids: np.ndarray | None = None) -> Vectors:
  """Vectors of mean 0 and, as far as their rank goes, the covariance I / D over the items that have them.

  Sentence encoders crowd their vectors into a narrow cone, in which few directions tell items apart (Su et al., 2021,
  arXiv 2103.15316). The mean of their squared norms is then 1, as sentence encoders' are. Directions of next to no
  variance are not blown up. Items without a vector get zeros.

  Args:
    vectors: of a split.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
    known_ids: the first of them, whose mean and covariance count; None for all.
  """
  own = _present(vectors, item_ids)
  number = int(own[: len(item_ids if known_ids is None else known_ids)].sum())
  centred = vectors.vectors[own].astype(np.float64)
  centred -= centred[:number].mean(0)
  known = centred[:number]
  values, axes = np.linalg.eigh(known.T @ known / number)
  found = np.zeros(vectors.vectors.shape, np.float32)
  least = _LEAST_VARIANCE * max(values[-1], np.finfo(float).tiny)
  found[own] = centred @ (axes / np.sqrt(values.clip(min=least) * len(values)))
  return Vectors(found, vectors.missing, f"{vectors.fingerprint}w")


def _present(vectors: Vectors, item_ids: np.ndarray) -> np.ndarray:
  """`[num_items + 1]` bool: which items have a vector."""
  found = ~np.isin(item_ids, vectors.missing)
  found[0] = False
  return found


def _named(source: str) -> str:
  return f"config.data.{FEATURES} = {source!r}"


class _Stored(NamedTuple):
  """`vectors [rows, D]`; the item `items[k]` (ascending) is in row `rows[k]`."""

  vectors: np.ndarray
  items: np.ndarray
  rows: np.ndarray
  padding: np.ndarray


def _of_split(stored: _Stored, item_ids: np.ndarray, named: str) -> Vectors:
  place = np.searchsorted(stored.items, item_ids).clip(max=len(stored.items) - 1)
  found = stored.items[place] == item_ids
  found[0] = False
  if not found.any():
    raise DataError(f"{named}: none of its {len(stored.items):,} vectors belongs to these items")
  vectors = np.tile(stored.padding, (len(item_ids), 1))
  with np.errstate(over="ignore"):
    vectors[found] = stored.vectors[stored.rows[place[found]]]
  wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if len(wrong):
    whose = f"item {item_ids[wrong[0]]}" if wrong[0] else "the padding item"
    raise DataError(f"{named}: the vector of {whose} holds NaN or infinity in float32 ({len(wrong):,} such vectors)")
  digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
  return Vectors(vectors, item_ids[1:][~found[1:]], digest[:16])


def _open(source: str, named: str) -> _Stored:
  if not source:
    raise DataError(f"config.data.{FEATURES} is empty, and the model reads vectors of the items: name {_FORMS}")
  path = pathlib.Path(source).expanduser()
  try:
    if path.is_dir():
      for name in (VECTORS, ITEMS, RECIPE):
        if not (path / name).exists():
          raise ValueError(f"the folder has no {name}: mlrec.features has not made it, or not finished it")
      return _opened(path, tuple(_version(path / name) for name in (VECTORS, ITEMS, RECIPE)))
    if not path.exists():
      raise ValueError(f"no such file; expected {_FORMS}")
    return _opened(path, (_version(path),))
  except (OSError, ValueError, EOFError) as error:
    raise DataError(f"{named}: {error}") from error


def _version(path: pathlib.Path) -> tuple[int, ...]:
  """Changes when a file is written again."""
  stat = path.stat()
  return stat.st_ino, stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=2)
def _opened(path: pathlib.Path, versions: tuple[tuple[int, ...], ...]) -> _Stored:
  del versions
  if path.is_dir():
    return _folder(path)
  if path.suffix == ".npy":
    vectors = _matrix(_array(path, mmap_mode="r"))
    rows = np.arange(len(vectors))
    return _Stored(vectors, rows + 1, rows, np.zeros(vectors.shape[1], np.float32))
  if path.suffix == ".json":
    return _json(path)
  if path.suffix == ".parquet":
    return _parquet(path)
  raise ValueError(f"expected {_FORMS}")


def _folder(path: pathlib.Path) -> _Stored:
  check_folder(path)
  vectors = _matrix(_array(path / VECTORS, mmap_mode="r"))
  items = _array(path / ITEMS)
  if not isinstance(items, np.ndarray) or items.ndim != 1 or items.dtype.kind not in "iu":
    raise ValueError(f"{ITEMS}: expected a row of integers, the items' original ids")
  if len(vectors) != len(items) + 1:
    raise ValueError(f"{len(items)} items, but {len(vectors)} vectors where one more than items were expected")
  if not (items[1:] > items[:-1]).all():
    raise ValueError(f"{ITEMS}: expected ascending ids, none twice")
  return _Stored(vectors, items, np.arange(len(items)) + 1, np.asarray(vectors[0], np.float32))


def _array(path: pathlib.Path, **options: Any) -> Any:
  # NumPy itself would wait for a pipe's other end.
  files.open_regular(path).close()
  return np.load(path, allow_pickle=False, **options)


def _json(path: pathlib.Path) -> _Stored:
  # A vector that is not finite counts only where its item is one of the split's.
  content = files.read_json(path, allow_nan=True)
  if not isinstance(content, dict) or not content:
    raise ValueError("expected an object of item ids to lists of numbers")
  for key in content:
    if not _ITEM_ID.fullmatch(key) or int(key) >= 1 << 63:
      raise ValueError(f"its keys must be item ids, positive integers, not {key[:40]!r}")
  items = np.array([int(key) for key in content], np.int64)
  if len(np.unique(items)) < len(items):
    raise ValueError("its keys name an item twice, such as '1' and '01'")
  widths = {len(value) if isinstance(value, list) else -1 for value in content.values()}
  if len(widths) != 1 or -1 in widths:
    raise ValueError(f"its values must be lists of numbers of one length, found lengths {sorted(widths)[:5]}")
  try:
    vectors = _matrix(np.array(list(content.values()), np.float32))
  except TypeError as error:
    raise ValueError(f"its values must be lists of numbers: {error}") from error
  order = np.argsort(items, kind="stable")
  return _Stored(vectors, items[order], order, np.zeros(vectors.shape[1], np.float32))


def _parquet(path: pathlib.Path) -> _Stored:
  found = impression_files.items(path).read((impression_files.ITEM_ID, impression_files.VECTOR))
  items, vectors = found[impression_files.ITEM_ID], _matrix(found[impression_files.VECTOR])
  order = np.argsort(items, kind="stable")
  if (items[order][1:] == items[order][:-1]).any():
    raise ValueError("it names an item twice")
  order = order[items[order] > 0]
  return _Stored(vectors, items[order], order, np.zeros(vectors.shape[1], np.float32))


def _matrix(vectors: Any) -> np.ndarray:
  if not isinstance(vectors, np.ndarray):
    raise ValueError("expected one matrix of floats, found an archive of arrays")
  if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind != "f":
    raise ValueError(f"expected a matrix of floats, found {vectors.dtype} {vectors.shape}")
  return vectors
