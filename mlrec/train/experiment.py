"""An experiment from config to `result.json`: one seed, or several and their mean."""

from collections.abc import Callable
from collections.abc import Sequence
import importlib.metadata
import pathlib
import platform
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from mlrec import config as config_lib
from mlrec.config import ConfigError
from mlrec.data import cold_start
from mlrec.data import DataError
from mlrec.data import leave_one_out
from mlrec.data.sources import load_interactions
from mlrec.data.splits import Split
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.train import baselines
from mlrec.train import loop
from mlrec.train import usage
from mlrec.train import workdir as workdirs
from mlrec.train.fitted_run import FittedRun
from mlrec.train.outcome import SPLITS
from mlrec.train.writers import finite
from mlrec.train.writers import write_json

HEADLINE = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
_VERSIONS = ("mlrec", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def run(
  config: ConfigDict,
  workdir: pathlib.Path,
  *,
  evaluate_only: bool = False,
  splits: Sequence[str] = SPLITS,
  say: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Runs `config.seed`, or each of `config.seeds` in a folder of its own, and returns the result.

  Args:
    config: validated.
    workdir: where everything is written; a run found there goes on.
    evaluate_only: evaluate the best checkpoint instead of training; the result goes to `evaluation.json`.
    splits: what the best parameters are evaluated on; without `test` there is nothing to compare with baselines.
    say: prints a line for the user.

  Raises:
    ConfigError, DataError, CheckpointError, TrainingDiverged, Interrupted: as their names say.
  """
  baselines.check(config)
  result = _run(config, workdir, evaluate_only, splits, say)
  if config.baselines and not evaluate_only and "test" in splits:
    _compare(config, workdir, result, say)
  return result


def _run(config: ConfigDict, workdir: pathlib.Path, evaluate_only: bool, splits: Sequence[str], say) -> dict[str, Any]:
  return (_run_seeds if config.seeds else _run_one)(config, workdir, evaluate_only, splits, say)


def _compare(config: ConfigDict, workdir: pathlib.Path, result: dict[str, Any], say) -> None:
  """Runs what `config.baselines` names, and shows all of it in a table."""
  rows: dict[str, dict[str, Any]] = {}
  for name in config.baselines:
    if name == "popularity":
      rows[name] = baselines.popularity_row(_split(config))
    else:
      say("the same on item IDs:")
      rows["item IDs"] = _run(baselines.id_twin(config), workdir / "item_ids", False, SPLITS, say)["test"]
  rows[f"this run ({baselines.label(config)})"] = result["test"]
  baselines.compare(workdir, rows, say)


def _split(config: ConfigDict) -> Split:
  interactions = load_interactions(config.data.source, config.data.data_dir)
  split = leave_one_out(interactions, max_length=config.data.max_length, min_length=config.data.min_length)
  return cold_start.force(split, share=config.data.cold_share, seed=config.data.cold_seed)


def _run_one(
  config: ConfigDict, workdir: pathlib.Path, evaluate_only: bool, splits: Sequence[str], say
) -> dict[str, Any]:
  workdirs.check(workdir, config)
  finished = workdirs.result(workdir, config)
  # One that was not evaluated on all of them goes on to be.
  if finished and not evaluate_only and finished.keys() >= set(splits):
    say(f"{workdir} is finished; delete it, or name another --workdir, to train anew.")
    return _shown(finished, say)
  split = _split(config)
  say(f"{config.data.source}: {split.num_users:,} users, {split.num_items:,} items, {len(split.rows.values):,} kept")
  try:
    kind = FittedRun if _is_fitted(config) else loop.Run
    training: loop.Run | FittedRun = kind(config, split, workdir, splits=splits)
  except (ConfigError, DataError):
    raise
  except (TypeError, ValueError) as error:
    # Planning computes shapes alone: what fails there is a name, an option or a size in the config.
    raise ConfigError(str(error)) from error
  if evaluate_only:
    outcome = training.evaluate()
  else:
    say(f"workdir {workdir}")
    with loop.StopSignal() as stop:
      outcome = training.train(stop, started=lambda: workdirs.claim(workdir, config))
  result = {
    **{name: finite(metrics) for name, metrics in outcome.metrics.items()},
    "best_step": outcome.best_step,
    "best_epoch": outcome.best_epoch,
    "users": split.num_users,
    "items": split.num_items,
    "skipped_users": split.num_skipped,
    "parameters": outcome.parameters,
    "seconds": round(outcome.seconds, 1),
    "cpu_seconds": round(outcome.cpu_seconds, 1),
    **usage.peak_memory(),
    "config_hash": config_lib.config_hash(config, training.fingerprint),
    "data": split.fingerprint,
    "seed": config.seed,
    "versions": {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS},
    "devices": {"count": jax.device_count(), "kind": jax.devices()[0].device_kind, "processes": jax.process_count()},
  }
  if jax.process_index() == 0:
    write_json(workdir / (workdirs.EVALUATION if evaluate_only else workdirs.RESULT), result)
  return _shown(result, say)


def _run_seeds(
  config: ConfigDict, workdir: pathlib.Path, evaluate_only: bool, splits: Sequence[str], say
) -> dict[str, Any]:
  seeds, results = list(config.seeds), []
  if _is_fitted(config) and len(seeds) > 1:
    say(f"{config.model.name} draws nothing at random: seed {seeds[0]} stands for all {len(seeds)}.")
    del seeds[1:]
  workdirs.check(workdir, config)
  if not evaluate_only:
    workdirs.claim(workdir, config)
  for seed in seeds:
    one = config.copy_and_resolve_references()
    one.seed, one.seeds = seed, ()
    say(f"seed {seed}:")
    results.append(_run_one(one, workdir / f"seed_{seed}", evaluate_only, splits, say))
  summary: dict[str, Any] = {"seeds": seeds} | {key: results[0][key] for key in ("config_hash", "data")}
  for name in splits:
    shared = [key for key in results[0][name] if all(result[name].get(key) is not None for result in results)]
    summary[name] = {key: spread([result[name][key] for result in results]) for key in shared}
    figures = (f"{key} {summary[name][key]['mean']:.4f} ± {summary[name][key]['std']:.4f}" for key in HEADLINE)
    say(f"{name}, mean of {len(results)} seeds: {' · '.join(figures)}")
  summary["seconds"] = round(sum(result["seconds"] for result in results), 1)
  if jax.process_index() == 0:
    write_json(workdir / (workdirs.EVALUATION if evaluate_only else workdirs.RESULT), summary)
  return summary


def _is_fitted(config: ConfigDict) -> bool:
  try:
    return models.get(config.model.name, kind=RECOMMENDER).fitted
  except ValueError as error:
    raise ConfigError(f"config.model.name: {error}") from error


def spread(values: list[float]) -> dict[str, float]:
  """Mean and sample standard deviation (0 for one value)."""
  return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _shown(result: dict[str, Any], say) -> dict[str, Any]:
  for name in SPLITS:
    if name not in result:
      continue
    figures = [f"{key} {result[name][key]:.4f}" for key in (*HEADLINE, "mrr", "coverage@10")]
    if result[name].get("cold/hr@10") is not None:
      figures.append(f"cold hr@10 {result[name]['cold/hr@10']:.4f}")
    say(f"{name:5} {' · '.join(figures)}")
  return result


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"
