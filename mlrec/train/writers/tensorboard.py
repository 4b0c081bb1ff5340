"""TensorBoard's events, in the workdir."""

from collections.abc import Mapping
import sys
from typing import Any

from mlrec.train.writers import Run
from mlrec.train.writers import writers


@writers.register("tensorboard")
class TensorBoard:
  """Scalars by `split/metric`; on resuming, those of later steps are purged."""

  def __init__(self, run: Run, wanted: bool):
    """Opens the events of a run; `wanted` is true."""
    del wanted
    self._events = _tensorboardx().SummaryWriter(
      str(run.folder), purge_step=run.step + 1 if run.step else None, flush_secs=30
    )

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      self._events.add_scalar(f"{split}/{name}", value, step)

  def close(self) -> None:
    self._events.close()


def _tensorboardx() -> Any:
  """The package, which imports protobuf: only runs that want events pay for it.

  Where PyTorch is installed it would import that too, some 500 MiB, to know its tensors; none are written here.
  """
  modules: dict[str, Any] = sys.modules
  unused = "torch" not in modules
  if unused:
    modules["torch"] = None  # `import torch` raises ImportError
  try:
    import tensorboardX
  finally:
    if unused:
      del modules["torch"]
  return tensorboardX
