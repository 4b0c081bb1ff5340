"""Where a run's files lie; `mlrec.runs.workdir` names them."""

import pathlib
from typing import NamedTuple


class RunFiles(NamedTuple):
  """The files of a trained run.

  Attributes:
    checkpoints: the folder of its checkpoints.
    metrics: a line of metrics a step.
    events: the folder of TensorBoard's events.
    ids: what the rows of its tables stand for (`mlrec.data.id_map`).
  """

  checkpoints: pathlib.Path
  metrics: pathlib.Path
  events: pathlib.Path
  ids: pathlib.Path
