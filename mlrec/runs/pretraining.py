"""Pre-training in a workdir: labelled content in, the encoder's weights and a held-out accuracy out."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.content.base import Source
from mlrec.data.item_labels import Labels
from mlrec.data.item_labels import read_labels
from mlrec.registry import OptionError
from mlrec.runs.workdir import Workdir
from mlrec.train.pretraining import ACCURACY
from mlrec.train.pretraining import Pretrained
from mlrec.train.pretraining import Pretraining
from mlrec.train.stop import StopSignal

# Of the workdir.
WEIGHTS, RESULT = "encoder.safetensors", "pretraining.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Labelled:
  """What `get_labelled()` of a config file returns: labels, and the content that they are of.

  Attributes:
    labels: of the items.
    source: of their content; None for what the config names.
  """

  labels: Labels
  source: Source | None = None


def load(file: str, labels: str) -> Labelled:
  """What a run reads: the file of labels where one is named, else what the config file gives.

  Args:
    file: the config's, `FILE.py` or `FILE.py:ARGUMENT`.
    labels: the path of a CSV file; empty for none.

  Raises:
    ConfigError: there are no labels.
    DataError: the file cannot be read.
  """
  if labels:
    return Labelled(read_labels(labels))
  found = config_lib.from_file(file, "get_labelled", "--labels=FILE.csv is required, or a config that brings its own")
  if not isinstance(found, Labelled):
    raise ConfigError(f"get_labelled() of {file.partition(':')[0]} must return a Labelled, not {found!r}")
  return found


def run(
  config: ConfigDict,
  labelled: Labelled,
  workdir: pathlib.Path,
  *,
  stop: StopSignal | None = None,
  say: Callable[[str], None] = print,
) -> Pretrained:
  """Pre-trains, or resumes, and writes the encoder's weights and what was found.

  Args:
    config: validated.
    labelled: labels and content.
    workdir: where everything is written.
    stop: asked between groups of steps whether to stop; None for one that SIGTERM and SIGINT set.
    say: prints a line.

  Raises:
    ConfigError, DataError, CheckpointError, TrainingDiverged, Interrupted: as their names say.
  """
  folder = Workdir(workdir)
  folder.check(config)
  training = Pretraining(config, labelled.labels, folder.files, source=labelled.source)
  try:
    training.plan()
  except OptionError as error:
    raise ConfigError(str(error)) from error
  with folder.locked(), stop or StopSignal() as stopping:
    training.prepare()
    say(
      f"{len(training.batches.items):,} labelled items to train on, {len(training.held_out):,} held out; labels: "
      + ", ".join(f"{name} ({len(found)} classes)" for name, found in labelled.labels.classes.items())
    )
    found = training.train(stopping, started=lambda: folder.claim(config))
    training.write_weights(workdir / WEIGHTS)
    folder.write(workdir / RESULT, _stated(config, training, found))
  if found.accuracy:
    say("held out: " + " · ".join(f"{name} {value:.4f}" for name, value in found.accuracy.items()))
  say(f"{workdir / WEIGHTS}: weights for config.model.item.weights")
  return found


def _stated(config: ConfigDict, training: Pretraining, found: Pretrained) -> dict[str, Any]:
  stated = found._asdict() | {"seconds": round(found.seconds, 1), "cpu_seconds": round(found.cpu_seconds, 1)}
  chance = {name: 1 / len(classes) for name, classes in training.labels.classes.items()}
  return stated | {f"{ACCURACY} of a guess": chance, "seed": config.seed, "data": training.fingerprint}
