"""What a run found."""

from typing import NamedTuple


class Outcome(NamedTuple):
  """What a run found.

  Attributes:
    metrics: of the best parameters, by split.
    best_step: the step they come from; 0 for a model that is not trained.
    best_epoch: epochs done by then.
    seconds: wall time of training and evaluation, over all continuations.
  """

  metrics: dict[str, dict[str, float]]
  best_step: int
  best_epoch: int
  seconds: float
