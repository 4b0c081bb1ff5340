"""What training or fitting came to."""

from typing import NamedTuple


class Summary(NamedTuple):
  """What a run found, and what it cost.

  Attributes:
    metrics: of the best parameters, by split.
    best_step: the step they come from; 0 for a model that is not trained.
    best_epoch: epochs done by then.
    seconds: wall time of training and evaluation, over all continuations.
    cpu_seconds: CPU time in them of the process and its children.
    parameters: how many numbers were trained or kept as they were given; 0 for a model that is not trained.
  """

  metrics: dict[str, dict[str, float]]
  best_step: int
  best_epoch: int
  seconds: float
  cpu_seconds: float
  parameters: int
