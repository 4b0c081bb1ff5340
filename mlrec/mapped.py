"""Arrays of more than memory holds: files of safetensors that are written piece by piece, and read by mapping them."""

from collections.abc import Iterator
from collections.abc import Mapping
import json
import math
import mmap
import os
import pathlib
import shutil
from typing import Any

import numpy as np

from mlrec import files

# Values that are gone through at a time where all of an array are.
AT_ONCE = 1 << 22
_DTYPES = {"U8": "u1", "I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """The arrays of a file of safetensors by name, and its metadata.

  Arrays cannot be written to, and are read from the disk when they are looked at.

  Raises:
    OSError: there is none, or it is no regular file.
    ValueError: it is damaged, or holds numbers of another kind than `write` writes.
  """
  from safetensors import safe_open  # models and data are used where it is not installed
  from safetensors import SafetensorError

  with files.open_regular(path) as file:
    start = 8 + int.from_bytes(file.read(8), "little")
    try:
      # It compares sizes with shapes, and both with the length of the file.
      with safe_open(path, framework="numpy") as opened:
        slices = [(name, opened.get_slice(name)) for name in opened.offset_keys()]
        metadata = opened.metadata() or {}
        stated = [(name, one.get_dtype(), tuple(one.get_shape())) for name, one in slices]
    except SafetensorError as error:
      raise ValueError(str(error)) from error
    raw = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
  arrays = {}
  for name, kind, shape in stated:
    if kind not in _DTYPES:
      raise ValueError(f"the array {name!r} is of the kind {kind}; expected one of {', '.join(_DTYPES)}")
    end = start + math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
    arrays[name] = raw[start:end].view(_DTYPES[kind]).reshape(shape)
    start = end
  return arrays, metadata


def release(array: np.ndarray) -> None:
  """Has what was read of the file of a mapped array leave memory; it is read again when it is looked at.

  Nothing happens where the array is not mapped, or where the system cannot do it.
  """
  base: Any = array
  while base is not None and not isinstance(base, mmap.mmap):
    base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
  if base is not None and hasattr(mmap, "MADV_DONTNEED"):
    base.madvise(mmap.MADV_DONTNEED)


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
  """A row of values in parts that fit memory; of a mapped array no more than one is held at a time."""
  for start in range(0, len(array), AT_ONCE):
    yield array[start : start + AT_ONCE]
    release(array)


def parts(offsets: np.ndarray) -> Iterator[np.ndarray]:
  """Rows one after another, `[n]` int64 at a time, so many that their values fit memory; `offsets` are as of CSR."""
  start = 0
  while start < len(offsets) - 1:
    end = int(np.searchsorted(offsets, offsets[start] + AT_ONCE, side="right")) - 1
    end = max(end, start + 1)
    yield np.arange(start, end)
    start = end


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  """Writes rows of values by name as safetensors, a whole file or none, in memory that does not grow with them.

  Raises:
    OSError: it cannot be written.
  """
  # By falling alignment, as the format asks for.
  names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
  header: dict[str, Any] = {"__metadata__": dict(metadata)}
  end = 0
  for name in names:
    start, end = end, end + arrays[name].nbytes
    header[name] = {
      "dtype": _NAMES[arrays[name].dtype], "shape": list(arrays[name].shape), "data_offsets": [start, end]
    }  # fmt: skip
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % 8)
  with files.replacing(path) as temporary, temporary.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
      for piece in pieces(arrays[name]):
        file.write(np.ascontiguousarray(piece).view(np.uint8).data)


def link(source: pathlib.Path, path: pathlib.Path) -> None:
  """Has a file that nobody changes be there under another name too: without a copy where the file system allows it.

  Raises:
    OSError: it cannot be written.
  """
  with files.replacing(path) as temporary:
    try:
      os.link(source, temporary)
    except OSError:
      shutil.copyfile(source, temporary)
