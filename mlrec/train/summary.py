"""What training or fitting came to."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mlrec import metrics_by_user


class Ranked(NamedTuple):
  """What an evaluation found of each target, of which a user has one unless the protocol gives it several.

  Attributes:
    ranks: int32 `[targets]`; 1 is the best.
    recommended: int32 `[targets, LIST_LENGTH]`, the dense ids of the user's first places, best first; 0 where there are
      too few.
  """

  ranks: np.ndarray
  recommended: np.ndarray


class Judged(NamedTuple):
  """What an evaluation found of each impression.

  Attributes:
    scores: float32 `[impressions]`, logits of a click; none where it is not known what was clicked.
  """

  scores: np.ndarray


# What is told of a run in a line, as far as it has it: of ranked targets, and of judged impressions.
CLICK_METRICS = ("auc", "gauc", "log_loss", "ece", "calibration")
_HEADLINE = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", *metrics_by_user.RECALLS, *CLICK_METRICS)


def headline(metrics: Mapping[str, float | None]) -> list[str]:
  """The names of the metrics that are told first."""
  return [name for name in _HEADLINE if metrics.get(name) is not None]


class Summary(NamedTuple):
  """What a run found, and what it cost.

  Attributes:
    metrics: of the best parameters, by split.
    best_step: the step they come from; 0 for a model that is not trained.
    best_epoch: epochs done by then.
    seconds: wall time of training and evaluation, over all continuations.
    cpu_seconds: CPU time in them of the process and its children.
    parameters: how many numbers were trained or kept as they were given; 0 for a model that is not trained.
    found: what `metrics` are made of, by split.
  """

  metrics: dict[str, dict[str, float]]
  best_step: int
  best_epoch: int
  seconds: float
  cpu_seconds: float
  parameters: int
  found: Mapping[str, Ranked | Judged]
