"""Opens what a model's item towers read beside ids."""

from collections.abc import Callable
from collections.abc import Mapping

from absl import logging
from ml_collections import ConfigDict
import numpy as np

from mlrec import terminal
from mlrec.config import ConfigError
from mlrec.content import open_source
from mlrec.content import vectors
from mlrec.content.base import Combined
from mlrec.content.base import Content
from mlrec.content.base import Need
from mlrec.content.base import Prefixed
from mlrec.content.base import PRESENT
from mlrec.content.base import present
from mlrec.content.base import Source
from mlrec.content.base import SourceContent
from mlrec.content.vectors import FEATURES
from mlrec.content.vectors import VectorContent
from mlrec.data.splits import Split
from mlrec.machine import usable_cores
from mlrec.models.items.recipe import Recipe
from mlrec.models.recommenders.recommender import Recommender
from mlrec.registry import options_of
from mlrec.train import frozen_vectors


def open_content(
  data: ConfigDict,
  split: Split,
  model: Recommender,
  *,
  sources: Mapping[str, Source] = {},
  interrupt: Callable[[], None] = lambda: None,
) -> Content | None:
  """What `model.reads` names, for the items of `split`; None where that is nothing.

  A name is that of the content, after the path of the tower that reads it where towers are parts of one
  (`title/features`). One that ends in `_present` comes with the array that it is of. Vectors of frozen encoders that
  are not kept yet are computed.

  Args:
    data: `config.data`.
    split: whose items.
    model: the recommender, of which shapes are enough.
    sources: content that is open already, by its name (`frames`), in place of what the config names.
    interrupt: called now and then while vectors are computed; raises to stop it.

  Raises:
    ConfigError: the config does not say where something is.
    DataError: it cannot be read.
  """
  parts: list[Content] = []
  # By content, so that of two towers over the titles one reports which of them are missing.
  missing: dict[str, np.ndarray] = {}
  for name, need in model.reads.items():
    if name.endswith(PRESENT):
      continue
    tower, slash, kind = name.rpartition("/")
    recipe = model.recipes.get(name)
    with options_of("config.model.item" + "".join(f".towers.{name}" for name in filter(None, tower.split("/")))):
      part, lacking = _open(data, split, kind, recipe, need, sources, interrupt)
    parts.append(Prefixed(part, tower + slash) if tower else part)
    if recipe is not None:
      missing[recipe.content] = lacking
  for content, items in missing.items():
    if len(items):
      first = items[0] if split.item_names is None else repr(split.item_names.texts(items[:1])[0])
      logging.warning("%d of %d items have no %s (item %s first).", len(items), split.num_items, content, first)
  return None if not parts else parts[0] if len(parts) == 1 else Combined(parts)


def _open(
  data: ConfigDict,
  split: Split,
  kind: str,
  recipe: Recipe | None,
  need: Need,
  sources: Mapping[str, Source],
  interrupt: Callable[[], None],
) -> tuple[Content, np.ndarray]:
  """An array of items, and the items that lack it."""
  if recipe is None:
    if kind != FEATURES:
      raise TypeError(f"a tower reads {kind!r} and does not say in its `recipes` how")
    found = vectors.load(data, split.item_ids, split.known_ids)
    return VectorContent(found, split.item_ids), found.missing
  source = sources.get(recipe.content) or open_source(recipe.content, data, recipe.opening())
  if kind != FEATURES:
    content = SourceContent(recipe.content, source, split.item_ids, need, recipe.reading())
    return content, content.missing
  present(source, split.item_ids)  # before hours are spent on vectors of other items
  found = frozen_vectors.load_or_make(
    recipe, source, split.item_ids, folder=data.features_dir, say=terminal.tell, interrupt=interrupt
  )
  if found.vectors.shape[1:] != need.shape:
    raise ConfigError(
      f"vectors of the frozen encoder are {found.vectors.shape[1:]}; the item tower expects {need.shape}"
    )
  if data.whiten:
    found = vectors.whitened(found, split.item_ids, split.known_ids)
  return VectorContent(found, split.item_ids), found.missing


def reading_options(content: Content | None, workers: int) -> dict[str, int]:
  """How batches with that content are made ahead (`mlrec.data.pipeline`): media on all cores, or in workers."""
  if content is None or not content.decodes:
    return {"threads": 1}
  return {"workers": workers} if workers else {"threads": usable_cores()}
