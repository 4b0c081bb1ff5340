"""What a study is: runs of one experiment that differ in a few keys, and how their figures are laid out.

A file of `configs/studies/` has, beside `get_config()`, a `get_study()` that returns a `Study`. In `FILE.py:ARGUMENT`
both are handed ARGUMENT, if they take one.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.registry import closest

LINES, BARS, SCATTER, BUCKETS = "lines", "bars", "scatter", "buckets"
LAYOUTS = (LINES, BARS, SCATTER, BUCKETS)
# Metrics that there are of the targets of a bucket.
BUCKET_METRICS = ("hr@10", "ndcg@10")
# Of all targets, of those that training never names (`cold/`), and of those that it does (`warm/`).
METRICS = (
  "hr@10", "ndcg@10", "hr@20", "ndcg@20", "mrr", "coverage@10",
  *(f"{part}/{name}" for part in ("cold", "warm") for name in BUCKET_METRICS),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StudyRun:
  """A run of a study: a point of its plot.

  Attributes:
    series: what is drawn as one line, or in one colour.
    x: its place on the axis; with the layout `buckets`, whose axis is that of the buckets, it is part of the name.
    overrides: values by keys of the config, such as `{"model.item.mode": "top"}`; a section may be given as a whole.
    label: what the point is called beside its series, where that is not its place.
  """

  series: str
  x: float | str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  label: str = ""

  @property
  def name(self) -> str:
    """Series and point."""
    return f"{self.series}, {self.label or self.x}"

  @property
  def folder(self) -> str:
    """Of its workdir, within the study's."""
    return re.sub(r"[^\w.+-]+", "-", f"{self.series}_{self.label or self.x}").strip("-.").lower()


@dataclasses.dataclass(frozen=True)
class PublishedPoint:
  """A published figure that stands beside.

  Attributes:
    series: as of a `StudyRun`, as are `x` and `label`.
    x: its place.
    value: a fraction.
    metric: what it is of.
    label: as of a `StudyRun`.
  """

  series: str
  x: float | str
  value: float
  metric: str = "hr@10"
  label: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
  """Runs and their layout.

  Attributes:
    title: of report and plot.
    x_label: what the axis is.
    layout: `lines` over numbers, `bars` over names or numbers, `scatter` of points with labels over numbers, or
      `buckets` of how often targets occur in training, each a group of bars, a bar a run.
    runs: in the order of the report; names on the axis stand in the order in which they first come.
    metrics: a panel each, of `METRICS`; with `buckets` of `BUCKET_METRICS`.
    published: figures that stand beside.
    published_source: where they are from, and of which data.
    note: what a reader must know; it is printed below the title.
    vectors: options of an item tower of the mode `frozen`. Where `config.data.features` is empty, its vectors are made
      first, as `python -m mlrec.features` makes them, and all runs read them.
    name: of the report's files, for studies that share a workdir: letters, digits, `-` and `_`.
    report: whether what `python -m mlrec.report` makes of the runs is written, too, with rows that are called by their
      series: a table for each data set or protocol, paired tests, and what changes from protocol to protocol.
    compared: names of two runs each, of which the first less the second is tested over the users of `test`, as
      `mlrec/runs/report/statistics.py` says, with Holm's correction over all of them.
  """

  title: str
  x_label: str
  layout: str
  runs: Sequence[StudyRun]
  metrics: Sequence[str] = ("hr@10",)
  published: Sequence[PublishedPoint] = ()
  published_source: str = ""
  note: str = ""
  vectors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  name: str = "study"
  report: bool = False
  compared: Sequence[tuple[str, str]] = ()


def load(file: str) -> Study:
  """The study of a config file, `FILE.py` or `FILE.py:ARGUMENT`, checked.

  Raises:
    ConfigError: it has none, or one that cannot be.
  """
  study = config_lib.from_file(
    file, "get_study", "a study needs one that returns a Study; mlrec/runs/study/__init__.py says what that is"
  )
  if not isinstance(study, Study):
    raise ConfigError(f"get_study() of {file.partition(':')[0]} must return a Study, not {study!r}")
  check(study)
  return study


def shipped(study_file: str, config: str) -> ConfigDict:
  """The config that a study builds on.

  Args:
    study_file: the study's `__file__`.
    config: `FILE.py` or `FILE.py:ARGUMENT`, by its path from the folder above the study's.

  Raises:
    ConfigError: it has no config, or one that cannot be made.
  """
  file = pathlib.Path(study_file).parents[1] / config
  return config_lib.from_file(str(file), "get_config", "the study builds on it")


def check(study: Study) -> None:
  """Raises a ConfigError where a study cannot be run, or drawn."""
  if study.layout not in LAYOUTS:
    raise ConfigError(f"the study's layout = {study.layout!r}: {closest(str(study.layout), LAYOUTS)}")
  if not re.fullmatch(r"[\w-]+", study.name):
    raise ConfigError(f"the study's name = {study.name!r} names its files: letters, digits, - and _")
  if not study.runs or not study.metrics:
    raise ConfigError("a study needs a run and a metric or more")
  known = BUCKET_METRICS if study.layout == BUCKETS else METRICS
  for metric in study.metrics:
    if metric not in known:
      raise ConfigError(f"the study's metric {metric!r}, with the layout {study.layout!r}: {closest(metric, known)}")
  folders: dict[str, StudyRun] = {}
  for run in study.runs:
    if not run.folder:
      raise ConfigError(f"{run} has no letter or digit in its name: its workdir is named by that")
    if run.folder in folders:
      raise ConfigError(f"two runs of the study are called {run.folder!r}: {folders[run.folder].name!r}, {run.name!r}")
    folders[run.folder] = run
  names = [run.name for run in study.runs]
  for name in (name for pair in study.compared for name in pair):
    if name not in names:
      raise ConfigError(f"the study compares a run {name!r}: {closest(name, names)}")
  if study.layout in (LINES, SCATTER):
    points: list[StudyRun | PublishedPoint] = [*study.runs, *study.published]
    for point in points:
      if isinstance(point.x, str):
        raise ConfigError(f"with the layout {study.layout!r} places are numbers, not {point.x!r} of {point.series!r}")
  for run in study.runs if study.report else ():
    if "=" in run.series:
      raise ConfigError(f"with a report series are names of its rows, which have no '=': {run.series!r}")
  if study.published and (study.layout == BUCKETS or not study.published_source):
    raise ConfigError("published figures need a published_source, and a layout other than 'buckets'")


def check_keys(study: Study, keys: Iterable[str]) -> None:
  """Raises a ConfigError where a key was set for all runs that each of them sets itself, alone or with its section."""
  for key in keys:
    if all(any(f"{key}.".startswith(f"{own}.") for own in run.overrides) for run in study.runs):
      raise ConfigError(f"--config.{key} would change nothing: each run of the study sets it itself")


def config_of(config: ConfigDict, run: StudyRun) -> ConfigDict:
  """The config of a run.

  Raises:
    ConfigError: it overrides a key that there is not, or with a value that the key cannot have.
  """
  try:
    return config_lib.with_values(config, run.overrides)
  except ConfigError as error:
    raise ConfigError(f"run {run.name!r} of the study: {error}") from error
