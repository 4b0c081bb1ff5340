"""Finished workdirs as rows of a table: runs of one config and one data set are one row."""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import pathlib
import re
from typing import Any

import numpy as np

from mlrec import files
from mlrec.config import ConfigError
from mlrec.data import lines
from mlrec.data import protocols
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.registry import closest
from mlrec.runs import published
from mlrec.runs.published import PublishedRow
from mlrec.runs.result import Result
from mlrec.runs.result import Spread
from mlrec.runs.workdir import Workdir

_BUCKET = re.compile(r"(cold|count_([0-9]{1,19}).*)/hr@10")
# Losses that the published models are trained by; another is part of a row's name.
_PUBLISHED_LOSS = "in_batch_softmax"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
  """A finished run of one seed.

  Attributes:
    workdir: where it is.
    name: of its row, where one was asked for.
    config: JSON.
    result: what it found.
  """

  workdir: pathlib.Path
  name: str
  config: dict[str, Any]
  result: Result

  @property
  def protocol(self) -> str:
    """As it is stated in tables; configs of old versions do not name one."""
    return protocols.stated(
      self.config["data"].get("split") or LEAVE_ONE_OUT, (self.config.get("eval") or {}).get("users", 0)
    )


@dataclasses.dataclass(frozen=True)
class Row:
  """Runs that differ in their seeds alone.

  Attributes:
    label: the model.
    runs: in the order in which they were named.
    published: the row beside it in a published table; None where there is none.
  """

  label: str
  runs: Sequence[FinishedRun]
  published: PublishedRow | None = None

  @property
  def seeds(self) -> list[int]:
    return [run.result.seed for run in self.runs]

  @property
  def config_hash(self) -> str:
    return self.runs[0].result.config_hash

  @property
  def tuning(self) -> tuple[int, float] | None:
    """The trials in which the config was chosen, and the seconds that they took; None unless all runs say the same."""
    said = [run.config.get("tuning") or {} for run in self.runs]
    stated = {(one.get("trials") or 0, one.get("seconds") or 0.0) for one in said}
    return next(iter(stated)) if len(stated) == 1 and stated != {(0, 0.0)} else None

  def metric(self, split: str, name: str) -> Spread | None:
    """A metric over the seeds; None unless each run has it."""
    values = [run.result.metric(split, name) for run in self.runs]
    known = [value for value in values if value is not None]
    return Spread.of(known) if len(known) == len(values) else None

  def minutes(self, kind: str) -> float | None:
    """Mean minutes a seed: `wall`, `cpu`, or `device`, which are those of accelerators, all of a run together."""
    values = [_minutes(run.result, kind) for run in self.runs]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None

  def most(self, name: str) -> float | None:
    """The highest of a figure over the seeds, such as `peak_memory_mib`; None unless each run has it."""
    values = [value for run in self.runs if (value := getattr(run.result, name)) is not None]
    return max(values) if len(values) == len(self.runs) else None


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows whose figures compare: all read the same data.

  Attributes:
    data: its fingerprint.
    source: where the first run read it.
    users: how many; None where the runs are too old to say.
    items: likewise.
    rows: best first.
  """

  data: str
  source: str
  users: int | None
  items: int | None
  rows: list[Row]

  @property
  def name(self) -> str:
    """Of the source: what a file is called, wherever it lies."""
    return pathlib.Path(self.source).name if self.source.endswith(lines.SUFFIXES) else self.source

  @property
  def labels(self) -> list[str]:
    """Of the rows: those that would be the same also have their config's hash."""
    labels = [row.label for row in self.rows]
    return [row.label if labels.count(row.label) == 1 else f"{row.label} {row.config_hash}" for row in self.rows]

  def buckets(self, split: str) -> list[str]:
    """HR@10 of the buckets of targets, from those that training never has to those that it has most often."""
    names = {name for row in self.rows for run in row.runs for name in run.result.metrics[split]}

    def least(name: str) -> int:
      match = _BUCKET.fullmatch(name)
      return int(match[2] or 0) if match else 0

    return sorted((name for name in names if _BUCKET.fullmatch(name)), key=least)

  @property
  def title(self) -> str:
    sizes = [f"{self.users:,} users, {self.items:,} items"] if self.users and self.items else []
    lengths = {run.config["data"]["max_length"] for row in self.rows for run in row.runs}
    # The length of histories is a part of the fingerprint: runs of one table have one.
    protocol = [] if self.protocol == LEAVE_ONE_OUT else [f"split {self.protocol}"]
    return ", ".join([self.name, *sizes, f"histories of up to {max(lengths)}", *protocol, f"data {self.data}"])

  @property
  def protocol(self) -> str:
    """As it is stated in tables."""
    return self.rows[0].runs[0].protocol


def bucket_title(name: str) -> str:
  """What a bucket of `Table.buckets` is called: `cold`, or the training counts in it."""
  return name.rpartition("/")[0].removeprefix("count_")


def read(arguments: Iterable[str], *, split: str) -> tuple[list[FinishedRun], list[str]]:
  """The finished runs in workdirs, and a line for each that is left out.

  Args:
    arguments: `WORKDIR` or `NAME=WORKDIR`; a workdir of one seed, of several, or a folder of workdirs.
    split: whose metrics a run must have.

  Raises:
    ConfigError: a folder is missing or is no workdir, or a file in it is damaged or of something else.
  """
  runs: list[FinishedRun] = []
  notes: list[str] = []
  taken: set[pathlib.Path] = set()
  arguments = list(arguments)
  for argument in arguments:
    name, equals, path = argument.partition("=")
    if not equals or pathlib.Path(argument).exists():
      name, path = "", argument
    for workdir in _workdirs(pathlib.Path(path).expanduser(), notes, alone=len(arguments) == 1):
      where = workdir.path.resolve()
      if where in taken:
        notes.append(f"{workdir} is named twice: it counts once")
        continue
      taken.add(where)
      run = _run(workdir, name, split, notes)
      if run:
        runs.append(run)
  return runs, notes


def tables(runs: Sequence[FinishedRun], *, split: str, metric: str) -> tuple[list[Table], list[str]]:
  """A table for each data set, best rows first, and a line for each run that is left out.

  Args:
    runs: finished.
    split: whose metric rows are sorted by.
    metric: its name.

  Raises:
    ConfigError: no run has that metric.
  """
  known = {name for run in runs for name, value in run.result.metrics[split].items() if value is not None}
  if runs and metric not in known:
    raise ConfigError(f"no run has the {split} metric {metric!r}: {closest(metric, known)}")
  groups: dict[tuple[str, str], dict[tuple[str, ...], list[FinishedRun]]] = {}
  notes = []
  for run in runs:
    rows = groups.setdefault((run.result.data, run.protocol), {})
    same = rows.setdefault(_group(run), [])
    twin = next((other for other in same if other.result.seed == run.result.seed), None)
    if twin:
      notes.append(f"{run.workdir} repeats seed {run.result.seed} of {twin.workdir}: left out")
    else:
      same.append(run)
  found = [_table(data, list(rows.values()), split, metric) for (data, _), rows in groups.items()]
  if len(found) > 1:
    listed = "; ".join(table.title for table in found)
    notes.append(f"the workdirs read {len(found)} data sets, whose figures do not compare: a table each ({listed})")
  return found, notes


def read_config(workdir: Workdir) -> dict[str, Any]:
  """The config of a workdir, as JSON, of which the keys that reports read have their types.

  Raises:
    ConfigError: it cannot be read, or is none.
  """
  try:
    config = files.read_json(workdir.config)
    for key, (kind, required) in _READ_KEYS.items():
      value: Any = config
      for part in key.split("."):
        if not isinstance(value, dict):
          raise ValueError(f"{key.rpartition('.')[0] or 'it'} must be an object")
        value = value.get(part)
        if value is None:
          break
      # JSON has one kind of number.
      kinds = (int, float) if kind is float else kind
      if (value is None and required) or (value is not None and not isinstance(value, kinds)):
        raise ValueError(f"{key} must be of type {kind.__name__}, not {value!r:.40}")
    seeds = config.get("seeds") or []
    if not all(type(seed) is int for seed in seeds):
      raise ValueError(f"seeds must be integers, not {seeds!r:.40}")
    return config
  except (OSError, ValueError) as error:
    raise ConfigError(f"{workdir.config}: it is no config of mlrec.main: {error}") from error


# Keys that reports read, their types, and whether each config has them.
_READ_KEYS: dict[str, tuple[type, bool]] = {
  "seeds": (list, False), "data": (dict, True), "data.source": (str, True), "data.max_length": (int, True),
  "tuning": (dict, False), "tuning.trials": (int, False), "tuning.seconds": (float, False),
  "eval": (dict, False), "eval.users": (int, False), "data.split": (str, False),
  "data.features": (str, False), "data.videos": (str, False), "model": (dict, True),
  "model.name": (str, True), "model.loss": (str, False), "model.user": (dict, False), "model.user.name": (str, False),
  "model.item": (dict, False), "model.item.name": (str, False), "model.item.encoder": (str, False),
  "model.item.mode": (str, False), "model.item.fusion": (str, False), "model.item.towers": (dict, False),
}  # fmt: skip


def _workdirs(path: pathlib.Path, notes: list[str], *, alone: bool) -> list[Workdir]:
  """The workdirs of one seed in a workdir, or in a folder of workdirs.

  A folder that is none of them is an error where it is named `alone`; among others, as in `runs/*`, it is noted.
  """
  if not path.is_dir():
    names = [other.name for other in path.parent.iterdir() if other.is_dir()] if path.parent.is_dir() else []
    raise ConfigError(f"{path} is no folder" + (f": {closest(path.name, names)}" if names else ""))
  workdir = Workdir(path)
  if workdir.config.exists():
    seeds = read_config(workdir).get("seeds") or []
    if not seeds:
      return [workdir]
    # Of a model that draws nothing at random one seed stands for all.
    runs = [workdir.of_seed(seed) for seed in seeds]
    return [run for run in runs if run.path.exists() or not workdir.result.exists()]
  inside = sorted(folder for folder in path.iterdir() if Workdir(folder).config.exists())
  if not inside and workdir.was_locked():
    notes.append(f"{workdir} holds a run that was refused or has just begun: left out")
    return []
  if not inside:
    what = f"{path} is no workdir, nor a folder of workdirs: there is no {workdir.config.name} in it"
    if alone:
      raise ConfigError(what)
    notes.append(f"{what}: left out")
    return []
  return [workdir for folder in inside for workdir in _workdirs(folder, notes, alone=True)]


def _run(workdir: Workdir, name: str, split: str, notes: list[str]) -> FinishedRun | None:
  if not workdir.result.exists():
    notes.append(f"{workdir} is not finished: left out")
    return None
  config, result = read_config(workdir), workdir.read_result()
  if split not in result.metrics:
    why = (
      "as a trial of a sweep"
      if config["data"].get("split", LEAVE_ONE_OUT) != "none"
      else "as it was trained on everything"
    )
    notes.append(f"{workdir} has no {split} metrics, {why}: left out")
    return None
  return FinishedRun(workdir.path, name, config, result)


def _group(run: FinishedRun) -> tuple[str, ...]:
  """What runs of one row share; the files of content are no part of the config's hash."""
  content = [pathlib.Path(run.config["data"].get(key) or "").name for key in ("features", "videos")]
  return run.name, run.result.config_hash, *content


def _table(data: str, groups: list[list[FinishedRun]], split: str, metric: str) -> Table:
  first = groups[0][0]
  source, users, items = first.config["data"]["source"], first.result.users, first.result.items
  comparable = first.protocol == LEAVE_ONE_OUT and published.is_microlens_100k(source, users)
  beside = published.microlens_100k() if comparable else []
  rows = [_row(runs, beside) for runs in groups]

  def place(row: Row) -> tuple[bool, float, str]:
    value = row.metric(split, metric)
    return value is None, -value.mean if value else 0.0, row.label

  return Table(data, source, users, items, sorted(rows, key=place))


def _row(runs: list[FinishedRun], beside: list[PublishedRow]) -> Row:
  config, name = runs[0].config, runs[0].name
  key = published.key_of(config)
  loss = config["model"].get("loss", _PUBLISHED_LOSS)
  matches = [row for row in beside if row.model == name or (row.key == key and loss == _PUBLISHED_LOSS)]
  return Row(name or label_of(config), runs, matches[0] if matches else None)


def label_of(config: dict[str, Any]) -> str:
  """A name for the model of a config (JSON): as it was published where it was, else by what it is made of."""
  key = published.key_of(config)
  name, content, encoder, mode = key
  # One table is enough to know names by; encoders and modes stand beside them.
  names = {row.key[:2]: row.model for row in reversed(published.microlens_100k()) if "(" not in row.model}
  ends = {"id": "", "features": "_ID+V", "video": "_V"}
  # With what a model was not published with, it still has the name that it was published under.
  own = names.get((name, "id"), name).removesuffix("_ID")
  label = names.get(key[:2]) or own + ends.get(content, f"_{content}")
  details = [part for part in (encoder, mode) if part]
  label += f" ({', '.join(details)})" if details else ""
  loss = config["model"].get("loss", _PUBLISHED_LOSS)
  return label if loss == _PUBLISHED_LOSS else f"{label}, {loss}"


def _minutes(result: Result, kind: str) -> float | None:
  if kind == "device":
    # JAX calls the host's processor so.
    device = str(result.devices.get("kind", "cpu"))
    return None if device.lower() == "cpu" else result.seconds * result.devices.get("count", 1) / 60
  seconds = {"wall": result.seconds, "cpu": result.cpu_seconds}[kind]
  return None if seconds is None else seconds / 60
