"""Codes of items, as `python -m mlrec.codes` keeps them: semantic IDs, tuples of small integers, coarse to fine.

A file of safetensors has `codes [items, levels]` int32, no row twice, and `items [items]` int64, ascending original
ids. Its metadata has `recipe`, JSON of how they were made and what they are worth, and `digest`, that of both arrays.
"""

from collections.abc import Mapping
import hashlib
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from mlrec import files
from mlrec.data.interactions import DataError
from mlrec.registry import near_file

_CODES, _ITEMS, _RECIPE, _DIGEST = "codes", "items", "recipe", "digest"
# Of the padding item, at all levels.
NO_CODE = -1


class Codes(NamedTuple):
  """Codes by dense id.

  Attributes:
    codes: `[num_items + 1, levels]` int32, no row twice; row 0, the padding item's, holds `NO_CODE`.
    fingerprint: stands for the content.
  """

  codes: np.ndarray
  fingerprint: str


def write(path: pathlib.Path, codes: np.ndarray, items: np.ndarray, recipe: Mapping[str, Any]) -> None:
  """Writes a whole file or none.

  Args:
    path: of the file, in an existing folder.
    codes: `[items, levels]` int32, no row twice.
    items: `[items]` int64, ascending original ids.
    recipe: JSON.

  Raises:
    OSError: it cannot be written.
  """
  arrays: dict[str, np.ndarray] = {_CODES: np.asarray(codes, np.int32), _ITEMS: np.asarray(items, np.int64)}
  metadata = {_RECIPE: json.dumps(recipe, allow_nan=False), _DIGEST: _digest(arrays)}
  files.write_safetensors(path, arrays, metadata)


def read(source: str, item_ids: np.ndarray) -> Codes:
  """The codes that `config.data.codes = source` names.

  Args:
    source: path of a file that `python -m mlrec.codes` has made.
    item_ids: `[num_items + 1]` original ids by dense id, 0 for padding.

  Raises:
    DataError: none are named, the file is damaged, or an item has no codes (it is named).
  """
  if not source:
    raise DataError(
      "config.data.codes is empty, and the model reads codes of the items: name a file that python -m mlrec.codes has "
      "made"
    )
  try:
    codes, items = _opened(pathlib.Path(source).expanduser())
  except (OSError, ValueError) as error:
    raise DataError(f"config.data.codes = {source!r}: {error}") from error
  place = np.searchsorted(items, item_ids[1:]).clip(max=len(items) - 1)
  missing = items[place] != item_ids[1:]
  if missing.any():
    raise DataError(
      f"config.data.codes = {source!r}: {missing.sum():,} of {len(missing):,} items have no codes (item "
      f"{item_ids[1:][missing][0]} first); make them of vectors that all items have"
    )
  found = np.full((len(item_ids), codes.shape[1]), NO_CODE, np.int32)
  found[1:] = codes[place]
  return Codes(found, _digest({_CODES: found, _ITEMS: item_ids.astype(np.int64)}))


def read_recipe(path: pathlib.Path) -> dict[str, Any]:
  """How the codes of a file were made, and what they are worth.

  Raises:
    OSError, ValueError: there is no such file, or it is damaged.
  """
  _, metadata = files.read_safetensors(path)
  recipe = files.parse_json(metadata.get(_RECIPE, ""))
  if not isinstance(recipe, dict):
    raise ValueError("its recipe is no object")
  return recipe


def _opened(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  if not path.exists():
    raise ValueError(f"no such file{near_file(path)}; python -m mlrec.codes makes one")
  arrays, metadata = files.read_safetensors(path)
  if arrays.keys() != {_CODES, _ITEMS} or _DIGEST not in metadata:
    raise ValueError(f"it holds {', '.join(sorted(arrays)) or 'nothing'}; expected what python -m mlrec.codes makes")
  if metadata[_DIGEST] != _digest(arrays):
    raise ValueError("it is not what was written (its digest differs): make it again")
  codes, items = arrays[_CODES], arrays[_ITEMS]
  if codes.ndim != 2 or not codes.size or codes.dtype != np.int32 or codes.min() < 0 or items.shape != codes.shape[:1]:
    raise ValueError(f"expected a row of codes from 0 on for each item, found {codes.dtype} {codes.shape}")
  if (np.diff(items) <= 0).any() or len(np.unique(codes, axis=0)) < len(codes):
    raise ValueError("expected ascending item ids, and no two items of the same codes")
  return codes, items


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in (_CODES, _ITEMS):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]
