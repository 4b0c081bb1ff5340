"""The arrays of an `.npz` file, without running code of the file and without believing its headers."""

import re
import struct
from typing import IO
import zipfile
import zlib

import numpy as np

_SUFFIX = ".npy"
_LENGTHS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I")}  # of the header, by the format's version
_LONGEST_HEADER = 1000
# The header is a Python literal; of these, only that which NumPy writes for a plain array is read.
_HEADER = re.compile(
  rb"\{'descr': '([^'\[]*)', 'fortran_order': (False|True), 'shape': \(((?:-?\d+, ?)*(?:-?\d+)?)\),? ?\}\s*"
)
# What Google's and other Flax code saves parameters as; bfloat16 has no name in this format.
_NUMBERS = "biufc"


def is_npz(archive: zipfile.ZipFile) -> bool:
  """Whether an archive is one of NumPy's: one that has arrays and nothing else."""
  names = archive.namelist()
  return bool(names) and all(name.endswith(_SUFFIX) for name in names)


def read_npz(archive: zipfile.ZipFile, most: int) -> dict[str, np.ndarray]:
  """The arrays by name, read-only, in this machine's byte order.

  Args:
    archive: open for reading.
    most: bytes that the arrays may come to; compressed ones may be far larger than the file.

  Raises:
    ValueError: an entry is no array of numbers, is cut off, is there twice, or all are larger than `most` together.
    zipfile.BadZipFile: the archive is damaged.
  """
  arrays: dict[str, np.ndarray] = {}
  total = sum(entry.file_size for entry in archive.infolist())
  if total > most:
    raise ValueError(f"its arrays have {total} bytes, far more than the file; save them uncompressed (numpy.savez)")
  for entry in archive.infolist():
    name = entry.filename.removesuffix(_SUFFIX)
    if name in arrays:
      raise ValueError(f"its archive has the entry {name[:80]!r} twice")
    try:
      # Other methods keep memory of a size that the entry states.
      if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"it is compressed by method {entry.compress_type}; expected stored or deflated")
      with archive.open(entry) as part:
        arrays[name] = _array(part)
    except (ValueError, TypeError, struct.error, zlib.error) as error:
      raise ValueError(f"its entry {name[:80]!r} is no array of numbers that numpy.savez wrote: {error}") from error
  return arrays


def _array(part: IO[bytes]) -> np.ndarray:
  version = np.lib.format.read_magic(part)
  if version not in _LENGTHS:
    raise ValueError(f"its format is version {version}")
  (length,) = _LENGTHS[version].unpack(part.read(_LENGTHS[version].size))
  header = part.read(min(length, _LONGEST_HEADER))
  match = _HEADER.fullmatch(header)
  if match is None or len(header) < length:
    raise ValueError(f"its header has {length} bytes and begins with {header[:100]!r}")
  dtype, by_columns = np.dtype(match[1].decode("ascii")), match[2] == b"True"
  shape = tuple(int(size) for size in match[3].replace(b",", b" ").split())
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
