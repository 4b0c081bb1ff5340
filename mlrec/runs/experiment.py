"""An experiment from config to `result.json`: one seed, or several and their mean."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import importlib.metadata
import pathlib
import platform
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from mlrec import config as config_lib
from mlrec import machine
from mlrec.config import ConfigError
from mlrec.content.base import Source
from mlrec.data import ingested
from mlrec.data import protocols
from mlrec.data.splits import EVALUATED
from mlrec.data.splits import LEAVE_ONE_OUT
from mlrec.data.splits import Split
from mlrec.data.splits import TEST
from mlrec.files import finite
from mlrec.models.registry import choose
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import OptionError
from mlrec.registry import options_of
from mlrec.runs import baselines
from mlrec.runs.agreement import agree_on_config
from mlrec.runs.agreement import agree_on_data
from mlrec.runs.fitted import FittedRun
from mlrec.runs.per_user import PerUser
from mlrec.runs.result import Result
from mlrec.runs.result import SeedsResult
from mlrec.runs.workdir import Workdir
from mlrec.sources.configured import configured_split
from mlrec.train.loop import TrainingRun
from mlrec.train.run_files import RunFiles
from mlrec.train.stop import StopSignal
from mlrec.train.summary import headline
from mlrec.train.summary import Ranked
from mlrec.train.summary import Summary

_VERSIONS = ("mlrec", "jax", "flax", "optax", "orbax-checkpoint", "numpy")
Say = Callable[[str], None]
# What is read of items beside who watched them.
_CONTENT = "other content of items"


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  evaluate_only: bool = False,
  step: int | None = None,
  splits: Sequence[str] = EVALUATED,
  sources: Mapping[str, Source] = {},
  stop: StopSignal | None = None,
  profile: tuple[int, int] | None = None,
  say: Say = print,
) -> Result | SeedsResult:
  """Runs `config.seed`, or each of `config.seeds` in a folder of its own, and returns the result.

  Args:
    config: validated.
    workdir: where everything is written; a run found there is resumed.
    evaluate_only: evaluate the best checkpoint instead of training; the result goes to `evaluation.json`.
    step: with `evaluate_only`, evaluate the checkpoint of this step instead.
    splits: what the best parameters are evaluated on, as far as `config.data.split` has it; without `test` there is
      nothing to compare with baselines.
    sources: content that is open already, by its name (`frames`), in place of what the config names.
    stop: asked between groups of steps whether to stop; None for one that SIGTERM and SIGINT set.
    profile: the steps that are traced, as of `mlrec.train.profile`.
    say: prints a line for the user.

  Raises:
    ConfigError, DataError, CheckpointError, TrainingDiverged, Interrupted: as their names say.
  """
  baselines.check(config)
  agree_on_config(config, evaluate_only=evaluate_only, step=step, profile=list(profile) if profile else None)
  protocol = protocols.parse(config.data.split)
  splits = [name for name in splits if name in protocol.evaluates]
  if evaluate_only and not splits:
    raise ConfigError(f"--evaluate_only: config.data.split = {protocol.text!r} leaves nothing to evaluate on")
  experiment = _Experiment(evaluate_only, step, splits, sources, stop or StopSignal(), profile, say)
  result = experiment.run(config, Workdir(workdir))
  if config.baselines and not evaluate_only and TEST in splits:
    experiment.compare(config, Workdir(workdir), result)
  return result


class _Experiment:
  """How a config is run: one seed at a time."""

  def __init__(
    self,
    evaluate_only: bool,
    step: int | None,
    splits: Sequence[str],
    sources: Mapping[str, Source],
    stop: StopSignal,
    profile: tuple[int, int] | None,
    say: Say,
  ):
    self._evaluate_only, self._step, self._splits = evaluate_only, step, splits
    self._sources, self._stop, self._profile, self._say = sources, stop, profile, say
    self._read: tuple[Mapping[str, Any], Split] | None = None

  def run(self, config: ConfigDict, workdir: Workdir) -> Result | SeedsResult:
    return self._run_seeds(config, workdir) if config.seeds else self._run_one(config, workdir)

  def _run_one(self, config: ConfigDict, workdir: Workdir) -> Result:
    workdir.check(config)
    workdir.agree(config)
    finished = workdir.finished(config)
    # One that was not evaluated on all of the splits is resumed, to be.
    if finished and not self._evaluate_only and finished.metrics.keys() >= set(self._splits):
      self._say(f"{workdir} is finished; delete it, or name another --workdir, to train again.")
      return self._shown(finished)
    split = self._split(config)
    self._say(f"{config.data.source}: {_told(split)}")
    for key, place in ingested.places(config.data).items():
      if place and config.data[key]:
        self._say(f"config.data.{key} = {config.data[key]!r} is not read: {place} has such content of its own")
    if not split.cuts.targets and not _is_fitted(config):
      self._say(
        f"config.data.split = {split.protocol!r}: nothing is validated, and training takes all config.train.epochs = "
        f"{config.train.epochs}; best_epoch in result.json of a run with another split says how many serve"
      )
    training = self._make(config, split, workdir)
    with _options_named():
      training.plan()
      if isinstance(training, TrainingRun) and training.impressions is not None:
        self._say(f"impressions: {training.impressions.told}")
      if self._evaluate_only:
        training.prepare()
        agree_on_data(config, training.fingerprint, _CONTENT)
        summary = training.evaluate(self._step)
      else:
        self._say(f"workdir {workdir}")
        if isinstance(training, TrainingRun):
          training.check_devices()
        with workdir.locked(), self._stop as stop:
          training.prepare(stop)
          agree_on_data(config, training.fingerprint, _CONTENT)
          summary = training.train(stop, started=lambda: workdir.claim(config))
        if self._profile:
          self._say(
            f"trace {training.trace}" if training.trace else "no step of --profile was taken: there is no trace"
          )
    result = _result(config, split, summary, config_lib.config_hash(config, training.fingerprint))
    ranked = {name: one for name, one in summary.found.items() if isinstance(one, Ranked)}
    if config.eval.per_user and ranked and not self._evaluate_only:
      workdir.write_per_user(PerUser.of(split, ranked, config_hash=result.config_hash, seed=result.seed))
    workdir.write(workdir.evaluation if self._evaluate_only else workdir.result, result)
    return self._shown(result)

  def _split(self, config: ConfigDict) -> Split:
    """The data, read once for the seeds of a run and what it is compared with."""
    data = config_lib.to_json(config)["data"] | {"users": config.eval.users}
    if self._read is None or self._read[0] != data:
      split = configured_split(config)
      agree_on_data(config, split.fingerprint, "other interactions")
      self._read = data, split
    return self._read[1]

  def _make(self, config: ConfigDict, split: Split, workdir: Workdir) -> TrainingRun | FittedRun:
    if _is_fitted(config):
      return FittedRun(config, split, workdir.files, splits=self._splits)
    return TrainingRun(
      config, split, workdir.files, splits=self._splits, warm_start=_warm_start(config), sources=self._sources,
      profile=self._profile,
    )  # fmt: skip

  def _run_seeds(self, config: ConfigDict, workdir: Workdir) -> SeedsResult:
    seeds = list(config.seeds)
    if _is_fitted(config) and len(seeds) > 1:
      self._say(f"{config.model.name} draws nothing at random: seed {seeds[0]} stands for all {len(seeds)}.")
      del seeds[1:]
    workdir.check(config)
    with contextlib.nullcontext() if self._evaluate_only else workdir.locked():
      if not self._evaluate_only:
        workdir.claim(config)
      results = [self._run_seed(config, workdir, seed) for seed in seeds]
    summary = SeedsResult.of(results, self._splits)
    for name in self._splits:
      spreads = {key: summary.metrics[name].get(key) for key in headline(results[0].metrics[name])}
      figures = [f"{key} {spread.mean:.4f} ± {spread.std:.4f}" for key, spread in spreads.items() if spread]
      if figures:
        self._say(f"{name}, mean of {len(results)} seeds: {' · '.join(figures)}")
    workdir.write(workdir.evaluation if self._evaluate_only else workdir.result, summary)
    return summary

  def _run_seed(self, config: ConfigDict, workdir: Workdir, seed: int) -> Result:
    one = config.copy_and_resolve_references()
    one.seed, one.seeds = seed, ()
    self._say(f"seed {seed}:")
    return self._run_one(one, workdir.of_seed(seed))

  def compare(self, config: ConfigDict, workdir: Workdir, result: Result | SeedsResult) -> None:
    """Runs what `config.baselines` names, and shows all of it in a table."""
    rows: dict[str, baselines.Row] = {}
    for name in config.baselines:
      if name == baselines.POPULARITY:
        rows[name] = baselines.popularity_row(self._split(config))
      else:
        self._say("baseline: the same model on item IDs")
        twin = self.run(baselines.id_twin(config), Workdir(workdir.path / "item_ids"))
        rows["item IDs"] = twin.metrics[TEST]
    protocol = protocols.stated(config.data.split, config.eval.users)
    rows[f"this run ({baselines.label(config)})"] = result.metrics[TEST]
    workdir.write(workdir.comparison, baselines.table(rows, protocol=protocol))
    baselines.show(rows, self._say, protocol=protocol)

  def _shown(self, result: Result) -> Result:
    for name, metrics in result.metrics.items():
      told = {key: key for key in (*headline(metrics), "mrr", "coverage@10")} | {"cold/hr@10": "cold hr@10"}
      figures = [f"{said} {metrics[key]:.4f}" for key, said in told.items() if metrics.get(key) is not None]
      self._say(f"{name:5} {' · '.join(figures) or 'is not judged: its impressions have no labels'}")
    return result


@contextlib.contextmanager
def _options_named() -> Iterator[None]:
  """Has options that are wrong told as what they are, mistakes in the config."""
  try:
    yield
  except OptionError as error:
    raise ConfigError(str(error)) from error


def _warm_start(config: ConfigDict) -> RunFiles | pathlib.Path | None:
  if not config.init_from:
    return None
  path = pathlib.Path(config.init_from).expanduser()
  return Workdir(path).files if path.is_dir() else path


def _result(config: ConfigDict, split: Split, summary: Summary, config_hash: str) -> Result:
  return Result(
    metrics={name: finite(metrics) for name, metrics in summary.metrics.items()},
    seed=config.seed,
    config_hash=config_hash,
    data=split.fingerprint,
    best_step=summary.best_step,
    best_epoch=summary.best_epoch,
    seconds=round(summary.seconds, 1),
    cpu_seconds=round(summary.cpu_seconds, 1),
    users=split.num_users,
    items=split.num_items,
    skipped_users=split.num_skipped,
    moments=split.cuts.moments or None,
    parameters=summary.parameters,
    versions={"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS},
    devices={"count": jax.device_count(), "kind": jax.devices()[0].device_kind, "processes": jax.process_count()},
    **machine.peak_memory(),
  )


def _told(split: Split) -> str:
  """The sizes of the data, and how it is split, in words."""
  sizes = f"{split.num_users:,} users, {split.num_items:,} items"
  if split.impressions is not None:
    return sizes
  sizes += f", {len(split.rows.values):,} interactions"
  if split.protocol == LEAVE_ONE_OUT:
    most = split.train_windows * split.max_length + 3
    kept = f" (the last {most} of a user)" if split.train_windows else ""
    sampled = split.sampled if split.sampled < split.num_users else 0
    return sizes + kept + (f"; {protocols.stated(split.protocol, sampled)}" if sampled else "")
  trained, there = int(split.train_counts.sum()), int(split.cuts.train.sum())
  cut = "" if trained == there else f", of {there:,}: config.data.train_windows = 0 takes the older ones too"
  parts = [f"{trained:,} interactions to train on{cut if not len(split.cold) else ''}"]
  since = {name: f" (from {moment} on)" for name, moment in split.cuts.moments.items()}
  for name in split.cuts.targets:
    targets = len(evaluated := split.evaluated(name))
    users = len(np.unique(evaluated)) if split.several else targets
    number = f"{users:,} users" + (f" with {targets:,} targets" if split.several else "")
    parts.append(f"{number} for {name}{since.get(name, '')}")
  return f"{sizes}; {split.protocol}: {', '.join(parts)}"


def _is_fitted(config: ConfigDict) -> bool:
  with _options_named(), options_of("config.model"):
    name, _ = choose(config.model.to_dict(), RECOMMENDER)
  return models.get(name).fitted


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"
