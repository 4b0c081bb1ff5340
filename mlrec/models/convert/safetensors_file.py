"""The arrays of a safetensors file, with nothing in its header believed.

The format (https://github.com/huggingface/safetensors, "Format"): the length of the header in 8 bytes; the header, JSON
with the dtype, the shape and the bytes `[start, end)` of each tensor; the tensors, without gap or overlap. Numbers are
little-endian.
"""

import collections
from collections.abc import Iterator
from collections.abc import Mapping
import json
import math
from typing import Any
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np

_LONGEST_HEADER = 100_000_000  # the format's own limit
_MOST_AXES = 64  # of NumPy
_DTYPES: Mapping[str, Any] = {
  "BOOL": np.uint8, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32, "I32": np.int32,
  "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64, "C64": np.complex64,
  "BF16": jnp.bfloat16, "F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2, "F8_E8M0": jnp.float8_e8m0fnu,
  "F8_E4M3FNUZ": jnp.float8_e4m3fnuz, "F8_E5M2FNUZ": jnp.float8_e5m2fnuz,
}  # fmt: skip


def read_safetensors(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  """The arrays by name, each of its own dtype; bfloat16 and float8 as in JAX.

  Memory is that of the arrays, and at most some 30 times the header's while it is read.

  Args:
    file: at its beginning.
    size: of the file.

  Raises:
    ValueError: the file is cut off; its header is no such JSON, or names a tensor twice; a dtype is unknown, or packs
      several numbers into a byte (4 and 6 bits); tensors leave gaps, overlap or do not fit their shapes.
  """
  length = int.from_bytes(file.read(8), "little")
  if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
    raise ValueError(f"it is no whole safetensors file: its header has {length} bytes, in a file of {size}")
  arrays, position, held = {}, 0, size - 8 - length
  for start, end, name, dtype, shape in sorted(_entries(file.read(length)), key=lambda entry: entry[:2]):
    if start != position or end > held:
      what = f"entry {name[:80]!r} has the bytes {start} to {end} of {held}, and the one before ends at {position}"
      raise ValueError(f"it is no whole safetensors file: {what}")
    array = np.empty(shape, _DTYPES[dtype])
    if file.readinto(array.reshape(-1).view(np.uint8)) != end - start:  # type: ignore[attr-defined]
      raise ValueError("it is no whole safetensors file: it is cut off")
    # Other bytes than 0 and 1 must not reach NumPy as truth values.
    arrays[name] = np.asarray(array != 0) if dtype == "BOOL" else array
    position = end
  if position != held:
    raise ValueError(f"it is no whole safetensors file: its tensors have {position} bytes, and the file has {held}")
  return arrays


def _entries(header: bytes) -> Iterator[tuple[int, int, str, str, list[int]]]:
  """`(start, end, name, dtype, shape)` of each tensor; the shape is one for so many bytes."""
  try:
    content = json.loads(
      header.decode(), object_pairs_hook=_each_once, parse_int=_number, parse_float=_number, parse_constant=_number
    )
  except (ValueError, RecursionError) as error:
    raise ValueError(f"it is no whole safetensors file: its header cannot be read: {error}") from error
  if type(content) is not dict:
    raise ValueError(f"it is no whole safetensors file: its header is a {type(content).__name__}")
  content.pop("__metadata__", None)
  for name, entry in content.items():
    what = f"entry {name[:80]!r} of its header"
    match entry:
      case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end]} if len(entry) == 3:
        if not all(type(n) is int and n >= 0 for n in (start, end, *shape)) or len(shape) > _MOST_AXES:
          raise ValueError(f"{what} has sizes or offsets that are not whole numbers, or more than {_MOST_AXES} axes")
      case _:
        raise ValueError(f"{what} is not its dtype, shape and data_offsets")
    if dtype not in _DTYPES:
      raise ValueError(f"{what} has the dtype {dtype[:80]!r}; expected one of {', '.join(_DTYPES)}")
    nbytes = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if nbytes != end - start:
      raise ValueError(f"{what} has {end - start} bytes; {dtype} of shape {tuple(shape)} needs {nbytes}")
    yield start, end, name, dtype, shape


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  entries = dict(pairs)
  if len(entries) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name, count in collections.Counter(names).items() if count > 1)
    raise ValueError(f"it has {twice[:80]!r} twice")
  return entries


def _number(text: str) -> int:
  if len(text) > 20:  # more than 2**64; longer ones take time that grows faster than their length
    raise ValueError(f"it has a number of {len(text)} characters")
  return int(text)
