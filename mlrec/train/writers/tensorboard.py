"""TensorBoard's events, in the workdir."""

from collections.abc import Mapping

from mlrec.train.writers import Run
from mlrec.train.writers import writers


@writers.register("tensorboard")
class TensorBoard:
  """Scalars by `split/metric`; on resuming, those of later steps are purged."""

  def __init__(self, run: Run, wanted: bool):
    """Opens the events of a run; `wanted` is true."""
    del wanted
    import tensorboardX  # imports protobuf: only runs that want events pay for it

    self._events = tensorboardX.SummaryWriter(
      str(run.folder), purge_step=run.step + 1 if run.step else None, flush_secs=30
    )

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      self._events.add_scalar(f"{split}/{name}", value, step)

  def close(self) -> None:
    self._events.close()
