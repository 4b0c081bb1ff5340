"""One process at a time, by locked files that name their holder. A lock ends with its process, however that ends."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import time
from typing import IO

from absl import logging

from mlrec import files
from tfds_microlens.errors import PrepareError

_POLL_S = 0.2


@contextlib.contextmanager
def held(path: pathlib.Path, doing: str) -> Iterator[None]:
  """Holds the lock for the block.

  Args:
    path: of the lock file, in an existing folder; it is removed at the end.
    doing: what is done in the block, for messages: "… is being prepared".

  Raises:
    PrepareError: another process holds it; its host and pid are named.
  """
  lock = _try(path)
  if lock is None:
    raise PrepareError(
      f"{doing} by {files.lock_holder(path)}: wait for it, or end it; the lock {path} is released by its end"
    )
  with _released(path, lock):
    yield


@contextlib.contextmanager
def waited_for(path: pathlib.Path, doing: str) -> Iterator[None]:
  """The same, but waits for the other process; to be used for what takes a bounded time."""
  lock = _try(path)
  if lock is None:
    logging.warning("%s by %s: waiting for it.", doing, files.lock_holder(path))
  while lock is None:
    time.sleep(_POLL_S)
    lock = _try(path)
  with _released(path, lock):
    yield


def _try(path: pathlib.Path) -> IO[str] | None:
  while True:
    lock = files.try_lock(path)
    if lock is None or _is_same(path, lock):
      break
    lock.close()  # removed by its last holder between the opening and the locking
  if lock is not None:
    files.sign_lock(lock)
  return lock


def _is_same(path: pathlib.Path, lock: IO[str]) -> bool:
  try:
    return os.path.samestat(path.stat(), os.fstat(lock.fileno()))
  except FileNotFoundError:
    return False


@contextlib.contextmanager
def _released(path: pathlib.Path, lock: IO[str]) -> Iterator[None]:
  with lock:
    try:
      yield
    finally:
      path.unlink(missing_ok=True)
