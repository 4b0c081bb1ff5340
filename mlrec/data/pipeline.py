"""The input pipeline: whole batches by their number, made ahead of the devices by Grain.

An element is a batch, not a record: batches are built by vectorised NumPy, ten times faster than record by record.
What a number stands for is the caller's own function of it, so the state of the data is the number alone, and order
depends neither on threads nor on processes.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import gc
import itertools
import signal
from typing import TypeVar

import jax
import numpy as np

from mlrec import terminal

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
  """
  # Grain takes 0.4 s to import, which commands that read no batch do without.
  import grain

  elements = grain.MapDataset.range(number).map(make)
  if workers:
    # Grain hands absl's flags to its workers.
    terminal.mark_flags_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    threaded = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    made = elements.to_iter_dataset(threaded).mp_prefetch(options).map(_copied).map(place)
    stream = grain.experimental.ThreadPrefetchIterDataset(made, prefetch_buffer_size=1)
  else:
    stream = elements.map(place).to_iter_dataset(
      grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(buffered, threads))
    )
  iterator = iter(stream)
  try:
    with _interrupts_blocked() if workers else contextlib.nullcontext():
      started = list(itertools.islice(iterator, 1))
    yield from started
    yield from iterator
  finally:
    iterator.close()
    if workers:
      # Cycles within Grain keep each worker's last element, which would be told as leaked when the process ends.
      del iterator, stream, made, started
      gc.collect()


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
