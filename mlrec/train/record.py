"""What a checkpoint says of its run beside the arrays."""

from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import Self

# What records of earlier versions lack.
_LATER = {"losses": 0.0, "steps": 0}


@dataclasses.dataclass(frozen=True)
class Record:
  """The state of a run that is no array.

  Attributes:
    data: fingerprint of all that the run reads.
    ids: digest of the ids that its tables' rows stand for (`mlrec.data.id_map`).
    config: of the run, as JSON.
    best_step: the step of the best validation so far; None before the first.
    best: its value of `config.train.monitor`.
    stale: validations since then.
    stopped: whether patience has run out.
    seconds: wall time of training and evaluation, over all continuations.
    cpu_seconds: CPU time in them of the process and its children.
    losses: the sum of the losses of steps since the last line that told their mean.
    steps: how many those are.
  """

  data: str
  ids: str
  config: Mapping[str, Any]
  best_step: int | None = None
  best: float | None = None
  stale: int = 0
  stopped: bool = False
  seconds: float = 0.0
  cpu_seconds: float = 0.0
  losses: float = 0.0
  steps: int = 0

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> Self:
    """The record in a JSON object, of which other keys are left out.

    Raises:
      KeyError: a key is missing that records have had from the beginning.
    """
    value = _LATER | dict(value)
    return cls(**{field.name: value[field.name] for field in dataclasses.fields(cls)})

  def judged(self, step: int, value: float, *, patience: int) -> Self:
    """After a validation at `step`; the run stops after `patience` that were no better, 0 for never."""
    better = self.best is None or value > self.best
    stale = 0 if better else self.stale + 1
    return dataclasses.replace(
      self,
      best=value if better else self.best,
      best_step=step if better else self.best_step,
      stale=stale,
      stopped=bool(patience) and stale >= patience,
    )
