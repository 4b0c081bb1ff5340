"""Where a run's files lie; `mlrec.runs.workdir` names them."""

import pathlib
from typing import NamedTuple

from mlrec.data import kept_split
from mlrec.data.id_map import IdMap
from mlrec.data.splits import Split


class RunFiles(NamedTuple):
  """The files of a trained run.

  Attributes:
    checkpoints: the folder of its checkpoints.
    metrics: a line of metrics a step.
    events: the folder of TensorBoard's events.
    ids: what the rows of its tables stand for (`mlrec.data.id_map`).
    data: the rest of its split (`mlrec.data.kept_split`).
  """

  checkpoints: pathlib.Path
  metrics: pathlib.Path
  events: pathlib.Path
  ids: pathlib.Path
  data: pathlib.Path

  def keep(self, split: Split) -> None:
    """Writes what is needed of the data to use the trained model without the log."""
    IdMap.of(split).write(self.ids)
    kept_split.write(split, self.data)
