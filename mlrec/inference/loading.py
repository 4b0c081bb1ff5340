"""Opens a trained workdir: its config, what it kept of its data, and its model."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import importlib.metadata
import pathlib
from typing import Any
from typing import NamedTuple

from absl import logging
import jax
from ml_collections import ConfigDict
import numpy as np

from mlrec import config as config_lib
from mlrec import files
from mlrec.config import ConfigError
from mlrec.content import open_source
from mlrec.content import Source
from mlrec.data import ingested
from mlrec.data import kept_split
from mlrec.data.id_map import IdMap
from mlrec.data.interactions import DataError
from mlrec.data.names import Names
from mlrec.data.splits import Split
from mlrec.inference.scorers import FittedScorer
from mlrec.inference.scorers import Scorer
from mlrec.inference.scorers import TrainedScorer
from mlrec.models.recommenders.recommender import Recommender
from mlrec.models.registry import choose
from mlrec.models.registry import models
from mlrec.models.registry import RECOMMENDER
from mlrec.registry import near_file
from mlrec.registry import OptionError
from mlrec.registry import options_of
from mlrec.runs.result import Result
from mlrec.runs.workdir import Workdir
from mlrec.sources import load_interactions
from mlrec.train import warm_start
from mlrec.train.loop import Best
from mlrec.train.loop import TrainingRun
from mlrec.train.model_builder import ModelBuilder

_TABLE = "item_vectors.safetensors"
# Keys of `config.data` that say where something lies on this machine, today.
PLACES = ("data_dir", "videos", "content", "features", "features_dir", "codes")


class Loaded(NamedTuple):
  """A model with what it is of.

  Attributes:
    workdir: of the run, of one seed.
    config: of the run.
    split: its users and items, and new items after those.
    scorer: the model.
  """

  workdir: Workdir
  config: ConfigDict
  split: Split
  scorer: Scorer


def load(path: pathlib.Path, *, places: Mapping[str, str] = {}, new_items: bool = False) -> Loaded:
  """Opens the model of a finished run, or of one that has a checkpoint.

  Args:
    path: of the workdir; of several seeds, the one that validated best is taken, or the first where none did.
    places: where content lies now, by keys of `config.data` (`PLACES`).
    new_items: whether items that the content has and training had not are added to those of the run.

  Raises:
    ConfigError: the workdir holds no such run, or one of a version that kept no data.
    DataError: what it holds is damaged, or content is missing.
    CheckpointError: its checkpoints cannot be read.
  """
  workdir = _of_one_seed(Workdir(path))
  config = _config(workdir, places)
  split = kept_split.read(workdir.files.data, workdir.files.ids)
  try:
    with options_of("config.model"):
      name, _ = choose(config.model.to_dict(), RECOMMENDER)
    if models.get(name).fitted:
      if new_items:
        raise ConfigError(f"{path}: {name!r} is computed from interactions alone: it cannot score new items")
      return Loaded(workdir, config, split, _fitted(config, split))
    split, scorer = _trained(workdir, config, split, new_items)
  except OptionError as error:
    raise ConfigError(str(error)) from error
  return Loaded(workdir, config, split, scorer)


def _of_one_seed(workdir: Workdir) -> Workdir:
  if not workdir.path.is_dir():
    raise ConfigError(f"{workdir}: there is no such folder{near_file(workdir.path)}")
  seeds = sorted(folder for folder in workdir.path.glob("seed_*") if folder.is_dir())
  if not seeds:
    return workdir
  results = []
  for folder in seeds:
    one = Workdir(folder)
    if one.result.exists():
      results.append((one, one.read_result()))
  if not results:
    raise ConfigError(f"{workdir} holds a run of several seeds, and none of them is finished")
  best, _ = max(results, key=lambda pair: _validated(pair[0], pair[1]))
  why = "which validated best" if any("valid" in result.metrics for _, result in results) else "the first of them"
  logging.warning("%s holds %d seeds: %s, %s, is used.", workdir, len(results), best.path.name, why)
  return best


def _validated(workdir: Workdir, result: Result) -> float:
  monitor = (workdir.saved_config() or {}).get("train", {}).get("monitor", "hr@10")
  return float((result.metrics.get("valid") or {}).get(monitor) or 0.0)


def _config(workdir: Workdir, places: Mapping[str, str]) -> ConfigDict:
  saved = workdir.saved_config()
  if saved is None:
    raise ConfigError(
      f"--workdir={workdir} holds no run: train one there with python -m mlrec.main --workdir={workdir}"
    )
  if not workdir.files.ids.exists() or not workdir.files.data.exists():
    raise ConfigError(
      f"{workdir}: the run has not begun to train, or is of an older version, which kept no ids and histories: run the "
      "command that made it again, in another --workdir if it says that it is finished"
    )
  data = {f"data.{key}": value for key, value in places.items() if value}
  try:
    return config_lib.with_values(ConfigDict(saved), data)
  except ConfigError as error:
    made_by = workdir.read_result().versions.get("mlrec") if workdir.result.exists() else None
    version = f", {made_by}" if made_by else ""
    raise ConfigError(
      f"{workdir.config}: {error}. It has been changed, or is of another version of mlrec{version} than this, "
      f"{importlib.metadata.version('mlrec')}"
    ) from error


def _fitted(config: ConfigDict, split: Split) -> FittedScorer:
  model = ModelBuilder(config, split).create_fitted()
  with options_of("config.model"):
    model.fit(split.train)
  return FittedScorer(model, num_items=split.num_items, max_length=split.max_length)


def _trained(workdir: Workdir, config: ConfigDict, split: Split, new_items: bool) -> tuple[Split, TrainedScorer]:
  """The split, with new items if they are asked for, and the model."""
  run = TrainingRun(config, split, workdir.files)
  run.plan(training=False)
  best = run.best()
  params, rest = best.params, best.rest
  if new_items:
    known = IdMap.of(split)
    split = _with_new_items(config, split, run.abstract_model())
    # Its tables have a row more for each; those of known items are found by their ids.
    run = TrainingRun(config, split, workdir.files)
    run.plan(training=False)
    params, rest = warm_start.regrown(run.spec, params, rest, ids=IdMap.of(split), theirs=known)
  table = _item_table(workdir, run, best, params, rest)
  scorer = TrainedScorer(
    run.spec.graphdef, params, rest, table, num_items=split.num_items, max_length=split.max_length
  )  # fmt: skip
  return split, scorer


def _with_new_items(config: ConfigDict, split: Split, model: Recommender) -> Split:
  """The split with the items that the model's content has and the split has not, after its own."""
  recipes = {recipe.content: recipe for recipe in model.recipes.values()}
  if not recipes:
    raise ConfigError(
      "config.model reads no content of an item: it has nothing to say of new ones. Models of videos, covers, sound "
      "or titles have, also fused with IDs"
    )
  held = [open_source(content, config.data, recipe.opening()) for content, recipe in recipes.items()]
  new = np.setdiff1d(np.concatenate([np.asarray(source.items) for source in held]), split.item_ids)
  names = split.item_names
  if names is not None:
    # Where ids are texts, an item is known by its own: integers of a release's items stand for nothing here.
    names = functools.reduce(Names.joined, _names_of(held), names)
    new = np.intersect1d(new, names.ids)
  if not len(new):
    raise DataError(f"the content ({', '.join(recipes)}) holds no item that the run did not know")
  return dataclasses.replace(
    split, item_ids=np.concatenate([split.item_ids, new]), item_names=names, num_new=len(new)
  )  # fmt: skip


def _names_of(sources: Iterable[Source]) -> Iterator[Names]:
  """The ids that are texts in the ingested folders among the sources of content."""
  for folder in {source.source for source in sources if ingested.is_ingested(source.source)}:
    names = load_interactions(folder).item_names
    if names is not None:
      yield names


def _item_table(workdir: Workdir, run: TrainingRun, best: Best, params: Any, rest: Any) -> Any:
  """The vectors of all items: kept in the workdir where content had to be encoded for them."""
  model = run.abstract_model()
  kept = workdir.path / _TABLE
  said = {"step": str(best.step), "data": best.data, "ids": IdMap.of(run.split).digest}
  if model.reads and (found := _read_table(kept, said)) is not None:
    return found
  run.prepare()
  # Impressions, which a run may have read beside content, are not kept: theirs comes last.
  if run.split.fingerprint == best.data.partition("-")[0] and not best.data.startswith(run.fingerprint):
    logging.warning("%s: the content is not what the run was trained on: vectors are of what it is now.", workdir)
    said["data"] = run.fingerprint
  table = run.evaluator.item_table(params, rest)
  if model.reads and isinstance(table, jax.Array):
    _write_table(kept, np.asarray(table), said)
  return table


def _read_table(path: pathlib.Path, said: Mapping[str, str]) -> np.ndarray | None:
  """Vectors that were kept for the same parameters, content and items; None where there are none."""
  try:
    arrays, kept = files.read_safetensors(path)
    vectors = arrays["vectors"]
    return vectors if kept == {**said, "digest": _digest(vectors)} else None
  except (OSError, KeyError, ValueError):
    return None


def _write_table(path: pathlib.Path, vectors: np.ndarray, said: Mapping[str, str]) -> None:
  try:
    files.write_safetensors(path, {"vectors": vectors}, {**said, "digest": _digest(vectors)})
  except OSError as error:
    # The workdir may be another's: the next process encodes the items again.
    logging.warning("%s: the items' vectors cannot be kept there (%s).", path, error.strerror or error)


def _digest(vectors: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()[:16]
