"""A split as a run keeps it, so that the log that it was made of need not be there any more."""

from collections.abc import Mapping
import hashlib
import pathlib

import numpy as np

from mlrec import files
from mlrec import mapped
from mlrec.data.id_map import IdMap
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.names import Names
from mlrec.data.splits import Cuts
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import Split

_NUMBERS = ("max_length", "num_skipped", "train_windows")
_USERS, _ITEMS, _TARGETS, _MOMENTS = "user_names/", "item_names/", "cuts/targets/", "cuts/moments/"
_SEVERAL = "cuts/numbers/"
_FIELDS = "item_fields/"


def write(split: Split, path: pathlib.Path) -> None:
  """Writes all of a split but the ids of its users and items, which an `IdMap` keeps, and impressions, as safetensors.

  A split that was read of such a file is not written again, but has that file under another name.
  """
  if split.mapped_from is not None:
    mapped.link(split.mapped_from, path)
    return
  arrays = {"rows/values": split.rows.values, "rows/offsets": split.rows.offsets, "cold": split.cold}
  arrays |= {"protocol": np.frombuffer(split.protocol.encode(), np.uint8), "cuts/train": split.cuts.train}
  arrays |= {_TARGETS + name: places for name, places in split.cuts.targets.items()}
  arrays |= {_SEVERAL + name: numbers for name, numbers in split.cuts.numbers.items()}
  arrays |= {_MOMENTS + name: np.frombuffer(moment.encode(), np.uint8) for name, moment in split.cuts.moments.items()}
  arrays |= {name: np.array([getattr(split, name)], np.int64) for name in _NUMBERS}
  arrays |= {_FIELDS + name: values for name, values in split.item_fields.items()}
  for prefix, names in ((_USERS, split.user_names), (_ITEMS, split.item_names)):
    arrays |= names.arrays(prefix) if names is not None else {}
  mapped.write(path, arrays, {"fingerprint": split.fingerprint, "digest": _digest(arrays)})


def read(path: pathlib.Path, ids_path: pathlib.Path, *, compare: bool = True) -> Split:
  """Reads what `write` wrote; its arrays are mapped, and read again from the disk as they are used.

  Args:
    path: the file, which must not be changed while the split is in use; it may be replaced or removed.
    ids_path: of what an `IdMap` wrote of the same split.
    compare: whether all of both is compared with digests.

  Raises:
    DataError: a file is missing, damaged, or not of the other's split.
  """
  ids = IdMap.read(ids_path)
  try:
    arrays, said = mapped.read(path)
    split = Split(
      ids.users,
      Rows(arrays["rows/values"], arrays["rows/offsets"]),
      ids.items,
      cuts=Cuts(
        arrays["cuts/train"],
        {name: arrays[_TARGETS + name] for name in EVALUATED if _TARGETS + name in arrays},
        {name: arrays[_MOMENTS + name].tobytes().decode() for name in EVALUATED if _MOMENTS + name in arrays},
        {name: arrays[_SEVERAL + name] for name in EVALUATED if _SEVERAL + name in arrays},
      ),
      protocol=arrays["protocol"].tobytes().decode(),
      cold=arrays["cold"],
      user_names=Names.from_arrays(arrays, _USERS),
      item_names=Names.from_arrays(arrays, _ITEMS),
      item_fields={name[len(_FIELDS) :]: values for name, values in arrays.items() if name.startswith(_FIELDS)},
      **{name: arrays[name].item() for name in _NUMBERS},  # type: ignore[arg-type]
    )
    if compare and said.get("digest") != _digest(arrays):
      raise ValueError("it is not what was written (its digest differs)")
    # Of the ids, too.
    if compare and said.get("fingerprint") != split.fingerprint:
      raise DataError(f"{ids_path}: these are not the ids that {path.name} was written with (their digest differs)")
    return split.of_file(path)
  except KeyError as error:
    raise DataError(
      f"{path}: the run is of an older version, which kept less of its data (there is no {error}): train it again, in "
      "another --workdir"
    ) from error
  except (OSError, ValueError, TypeError, IndexError) as error:
    raise DataError(f"{path}: what the run kept of its data cannot be read ({files.reason(error)})") from error


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
    for piece in mapped.pieces(array.reshape(-1)):
      digest.update(piece.tobytes())
  return digest.hexdigest()[:16]
