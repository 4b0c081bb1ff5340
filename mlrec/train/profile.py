"""A trace of some training steps, for XProf (TensorBoard's profiler) and for Perfetto."""

import pathlib
from types import TracebackType
from typing import Self

import jax


class Profile:
  """Traces the groups of steps from the first that reaches `first` to the one that reaches `last`; a context.

  Attributes:
    folder: where the trace is, once it is written; None before that.
  """

  folder: pathlib.Path | None = None

  def __init__(self, events: pathlib.Path, steps: tuple[int, int] | None):
    """Plans to trace.

    Args:
      events: the folder of TensorBoard's events; the trace goes to `plugins/profile` below it.
      steps: `(first, last)`, steps taken before the trace begins and by its end; None for no trace.
    """
    self._events, self._steps, self._tracing = events, steps, False

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
  ) -> None:
    if self._tracing:
      self._stop()

  def before(self, step: int, count: int) -> None:
    """To be called before `count` steps are dispatched after `step`."""
    if self._steps is None or self._tracing or self.folder is not None:
      return
    first, last = self._steps
    if step + count > first and step < last:
      # Perfetto's own form beside XProf's: either opens without the other.
      jax.profiler.start_trace(self._events, create_perfetto_trace=True)
      self._tracing = True

  def after(self, step: int, losses: jax.Array) -> None:
    """To be called once steps are dispatched up to `step`, whose losses are on their way."""
    if self._tracing and self._steps is not None and step >= self._steps[1]:
      # What is traced has to have been done.
      jax.block_until_ready(losses)
      self._stop()

  def _stop(self) -> None:
    jax.profiler.stop_trace()
    self._tracing = False
    traces = sorted((self._events / "plugins" / "profile").iterdir())
    self.folder = traces[-1] if traces else None
