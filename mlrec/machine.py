"""The machine that a process runs on: its cores, what it has used, how it gives memory back, and what it waits for."""

import collections
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
import concurrent.futures
import contextlib
import ctypes
import functools
import gc
import os
import pathlib
import resource
import sys
from typing import TypeVar

_Job = TypeVar("_Job")
_Done = TypeVar("_Done")
# From glibc's <malloc.h>.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
# What is larger goes back to the system as soon as it is not used any more.
_LARGE_BYTES = 2 << 20


def usable_cores() -> int:
  """The cores that this process may run on."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(
  work: Callable[[_Job], _Done], jobs: Iterable[_Job], workers: int | None = None, *, ahead: int = 4
) -> Generator[_Done, None, None]:
  """`map` over threads, of each of which a few jobs are under way: for work that leaves Python's lock alone.

  Args:
    work: done in a thread.
    jobs: what it is done to; gone through in this thread.
    workers: threads; None for as many as there are cores.
    ahead: jobs under way for each thread, that which it does among them.
  """
  workers = workers or usable_cores()
  under_way: collections.deque[concurrent.futures.Future[_Done]] = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(workers, "mlrec") as pool:
    try:
      for job in jobs:
        under_way.append(pool.submit(work, job))
        if len(under_way) >= ahead * workers:
          yield under_way.popleft().result()
      while under_way:
        yield under_way.popleft().result()
    finally:
      pool.shutdown(wait=True, cancel_futures=True)


def cache_folder(name: str) -> pathlib.Path:
  """Where this user's caches of the package lie, by their name.

  Raises:
    RuntimeError: the user has no home.
  """
  return (pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "mlrec" / name).expanduser()


def cpu_seconds() -> float:
  """CPU time so far of this process and of its children that have ended."""
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_memory() -> dict[str, float]:
  """The peak resident memory of the process, and that of one of its devices where devices count it, in MiB.

  Under `peak_memory_mib` and `peak_device_memory_mib`. Runs that share a process share these.
  """
  import jax  # the others are used where JAX is not

  # In KiB, but on macOS in bytes (getrusage(2)).
  unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
  found = {"peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
  # None on devices that keep no count, such as CPUs.
  peak = max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())
  return found | ({"peak_device_memory_mib": round(peak / (1 << 20), 1)} if peak else {})


def wait_for_all(what: str) -> None:
  """Returns once every process of the job has come to the same place, `what`; at once where there is only one."""
  import jax

  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(what)


def allow_open_files(number: int) -> int:
  """Raises the limit of files open at once to `number`, as far as the system lets this process; the limit."""
  soft, hard = (limit if limit != resource.RLIM_INFINITY else sys.maxsize for limit in _open_files_limits())
  if soft < number and soft < hard:
    with contextlib.suppress(OSError, ValueError):
      resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), _open_files_limits()[1]))
      soft = min(number, hard)
  return soft


def _open_files_limits() -> tuple[int, int]:
  return resource.getrlimit(resource.RLIMIT_NOFILE)


def share_arenas() -> None:
  """Makes all threads allocate from one arena; to be called before there are many. A no-op without glibc.

  XLA compiles on many threads, in small pieces; glibc gives each thread an arena of its own and returns none of them: a
  small model's job would hold several times what it uses. Where a program's buffers are put among small pieces, they
  leave holes: they are had from the system, each for itself, which glibc stops to do after the first few.
  """
  libc = _libc()
  if libc is not None:
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def keep_for_good() -> None:
  """Has Python's garbage collector leave alone all that exists: looking through it again halts every thread.

  For a process that has made what it works with, and answers to somebody who waits.
  """
  gc.collect()
  gc.freeze()


def trim_memory() -> None:
  """Returns free pages to the system. A no-op without glibc."""
  libc = _libc()
  if libc is not None:
    libc.malloc_trim(0)


@functools.cache
def _libc() -> ctypes.CDLL | None:
  if not sys.platform.startswith("linux"):
    return None
  libc = ctypes.CDLL(None)
  return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
