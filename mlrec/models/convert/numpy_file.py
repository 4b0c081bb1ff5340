"""The arrays of an `.npz` file, without running code of the file and without believing its headers."""

from typing import BinaryIO
import zipfile
import zlib

import numpy as np

_SUFFIX = ".npy"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What Google's and other Flax code saves parameters as; bfloat16 has no name in this format.
_NUMBERS = "biufc"


def is_npz(file: BinaryIO) -> bool:
  """Whether an archive is one of NumPy's: one that has arrays and nothing else."""
  names = zipfile.ZipFile(file).namelist()
  return bool(names) and all(name.endswith(_SUFFIX) for name in names)


def read_npz(file: BinaryIO, most: int) -> dict[str, np.ndarray]:
  """The arrays by name, read-only, in this machine's byte order.

  Args:
    file: open for reading.
    most: bytes that the arrays may come to; compressed ones may be far larger than the file.

  Raises:
    ValueError: an entry is no array of numbers, is cut off, is there twice, or all are larger than `most` together.
    zipfile.BadZipFile: the archive is damaged.
  """
  arrays: dict[str, np.ndarray] = {}
  with zipfile.ZipFile(file) as archive:
    total = sum(entry.file_size for entry in archive.infolist())
    if total > most:
      raise ValueError(f"its arrays have {total} bytes, far more than the file; save them uncompressed (numpy.savez)")
    for entry in archive.infolist():
      name = entry.filename.removesuffix(_SUFFIX)
      if name in arrays:
        raise ValueError(f"its archive has the entry {name[:80]!r} twice")
      try:
        with archive.open(entry) as part:
          arrays[name] = _array(part)
      except (ValueError, zlib.error) as error:
        raise ValueError(f"its entry {name[:80]!r} is no array of numbers that numpy.savez wrote: {error}") from error
  return arrays


def _array(part) -> np.ndarray:
  version = np.lib.format.read_magic(part)
  if version not in _HEADERS:
    raise ValueError(f"its format is version {version}")
  shape, by_columns, dtype = _HEADERS[version](part)
  if dtype.kind not in _NUMBERS:
    # An array of objects is a pickle, which is never read.
    raise ValueError(f"its dtype is {str(dtype)!r}; save it as float32")
  data = part.read()
  wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
  if len(data) != wanted:
    raise ValueError(f"shape {shape} of {dtype} needs {wanted} bytes, and it has {len(data)}")
  array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
  array = array.astype(dtype.newbyteorder("="), copy=False)
  array.flags.writeable = False
  return array
