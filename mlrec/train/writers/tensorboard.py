"""TensorBoard's events, in the workdir."""

from collections.abc import Mapping
import socket
import struct
import sys
import time
from typing import Any

from mlrec.train.writers import Run
from mlrec.train.writers import writers

_VERSION = "brain.Event:2"


@writers.register("tensorboard")
class TensorBoard:
  """Scalars by `split/metric`; on resuming, those of later steps are purged.

  Events are written as they come, each a record of a TFRecord file (its length and its bytes, each with a masked
  CRC-32C). tensorboardX's own writers keep some back, for a thread or for the end, and print tracebacks beside the
  error that a full disk is told by.
  """

  def __init__(self, run: Run, wanted: bool):
    """Opens the events of a run; `wanted` is true."""
    del wanted
    package = _tensorboardx()
    self._event, self._scalar = package.proto.event_pb2.Event, package.summary.scalar
    self._masked_crc32c = package.record_writer.masked_crc32c
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
    self._file = path.open("ab", buffering=0)
    self._add(file_version=_VERSION)
    if run.step:
      start = package.proto.event_pb2.SessionLog(status=package.proto.event_pb2.SessionLog.START)
      self._add(step=run.step + 1, file_version=_VERSION)
      self._add(step=run.step + 1, session_log=start)

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      self._add(step=step, summary=self._scalar(f"{split}/{name}", value))

  def close(self) -> None:
    self._file.close()

  def _add(self, **what: Any) -> None:
    content = self._event(wall_time=time.time(), **what).SerializeToString()
    length = struct.pack("<Q", len(content))
    self._file.write(length + self._checksum(length) + content + self._checksum(content))

  def _checksum(self, content: bytes) -> bytes:
    return struct.pack("<I", self._masked_crc32c(content))


def _tensorboardx() -> Any:
  """The package, which imports protobuf: only runs that want events pay for it.

  Where PyTorch is installed it would import that too, some 500 MiB, to know its tensors; none are written here.
  """
  modules: dict[str, Any] = sys.modules
  unused = "torch" not in modules
  if unused:
    modules["torch"] = None  # `import torch` raises ImportError
  try:
    import tensorboardX.proto.event_pb2
    import tensorboardX.record_writer
    import tensorboardX.summary
  finally:
    if unused:
      del modules["torch"]
  return tensorboardX
