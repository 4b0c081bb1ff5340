"""A split as a run keeps it, so that the log that it was made of need not be there any more."""

from collections.abc import Mapping
import hashlib
import pathlib

import numpy as np

from mlrec import files
from mlrec.data.id_map import IdMap
from mlrec.data.interactions import DataError
from mlrec.data.interactions import Rows
from mlrec.data.names import Names
from mlrec.data.splits import Cuts
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import Split

_NUMBERS = ("max_length", "num_skipped", "train_windows")
_USERS, _ITEMS, _TARGETS = "user_names/", "item_names/", "cuts/targets/"


def write(split: Split, path: pathlib.Path) -> None:
  """Writes all of a split but the ids of its users and items, which an `IdMap` keeps, as safetensors."""
  arrays = {"rows/values": split.rows.values, "rows/offsets": split.rows.offsets, "cold": split.cold}
  arrays |= {"protocol": np.frombuffer(split.protocol.encode(), np.uint8), "cuts/train": split.cuts.train}
  arrays |= {_TARGETS + name: places for name, places in split.cuts.targets.items()}
  arrays |= {name: np.asarray(getattr(split, name), np.int64) for name in _NUMBERS}
  for prefix, names in ((_USERS, split.user_names), (_ITEMS, split.item_names)):
    arrays |= names.arrays(prefix) if names is not None else {}
  files.write_safetensors(path, arrays, {"fingerprint": split.fingerprint, "digest": _digest(arrays)})


def read(path: pathlib.Path, ids: IdMap) -> Split:
  """Reads what `write` wrote.

  Args:
    path: the file.
    ids: of the same run.

  Raises:
    DataError: the file is missing, damaged, or not of these ids.
  """
  try:
    arrays, said = files.read_safetensors(path)
    split = Split(
      ids.users,
      Rows(arrays["rows/values"], arrays["rows/offsets"]),
      ids.items,
      cuts=Cuts(
        arrays["cuts/train"],
        {name: arrays[_TARGETS + name] for name in EVALUATED if _TARGETS + name in arrays},
      ),
      protocol=arrays["protocol"].tobytes().decode(),
      cold=arrays["cold"],
      user_names=Names.from_arrays(arrays, _USERS),
      item_names=Names.from_arrays(arrays, _ITEMS),
      **{name: arrays[name].item() for name in _NUMBERS},  # type: ignore[arg-type]
    )
    # The first is of the ids too, the second of names and all that was not foreseen.
    if said != {"fingerprint": split.fingerprint, "digest": _digest(arrays)}:
      raise ValueError("it is not what was written (its digest differs)")
    return split
  except KeyError as error:
    raise DataError(
      f"{path}: the run is of an older version, which kept less of its data (there is no {error}): train it again, in "
      "another --workdir"
    ) from error
  except (OSError, ValueError, TypeError, IndexError) as error:
    raise DataError(f"{path}: what the run kept of its data cannot be read ({error})") from error


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name, array in sorted(arrays.items()):
    digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
  return digest.hexdigest()[:16]
