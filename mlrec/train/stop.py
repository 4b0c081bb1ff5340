"""Stopping a run by SIGTERM or SIGINT, the same on every process."""

import contextlib
import signal
import threading
from types import FrameType
from types import TracebackType
from typing import Any
from typing import Self

import jax
from jax.experimental import multihost_utils
import numpy as np

from mlrec import terminal


class Interrupted(RuntimeError):
  """The run was asked to stop (SIGTERM, SIGINT), has saved what it has, and can be resumed."""


class StopSignal:
  """Set, while active, by SIGTERM or SIGINT, or once nobody reads the output any more.

  It is asked between groups of steps, and gives every process the same answer.
  """

  def __init__(self) -> None:
    self._set = threading.Event()
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> Self:
    self._set.clear()
    with contextlib.ExitStack() as stack:
      stack.enter_context(terminal.on_lost_reader(self.set))
      if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
          self._previous[number] = signal.signal(number, self._handle)
          stack.callback(signal.signal, number, self._previous[number])
      self._undo = stack.pop_all()
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    self._undo.close()

  def set(self) -> None:
    """Asks to stop, as a signal does."""
    self._set.set()

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    if not self._set.is_set() or number != signal.SIGINT:
      self.set()
      return
    # Asked twice: what was to happen without us happens now, without waiting for the group under way.
    signal.signal(number, self._previous[number])
    signal.raise_signal(number)

  def agreed(self) -> bool:
    """Whether any process was asked to stop; all processes ask at the same place."""
    if jax.process_count() == 1:
      return self._set.is_set()
    return bool(multihost_utils.process_allgather(np.array(self._set.is_set())).any())

  def check(self) -> None:
    """Raises `Interrupted` if this process was asked to stop, where everything done so far is kept already."""
    if self._set.is_set():
      raise Interrupted("stopped before the first step; run the same command to resume")
