"""Checksums of arrays wherever they lie: the same for any number of devices and processes.

An array's is the sum, modulo 2^32, of a mix of each element's bits and its place. A sum does not depend on how the
array is cut, so that each device adds up what it has; a mix that can be undone tells of any one element that differs,
and of several with a chance of 1 - 2^-32.
"""

from collections.abc import Mapping
import math
from typing import Any
import zlib

import jax
from jax import Array
import jax.numpy as jnp
import numpy as np

# Of larger arrays the devices compute it, of smaller ones NumPy, which has nothing to compile.
_ON_HOST = 1 << 20
# Elements mixed at a time on the host, so that they stay in the cache.
_CHUNK = 1 << 16
# The golden ratio's bits spread places; the others are those of MurmurHash3's finaliser (Appleby, public domain).
_SPREAD, _FIRST, _SECOND = 0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35


def checksum(arrays: Mapping[str, Any]) -> int:
  """Of arrays by name, of 1, 2 or 4 bytes an element; called by all processes, if there are several.

  Raises:
    TypeError: an array's elements are larger.
  """
  digest = 0
  for name, array in sorted(arrays.items()):
    digest = zlib.crc32(f"{name} {_of(array)}".encode(), digest)
  return digest


def earlier_checksum(arrays: Mapping[str, Any]) -> int:
  """The checksum in records of earlier versions: the CRC-32 of all arrays that this process holds whole, by name."""
  digest = 0
  for name, array in sorted(arrays.items()):
    if array.is_fully_addressable or array.is_fully_replicated:
      digest = zlib.crc32(np.asarray(array).tobytes(), zlib.crc32(name.encode(), digest))
  return digest


def _of(array: Any) -> int:
  if np.dtype(array.dtype).itemsize not in (1, 2, 4):
    raise TypeError(f"a checksum is of elements of 1, 2 or 4 bytes, not of {array.dtype}")
  held = not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated
  if held and array.size <= _ON_HOST:
    return _on_host(np.asarray(array))
  return int(_on_devices(array))


def _on_host(array: np.ndarray) -> int:
  bits = np.ascontiguousarray(array).reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
  total = 0
  for start in range(0, len(bits), _CHUNK):
    part = bits[start : start + _CHUNK].astype(np.uint32)
    places = np.arange(start, start + len(part), dtype=np.uint64).astype(np.uint32)
    total += int(_mixed(part, places).sum(dtype=np.uint64))
  return total % 2**32


@jax.jit
def _on_devices(array: Array) -> Array:
  # JAX takes no bool apart.
  array = array.astype(jnp.uint8) if array.dtype == bool else array
  bits = jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")
  strides = [math.prod(array.shape[n + 1 :]) % 2**32 for n in range(array.ndim)]
  places = jnp.zeros(array.shape, jnp.uint32)
  for axis, stride in enumerate(strides):
    places += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride)
  return jnp.sum(_mixed(bits.astype(jnp.uint32), places), dtype=jnp.uint32)


def _mixed(bits: Any, places: Any) -> Any:
  """Of `uint32`, NumPy's or JAX's."""
  x = bits ^ (places * np.uint32(_SPREAD))
  x = (x ^ (x >> 16)) * np.uint32(_FIRST)
  x = (x ^ (x >> 13)) * np.uint32(_SECOND)
  return x ^ (x >> 16)
