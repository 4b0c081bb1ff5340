"""Weights & Biases (the extra `wandb`)."""

from collections.abc import Mapping
import hashlib

from mlrec.train.writers import Run
from mlrec.train.writers import writers


@writers.register("wandb")
class WeightsAndBiases:
  """A run of a project; one that is resumed in its workdir goes on there. `WANDB_MODE=offline` keeps it here.

  Weights & Biases takes no step before the last: of what a killed run repeats, the first is kept.
  """

  def __init__(self, run: Run, project: str):
    """Begins or resumes the run of a workdir in `project`."""
    import wandb

    identity = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:16]
    self._run = wandb.init(
      project=project, id=identity, resume="allow", name=run.folder.name, dir=run.folder, config=dict(run.config)
    )

  def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
    self._run.log({f"{split}/{name}": value for name, value in metrics.items()}, step=step)

  def close(self) -> None:
    self._run.finish()
