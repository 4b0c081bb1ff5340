"""TensorBoard's events, in the workdir."""

from collections.abc import Mapping
import sys
import time
from typing import Any

from mlrec.train.writers import Run
from mlrec.train.writers import writers


@writers.register("tensorboard")
class TensorBoard:
  """Scalars by `split/metric`; on resuming, those of later steps are purged."""

  def __init__(self, run: Run, wanted: bool):
    """Opens the events of a run; `wanted` is true."""
    del wanted
    package = _tensorboardx()
    self._event, self._scalar = package.proto.event_pb2.Event, package.summary.scalar
    # `SummaryWriter` would close it at exit once more, and print a traceback where a full disk lets it fail again.
    self._events = package.event_file_writer.EventFileWriter(str(run.folder), flush_secs=30)
    if run.step:
      start = package.proto.event_pb2.SessionLog(status=package.proto.event_pb2.SessionLog.START)
      self._add(run.step + 1, file_version="brain.Event:2")
      self._add(run.step + 1, session_log=start)

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      self._add(step, summary=self._scalar(f"{split}/{name}", value))

  def close(self) -> None:
    self._events.close()

  def _add(self, step: int, **what: Any) -> None:
    self._events.add_event(self._event(wall_time=time.time(), step=step, **what))


def _tensorboardx() -> Any:
  """The package, which imports protobuf: only runs that want events pay for it.

  Where PyTorch is installed it would import that too, some 500 MiB, to know its tensors; none are written here.
  """
  modules: dict[str, Any] = sys.modules
  unused = "torch" not in modules
  if unused:
    modules["torch"] = None  # `import torch` raises ImportError
  try:
    import tensorboardX.event_file_writer
    import tensorboardX.proto.event_pb2
    import tensorboardX.summary
  finally:
    if unused:
      del modules["torch"]
  return tensorboardX
