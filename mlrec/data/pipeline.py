"""The input pipeline: whole batches by their number, made ahead of the devices by Grain.

An element is a batch, not a record: batches are built by vectorised NumPy, ten times faster than record by record.
What a number stands for is the caller's own function of it, so the state of the data is the number alone, and order
depends neither on threads nor on processes.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import gc
import multiprocessing
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
import queue
import re
import signal
import threading
import time
from typing import Any
from typing import TypeVar

from absl import logging
import jax
import numpy as np

from mlrec import terminal
from mlrec.data.interactions import DataError

# Seconds between looks at workers that are waited for, after which it is said that nothing comes, and after which they
# count as hanging.
_LOOK, _TOLD, _STALLED = 1.0, 60.0, 300.0
# So often are workers that died, or hang, replaced.
_REPLACED = 3

_Host = TypeVar("_Host")
_Placed = TypeVar("_Placed")


def ahead(
  make: Callable[[int], _Host],
  number: int,
  place: Callable[[_Host], _Placed],
  *,
  threads: int = 1,
  workers: int = 0,
  buffered: int = 2,
) -> Iterator[_Placed]:
  """`place(make(n))` for n from 0 to `number` - 1, in order, made while earlier ones are used.

  Args:
    make: arrays on the host; called in threads, or in worker processes, where it must be picklable.
    number: how many there are.
    place: puts them on the devices; called in a thread of this process.
    threads: that `make` at the same time.
    workers: processes that `make` instead; 0 for none. Worth it where Python's lock is held for long.
    buffered: elements that wait, or are being made, while one is used.

  Raises:
    DataError: workers died or hung again and again. Until then others take their place, and make the same.
  """
  if workers:
    yield from _by_workers(make, number, place, workers)
    return
  # Grain takes 0.4 s to import, which commands that read no batch do without.
  import grain

  elements = grain.MapDataset.range(number).map(make).map(place)
  iterator = iter(
    elements.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(buffered, threads)))
  )
  try:
    yield from iterator
  finally:
    iterator.close()


def _by_workers(
  make: Callable[[int], _Host], number: int, place: Callable[[_Host], _Placed], workers: int
) -> Iterator[_Placed]:
  """`ahead` with worker processes."""
  first, replaced = 0, 0
  while first < number:
    stream = _Workers(make, first, number, place, workers)
    try:
      for element in stream:
        first += 1
        yield element
    except _WorkersLost as lost:
      replaced += 1
      if replaced > _REPLACED:
        raise DataError(
          f"{lost}, for the {replaced}th time: give fewer config.data.workers than {workers}, each of which needs "
          "memory of its own, or 0 for threads"
        ) from None
      logging.warning("%s: others take the place of all, and make what is still to come.", lost)
    finally:
      stream.close()


class _WorkersLost(Exception):
  """Worker processes have died, or hang."""


class _Workers:
  """Elements from `first` on, made by worker processes, which are watched while they are waited for.

  Grain tells of a worker that has died only if it did not die while it was handing an element over, and of one that
  hangs never.
  """

  def __init__(
    self, make: Callable[[int], Any], first: int, number: int, place: Callable[[Any], Any], workers: int
  ) -> None:
    import grain

    # Grain hands absl's flags to its workers.
    terminal.mark_flags_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    threaded = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    elements = grain.MapDataset.range(first, number).map(make).to_iter_dataset(threaded)
    self._others = set(multiprocessing.active_children())
    self._iterator: Any = iter(elements.mp_prefetch(options).map(_copied).map(place))
    # Whoever starts it, as Grain would, is no longer deaf to Ctrl-C: Python then lets that signal through again.
    resource_tracker.ensure_running()
    self._children: frozenset[BaseProcess] = frozenset()
    self._elements: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=1)
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._fetch, name="elements of workers", daemon=True)

  def __iter__(self) -> Iterator[Any]:
    with _interrupts_blocked():
      self._thread.start()
      element, error = self._next()
    while error is None:
      yield element
      element, error = self._next()
    if not isinstance(error, StopIteration):
      raise error

  def close(self) -> None:
    """Ends the workers."""
    self._closed.set()
    self._drain()
    if not self._lost():
      self._thread.join(_TOLD)
    if self._lost() or self._thread.is_alive():
      # Grain would wait for them.
      self._kill()
      return
    self._drain()
    self._iterator.close()
    # Cycles within Grain keep each worker's last element, which would be told as leaked when the process ends.
    del self._iterator
    gc.collect()

  def _fetch(self) -> None:
    while not self._closed.is_set():
      try:
        element, error = next(self._iterator), None
      except BaseException as raised:
        element, error = None, raised
      self._note_children()
      self._elements.put((element, error))
      if error is not None:
        return

  def _next(self) -> tuple[Any, BaseException | None]:
    """The next element, or the error in its place.

    Raises:
      _WorkersLost: there will be none.
    """
    start, told = time.monotonic(), False
    while True:
      try:
        element, error = self._elements.get(timeout=_LOOK)
      except queue.Empty:
        self._note_children()
        waited = time.monotonic() - start
        if lost := self._lost():
          raise _WorkersLost(lost) from None
        if waited > _STALLED:
          self._kill()
          raise _WorkersLost(f"data workers have made nothing for {waited:.0f} s") from None
        if waited > _TOLD and not told:
          logging.warning("Data workers have made nothing for %.0f s: a disk, or one of them, may hang.", waited)
          told = True
        continue
      if error is not None and (lost := self._lost() or _told_by_grain(error)):
        raise _WorkersLost(lost) from error
      return element, error

  def _note_children(self) -> None:
    """Takes note of the workers that run; one that has ended is nobody's child any more."""
    self._children = self._children | (set(multiprocessing.active_children()) - self._others)

  def _lost(self) -> str:
    """What is to be said of a worker that has died; nothing where none has."""
    for child in self._children:
      if child.exitcode:
        return _ended(f"a data worker (process {child.pid})", child.exitcode)
    return ""

  def _kill(self) -> None:
    for child in self._children:
      child.kill()
      child.join()

  def _drain(self) -> None:
    with contextlib.suppress(queue.Empty):
      while True:
        self._elements.get_nowait()


def _ended(who: str, exitcode: int) -> str:
  return f"{who} has ended " + (f"by signal {-exitcode}" if exitcode < 0 else f"with status {exitcode}")


def _told_by_grain(error: BaseException) -> str:
  """What is to be said of a worker that has died before it was noted, which Grain has told; else nothing."""
  said = re.search(r"Worker process was terminated unexpectedly with exit code (-?\d+)", str(error))
  return _ended("a data worker", int(said[1])) if isinstance(error, RuntimeError) and said else ""


def _copied(element: _Host) -> _Host:
  """The element in this process's own memory.

  What a worker hands over lies in memory that both share. A CPU device would use it in place, and hold it to the end.
  """
  return jax.tree.map(lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, element)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
  """Has threads and processes that are started within the block never see Ctrl-C.

  Ctrl-C reaches all processes of a terminal: a worker would die of it, most easily while it imports, and whoever waits
  for what it was to make would wait for ever. The owner ends its workers once it has saved.
  """
  before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
