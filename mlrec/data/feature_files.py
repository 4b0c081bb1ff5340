"""Vectors of items that were computed elsewhere: published feature files, and those that `mlrec.features` keeps.

Three forms (the first two are those of MicroLens's release, `extracted_modality_features/`):

* `*.npy`: float `[items, D]`; row r is the item of original id r + 1.
* `*.json`: an object of item id (a string) to a list of D numbers.
* a folder of `vectors.npy [items + 1, D]` (row 0 stands for the padding and for items without content) and `items.npy`,
  ascending original ids, as `python -m mlrec.features` prints.
"""

import functools
import hashlib
import json
import os
import pathlib
from typing import NamedTuple

from absl import logging
import numpy as np

from mlrec.data.interactions import DataError

# What a finished folder holds; the last is written last.
_FOLDER = ("vectors.npy", "items.npy", "recipe.json")
# Of the largest variance: what lies below counts as so much.
_LEAST_VARIANCE = 1e-6
_FORMS = "a .npy or .json file of MicroLens's release, or a folder that python -m mlrec.features has made"


class Features(NamedTuple):
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


def width(source: str) -> int:
  """D of the vectors that `source` names.

  Raises:
    DataError: there are none, or they are malformed.
  """
  return _open(source, _named(source)).vectors.shape[1]


def read(source: str, item_ids: np.ndarray) -> Features:
  """The vectors of a split's items.

  Args:
    source: a path, of one of the forms above.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.

  Raises:
    DataError: there are none, they are malformed, none is of these items, or one is not finite (its item is named).
  """
  features = _read(source, item_ids, _named(source))
  if len(features.missing):
    logging.warning(
      "%s: %d of %d items have no vector (item %d first); theirs is the padding item's.",
      source, len(features.missing), len(item_ids) - 1, features.missing[0],
    )  # fmt: skip
  return features


def read_folder(path: str | os.PathLike[str], item_ids: np.ndarray) -> Features:
  """As `read`, of a folder that this package has made for itself; without a word on items that have no vector."""
  return _read(os.fspath(path), item_ids, os.fspath(path))


def _named(source: str) -> str:
  return f"config.data.features = {source!r}"


def _read(source: str, item_ids: np.ndarray, named: str) -> Features:
  stored = _open(source, named)
  place = np.searchsorted(stored.items, item_ids).clip(max=len(stored.items) - 1)
  there = stored.items[place] == item_ids
  there[0] = False
  if not there.any():
    raise DataError(f"{named}: none of its {len(stored.items):,} vectors is of these items")
  vectors = np.tile(stored.padding, (len(item_ids), 1))
  with np.errstate(over="ignore"):
    vectors[there] = stored.vectors[stored.rows[place[there]]]
  wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
  if len(wrong):
    whose = f"item {item_ids[wrong[0]]}" if wrong[0] else "the padding item"
    raise DataError(f"{named}: the vector of {whose} holds NaN or infinity in float32 ({len(wrong):,} such vectors)")
  digest = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
  return Features(vectors, item_ids[1:][~there[1:]], digest[:16])


def whitened(features: Features, item_ids: np.ndarray) -> Features:
  """Vectors of mean 0 and, as far as their rank goes, the covariance I / D over the items that have them.

  Sentence encoders crowd their vectors into a narrow cone, in which few directions tell items apart (Su et al., 2021,
  arXiv 2103.15316). The mean of their squared norms is then 1, as sentence encoders' are. Directions of next to no
  variance are not blown up. Items without a vector get zeros.

  Args:
    features: of a split.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.
  """
  own = there(features, item_ids)
  centred = features.vectors[own].astype(np.float64)
  centred -= centred.mean(0)
  values, axes = np.linalg.eigh(centred.T @ centred / len(centred))
  vectors = np.zeros(features.vectors.shape, np.float32)
  least = _LEAST_VARIANCE * max(values[-1], np.finfo(float).tiny)
  vectors[own] = centred @ (axes / np.sqrt(values.clip(min=least) * len(values)))
  return Features(vectors, features.missing, f"{features.fingerprint}w")


def there(features: Features, item_ids: np.ndarray) -> np.ndarray:
  """`[num_items + 1]` bool: which items have a vector."""
  found = ~np.isin(item_ids, features.missing)
  found[0] = False
  return found


class _Stored(NamedTuple):
  """`vectors [rows, D]`; the item `items[k]` (ascending) is in row `rows[k]`."""

  vectors: np.ndarray
  items: np.ndarray
  rows: np.ndarray
  padding: np.ndarray


def _open(source: str, named: str) -> _Stored:
  if not source:
    raise DataError(f"config.data.features is empty, and the model reads vectors of the items: name {_FORMS}")
  path = pathlib.Path(source).expanduser()
  try:
    if path.is_dir():
      for name in _FOLDER:
        if not (path / name).exists():
          raise ValueError(f"the folder has no {name}: it is not, or not yet, one that mlrec.features has finished")
      return _opened(path, tuple(_version(path / name) for name in _FOLDER))
    if not path.exists():
      raise ValueError(f"no such file; expected {_FORMS}")
    return _opened(path, (_version(path),))
  except (OSError, ValueError, EOFError) as error:
    raise DataError(f"{named}: {error}") from error


def _version(path: pathlib.Path) -> tuple[int, ...]:
  """Changes when a file is written anew."""
  stat = path.stat()
  return stat.st_ino, stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=2)
def _opened(path: pathlib.Path, versions: tuple[tuple[int, ...], ...]) -> _Stored:
  del versions
  if path.is_dir():
    return _folder(path)
  if path.suffix == ".npy":
    vectors = _matrix(np.load(path, mmap_mode="r", allow_pickle=False))
    rows = np.arange(len(vectors))
    return _Stored(vectors, rows + 1, rows, np.zeros(vectors.shape[1], np.float32))
  if path.suffix == ".json":
    return _json(path)
  raise ValueError(f"expected {_FORMS}")


def _folder(path: pathlib.Path) -> _Stored:
  vectors = _matrix(np.load(path / "vectors.npy", mmap_mode="r", allow_pickle=False))
  items = np.load(path / "items.npy", allow_pickle=False)
  if not isinstance(items, np.ndarray) or items.ndim != 1 or items.dtype.kind not in "iu":
    raise ValueError("items.npy: expected a row of integers, the items' original ids")
  if len(vectors) != len(items) + 1:
    raise ValueError(f"{len(items)} items, but {len(vectors)} vectors where one more than items were expected")
  if not (items[1:] > items[:-1]).all():
    raise ValueError("items.npy: expected ascending ids, none twice")
  return _Stored(vectors, items, np.arange(len(items)) + 1, np.asarray(vectors[0], np.float32))


def _json(path: pathlib.Path) -> _Stored:
  content = json.loads(path.read_text(encoding="utf-8"))
  if not isinstance(content, dict) or not content:
    raise ValueError("expected an object of item ids to lists of numbers")
  try:
    items = np.array([int(key) for key in content], np.int64)
  except (ValueError, OverflowError) as error:
    raise ValueError(f"its keys must be item ids: {error}") from error
  if len(np.unique(items)) < len(items):
    raise ValueError("its keys name an item twice")
  widths = {len(value) if isinstance(value, list) else -1 for value in content.values()}
  if len(widths) != 1 or -1 in widths:
    raise ValueError(f"its values must be lists of numbers of one length, found lengths {sorted(widths)[:5]}")
  try:
    vectors = _matrix(np.array(list(content.values()), np.float32))
  except TypeError as error:
    raise ValueError(f"its values must be lists of numbers: {error}") from error
  order = np.argsort(items, kind="stable")
  return _Stored(vectors, items[order], order, np.zeros(vectors.shape[1], np.float32))


def _matrix(vectors: np.ndarray) -> np.ndarray:
  if not isinstance(vectors, np.ndarray):
    raise ValueError("expected one matrix of floats, found an archive of arrays")
  if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind != "f":
    raise ValueError(f"expected a matrix of floats, found {vectors.dtype} {vectors.shape}")
  return vectors
