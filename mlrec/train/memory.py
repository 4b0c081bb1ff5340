"""Keeps the memory that compilation and evaluation free from staying with the process.

XLA compiles on many threads, in small pieces; glibc gives each thread an arena of its own and returns none of them, so
that a small model's job would hold several times what it uses.
"""

import ctypes
import functools
import sys

# From glibc's <malloc.h>.
_M_ARENA_MAX = -8


def share_arenas() -> None:
  """Has all threads allocate from one arena; to be called before there are many. Nothing happens without glibc."""
  libc = _libc()
  if libc is not None:
    libc.mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
  """Returns free pages to the system. Nothing happens without glibc."""
  libc = _libc()
  if libc is not None:
    libc.malloc_trim(0)


@functools.cache
def _libc() -> ctypes.CDLL | None:
  if not sys.platform.startswith("linux"):
    return None
  libc = ctypes.CDLL(None)
  return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
